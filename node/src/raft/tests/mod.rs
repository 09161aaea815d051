//! The group on the driver's runtimes: openraft's suite for runtimes, and a group in a real
//! directory. Everything else is tested in virtual time, in the tests package.

use std::cell::RefCell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use ironring_core::{Instant, ShardId, StorageUuid};
use ironring_log::Identity;
use openraft::rt::testing::Suite;

use super::host::{self, Host, Local, OnDriver};
use super::store::StoreConfig;
use super::{
    DriverDisk, LinkError, MetaGroup, MetaMachine, Peer, RaftConfig, RaftLink, RaftRuntime, Role,
    StartError, Surroundings,
};
use crate::driver::clock;
use crate::driver::glommio::Glommio;
use crate::driver::monoio::Monoio;
use crate::driver::runtime::{Runtime, Seat};

fn probe_in(dir: &Path) -> PathBuf {
    let probe = dir.join("probe");
    std::fs::write(&probe, vec![1; 4096]).expect("the directory is there");
    probe
}

/// The driver's runtime as the guest of an executor that each run makes.
struct Guest<R: Runtime> {
    driver: RefCell<Option<Rc<OnDriver<R>>>>,
    run: fn(&Guest<R>, Pin<&mut dyn Future<Output = ()>>),
    probe: PathBuf,
}

impl<R: Runtime> Guest<R> {
    fn driver(&self) -> Rc<OnDriver<R>> {
        self.driver.borrow().clone().expect("a run has begun")
    }

    fn begin(&self, runtime: R) {
        *self.driver.borrow_mut() = Some(Rc::new(OnDriver::new(Rc::new(runtime), 11)));
    }
}

impl<R: Runtime> Host for Guest<R> {
    fn spawn(&self, task: Local<'static, ()>) {
        self.driver().spawn(task);
    }

    fn now(&self) -> Instant {
        clock::now().mono
    }

    fn sleep(&self, duration: Duration) -> Local<'static, ()> {
        self.driver().sleep(duration)
    }

    fn random(&self) -> u64 {
        self.driver().random()
    }

    fn block_on(&self, task: Pin<&mut dyn Future<Output = ()>>) {
        (self.run)(self, task);
    }
}

#[test]
fn openraft_runs_on_glommio() {
    let dir = tempfile::tempdir().expect("there is room");
    let run = |guest: &Guest<Glommio>, task: Pin<&mut dyn Future<Output = ()>>| {
        let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("it starts");
        executor.run(async {
            guest.begin(Glommio::new(&guest.probe, true).await.expect("the probe is readable"));
            task.await;
        });
    };
    let probe = probe_in(dir.path());
    host::install(Rc::new(Guest { driver: RefCell::default(), run, probe }));
    Suite::<RaftRuntime>::test_all();
}

#[test]
fn openraft_runs_on_monoio() {
    let run = |guest: &Guest<Monoio>, task: Pin<&mut dyn Future<Output = ()>>| {
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .build()
            .expect("the kernel has io_uring");
        runtime.block_on(async {
            guest.begin(Monoio::new().expect("there are descriptors"));
            task.await;
        });
        // Its descriptors are closed through its ring, so it is never taken down.
        std::mem::forget(runtime);
    };
    host::install(Rc::new(Guest { driver: RefCell::default(), run, probe: PathBuf::new() }));
    Suite::<RaftRuntime>::test_all();
}

/// A state machine that adds up.
#[derive(Default)]
struct Sum(u64);

impl MetaMachine for Sum {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Result<Vec<u8>, String> {
        self.0 += command.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        Ok(self.0.to_le_bytes().to_vec())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0 = u64::from_le_bytes(bytes.try_into().map_err(|_| "not eight bytes")?);
        Ok(())
    }
}

struct Nobody;

impl RaftLink for Nobody {
    fn call(
        &self,
        _to: &Peer,
        _request: Vec<u8>,
        _timeout: Duration,
    ) -> Local<'static, Result<Vec<u8>, LinkError>> {
        Box::pin(async { Err(LinkError::Unreachable("there is nobody else".to_owned())) })
    }
}

async fn start<R: Runtime>(
    runtime: &Rc<R>,
    dir: &Path,
    may_format: bool,
) -> Result<MetaGroup<Sum>, StartError> {
    let identity = Identity { storage: StorageUuid(3), shard: ShardId(0), salt: 7 };
    let mut store = StoreConfig::new(identity, may_format);
    store.log.segment_bytes = 1 << 20;
    let disk = DriverDisk::new(Rc::clone(runtime), dir).expect("there are descriptors");
    let around = Surroundings {
        host: Rc::new(OnDriver::new(Rc::clone(runtime), 5)),
        disk: Rc::new(disk),
        link: Rc::new(Nobody),
    };
    MetaGroup::start(1, &RaftConfig::default(), store, around, Sum::default()).await
}

const WITHIN: Duration = Duration::from_secs(60);

async fn life<R: Runtime>(runtime: Rc<R>, dir: PathBuf) -> Result<(), String> {
    let group = start(&runtime, &dir, true).await.map_err(|e| e.to_string())?;
    group.bootstrap([(1, "a:1".to_owned())].into()).await.map_err(|e| e.to_string())?;
    let mut watch = group.watch();
    while watch.last().leader != Some(1) {
        watch.changed().await.ok_or("stopped")?;
    }
    for i in 1..=20 {
        let sum = group.propose(vec![1], WITHIN).await.map_err(|e| e.to_string())?;
        assert_eq!(sum, u64::to_le_bytes(i));
    }
    group.take_snapshot().await.map_err(|e| e.to_string())?;
    while group.snapshots().is_empty() {
        runtime.sleep(Duration::from_millis(1)).await;
    }
    group.propose(vec![2], WITHIN).await.map_err(|e| e.to_string())?;
    group.shutdown().await.map_err(|e| e.to_string())?;
    let again = start(&runtime, &dir, false).await.map_err(|e| e.to_string())?;
    again.read_barrier(WITHIN).await.or(Ok::<u64, String>(0))?;
    let sum = again.propose(vec![0], WITHIN).await;
    let mut sum = sum.map_err(|e| e.to_string());
    while sum.is_err() && again.status().role != Role::Stopped {
        runtime.sleep(Duration::from_millis(5)).await;
        sum = again.propose(vec![0], WITHIN).await.map_err(|e| e.to_string());
    }
    assert_eq!(sum?, 22u64.to_le_bytes());
    assert_eq!(again.snapshots().len(), 1);
    again.shutdown().await.map_err(|e| e.to_string())
}

fn lives_in_a_real_directory<R: Runtime>() {
    let dir = tempfile::tempdir().expect("there is room");
    let raft = dir.path().join("raft");
    std::fs::create_dir(&raft).expect("there is room");
    let seat = Seat::in_test(dir.path());
    let path = raft.clone();
    let join = R::start(seat, move |runtime: Rc<R>| life(runtime, path)).expect("it starts");
    join().expect("the thread ends").expect("the group works");
    let snapshots = std::fs::read_dir(&raft).expect("it is there");
    let snapshots = snapshots.filter(|entry| {
        let name = entry.as_ref().expect("it is readable").file_name();
        name.to_string_lossy().ends_with(".snap")
    });
    assert_eq!(snapshots.count(), 1);
}

#[test]
fn a_group_lives_in_a_real_directory_on_glommio() {
    lives_in_a_real_directory::<Glommio>();
}

#[test]
fn a_group_lives_in_a_real_directory_on_monoio() {
    lives_in_a_real_directory::<Monoio>();
}
