//! The store on a simulated disk: openraft's own suites, crashes at every effect, failures.

use std::rc::Rc;
use std::time::Duration;

use ironring_core::{ShardId, StorageUuid};
use ironring_log::Identity;
use ironring_node::raft::host::{self, Host};
use ironring_node::raft::store::{Change, Payload, Store, StoreConfig, StoreError, StoredEntry};
use ironring_node::raft::{Ballot, GroupError, LogPoint, RaftConfig, RaftDisk, RaftRuntime, Role};
use ironring_tests::sim::raft::cluster::Cluster;
use ironring_tests::sim::raft::disk::{DiskHandle, NodeDisk};
use ironring_tests::sim::raft::virtual_time::VirtualTime;

use super::{ms, with_seeds};

#[test]
fn openraft_runs_on_virtual_time() {
    let time = VirtualTime::new(1);
    host::install(Rc::new(time.clone()));
    openraft::rt::testing::Suite::<RaftRuntime>::test_all();
    // The suite's waits are virtual.
    assert!(time.elapsed() > Duration::ZERO);
}

fn config() -> StoreConfig {
    let identity = Identity { storage: StorageUuid(7), shard: ShardId(0) };
    let mut config = StoreConfig::new(identity, true);
    config.log.segment_bytes = 1 << 20;
    config.log.checkpoint_interval_bytes = 256 << 10;
    config
}

async fn open(time: &VirtualTime, disk: &Rc<NodeDisk>) -> Option<Result<Store, StoreError>> {
    let handle: Rc<dyn RaftDisk> = Rc::new(DiskHandle(Rc::clone(disk)));
    let host: Rc<dyn Host> = Rc::new(time.clone());
    let opening = time.run_in(1, Store::open(handle, host, config()));
    let failed = async {
        disk.power_failed().await;
        None
    };
    futures_lite::future::or(opening, failed).await
}

/// What is certain to be in the log: told as durable. What may be: asked for.
#[derive(Default)]
struct Expected {
    vote: Option<Ballot>,
    asked_vote: Option<Ballot>,
    durable: Vec<StoredEntry>,
    asked: Vec<StoredEntry>,
    purged: u64,
}

fn entry(term: u64, index: u64, len: usize) -> StoredEntry {
    let payload = Payload::Command(vec![(term ^ index) as u8; len].into());
    StoredEntry { at: LogPoint { term, index }, payload }
}

/// Entries of one term, some cut off again and written anew in the next, votes between them; power
/// fails at one effect. After each failure the log holds the last vote and every entry that was
/// told to be durable, and nothing that was never asked for.
async fn life(time: &VirtualTime, disk: &Rc<NodeDisk>, term: u64, expected: &mut Expected) {
    let Some(opened) = open(time, disk).await else { return };
    let store = opened.expect("a crash damages nothing");
    store.with(|state| {
        assert_eq!(state.check(), Ok(()));
        let vote = state.vote();
        assert!(vote == expected.vote || vote == expected.asked_vote, "{vote:?}");
        let have: Vec<StoredEntry> = state.range(..).cloned().collect();
        let from = |all: &[StoredEntry]| -> Vec<StoredEntry> {
            let first = have.first().map_or(u64::MAX, |entry| entry.at.index);
            all.iter().filter(|entry| entry.at.index >= first).cloned().collect()
        };
        let durable = from(&expected.durable);
        let asked = from(&expected.asked);
        let is_prefix = |a: &[StoredEntry], b: &[StoredEntry]| b.starts_with(a);
        assert!(
            is_prefix(&durable, &have) || is_prefix(&have, &asked),
            "durable entries are missing: {} of {}",
            have.len(),
            durable.len()
        );
        assert!(have.first().is_none_or(|first| first.at.index <= expected.purged));
        expected.durable.clone_from(&have);
        expected.asked = have;
        expected.vote = vote;
        expected.asked_vote = vote;
    });
    let ballot = Ballot { term, node: 1, elected: true };
    expected.asked_vote = Some(ballot);
    let step = |changes: Vec<Change>| {
        let store = store.clone();
        async move {
            let appending = time
                .run_in(1, async move { store.append_durable(changes).await.expect("it works") });
            let failed = async {
                disk.power_failed().await;
                None
            };
            futures_lite::future::or(appending, failed).await
        }
    };
    if step(vec![Change::Vote(ballot)]).await.is_none() {
        return;
    }
    expected.vote = Some(ballot);
    let next = expected.asked.last().map_or(expected.purged, |entry| entry.at.index + 1);
    for (i, index) in (next..next + 12).enumerate() {
        let new = entry(term, index, 100 + 9000 * (i % 3));
        expected.asked.push(new.clone());
        if step(vec![Change::Entry(new.clone())]).await.is_none() {
            return;
        }
        expected.durable.clone_from(&expected.asked);
    }
    if next > 20 {
        let upto = expected.asked.iter().find(|entry| entry.at.index == next - 15);
        let upto = upto.expect("fifteen entries are kept").at;
        expected.purged = upto.index + 1;
        if step(vec![Change::Purge(upto)]).await.is_none() {
            return;
        }
    }
    disk.power_failed().await;
}

#[test]
fn power_may_fail_at_any_effect() {
    let time = VirtualTime::new(99);
    host::install(Rc::new(time.clone()));
    time.run(async {
        for seed in 0..2 {
            let disk = NodeDisk::new(time.clone(), seed);
            let mut expected = Expected::default();
            let mut term = 1;
            // A few effects of formatting, then the first ones of lives that go on.
            let formatting = [1, 2, 3, 5, 20, 100];
            for at in formatting.into_iter().chain((1 + seed..60).step_by(2)) {
                disk.fail_power_at(at);
                life(&time, &disk, term, &mut expected).await;
                time.kill(1);
                disk.power_loss();
                assert_eq!(disk.misuse(), Vec::<String>::new());
                term += 1;
            }
            assert!(expected.durable.len() > 10, "the log grew");
        }
    });
}

#[test]
fn a_failed_disk_ends_the_group_on_that_node_only() {
    with_seeds(6, RaftConfig::default(), async |c: &Cluster| {
        c.form(&[1, 2, 3]).await;
        let mut commands = vec![c.propose(8).await];
        let leader = c.elected().await;
        c.disk(leader).break_down();
        let last = c.group(leader).propose(vec![7; 8], ms(500)).await;
        assert!(matches!(last, Err(GroupError::Unknown | GroupError::Stopped(_))), "{last:?}");
        c.expect("its end", |c| c.group(leader).status().role == Role::Stopped).await;
        let status = c.group(leader).status();
        assert!(status.failure.expect("it tells why").contains("input/output error"));
        commands.push(c.propose(8).await);
        c.crash(leader);
        c.start(leader).await;
        c.agree(&commands).await;
    });
}

mod suite {
    //! openraft's suite for stores.

    use std::cell::Cell;

    use ironring_node::raft::snapshot::Snapshots;
    use ironring_node::raft::store::LogStore;
    use ironring_node::raft::{Machine, Types};
    use ironring_tests::sim::raft::cluster::Journal;
    use openraft::StorageError;
    use openraft::testing::log::{StoreBuilder, Suite};

    use super::*;

    struct Builder;

    thread_local! {
        static TIME: VirtualTime = VirtualTime::new(5);
        static BUILT: Cell<u64> = const { Cell::new(0) };
    }

    impl StoreBuilder<Types, LogStore, Machine<Journal>> for Builder {
        async fn build(&self) -> Result<((), LogStore, Machine<Journal>), StorageError<Types>> {
            let time = TIME.with(Clone::clone);
            let number = BUILT.with(|built| built.replace(built.get() + 1));
            let disk = NodeDisk::new(time.clone(), number);
            let handle: Rc<dyn RaftDisk> = Rc::new(DiskHandle(disk));
            let snapshots = Snapshots::open(Rc::clone(&handle), 3).await.expect("it is empty");
            let store = Store::open(handle, Rc::new(time), config()).await.expect("it is empty");
            // The suite expects that entries go without a snapshot.
            let floor = Rc::new(Cell::new(Some(u64::MAX)));
            let log = LogStore::new(store.clone(), floor, 3);
            Ok(((), log, Machine::new(Journal::default(), Rc::new(snapshots), store)))
        }
    }

    #[test]
    fn openraft_accepts_the_store() {
        let time = TIME.with(Clone::clone);
        host::install(Rc::new(time.clone()));
        time.run(async {
            let done = Suite::test_all(Builder).await;
            let part = BUILT.with(Cell::get);
            done.unwrap_or_else(|error| panic!("part {part} of the suite: {error}"));
        });
        assert!(BUILT.with(Cell::get) > 30);
    }
}
