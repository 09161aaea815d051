//! The store on a simulated disk: openraft's own suites, crashes at every effect, failures.

use std::rc::Rc;
use std::time::Duration;

use ironring_core::{ShardId, StorageUuid};
use ironring_log::Identity;
use ironring_node::raft::host::{self, Host};
use ironring_node::raft::store::{
    Change, LogStore, Payload, PurgeFloor, Store, StoreConfig, StoreError, StoredEntry,
};
use ironring_node::raft::{Ballot, GroupError, LogPoint, RaftConfig, RaftDisk, RaftRuntime, Role};
use ironring_tests::sim::raft::cluster::Cluster;
use ironring_tests::sim::raft::disk::{DiskHandle, NodeDisk};
use ironring_tests::sim::raft::virtual_time::VirtualTime;
use openraft::storage::RaftLogStorage;

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
    let identity = Identity { storage: StorageUuid(7), shard: ShardId(0), salt: 7 };
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

/// What is certain to be in the log, and what may be.
#[derive(Default)]
struct Expected {
    vote: Option<Ballot>,
    asked_vote: Option<Ballot>,
    /// Told to be durable, and not cut off or purged since, as far as that was asked for.
    durable: Vec<StoredEntry>,
    /// Everything that may be there.
    asked: Vec<StoredEntry>,
    /// The first index that was not asked to be purged.
    first: u64,
    reached: Reached,
}

/// How far lives came, to know that the test tests.
#[derive(Debug, Default)]
struct Reached {
    opened: u64,
    voted: u64,
    cut: u64,
    appended: u64,
    purged: u64,
    /// Lives after which more was there than was told, or a change was there in part.
    untold: u64,
}

fn entry(term: u64, index: u64, len: usize) -> StoredEntry {
    let payload = Payload::Command(vec![(term ^ index) as u8; len].into());
    StoredEntry { at: LogPoint { term, index }, payload }
}

impl Expected {
    /// The log holds the vote and every entry that was told, and nothing that was never asked for.
    fn check(&mut self, vote: Option<Ballot>, have: Vec<StoredEntry>) {
        assert!(vote == self.vote || vote == self.asked_vote, "{vote:?} is there");
        for told in self.durable.iter().filter(|entry| entry.at.index >= self.first) {
            assert!(have.contains(told), "{} was told to be durable and is gone", told.at);
        }
        for found in &have {
            assert!(self.asked.contains(found), "{} was never asked for", found.at);
        }
        self.reached.untold += u64::from(vote != self.vote || have.len() != self.durable.len());
        (self.vote, self.asked_vote) = (vote, vote);
        self.durable.clone_from(&have);
        self.asked = have;
    }
}

/// Changes made by one life; `None`: power failed first.
async fn step(
    time: &VirtualTime,
    disk: &Rc<NodeDisk>,
    store: &Store,
    change: Change,
) -> Option<()> {
    let store = store.clone();
    let append = async move { store.append_durable(vec![change]).await.expect("it works") };
    let failed = async {
        disk.power_failed().await;
        None
    };
    futures_lite::future::or(time.run_in(1, append), failed).await
}

/// A vote, the last entries cut off again, new ones of the next term, the oldest purged: each told
/// to be durable before the next. Power fails somewhere; what is left is checked by the next life.
async fn life(
    time: &VirtualTime,
    disk: &Rc<NodeDisk>,
    term: u64,
    expected: &mut Expected,
) -> Option<()> {
    let store = open(time, disk).await?.expect("a crash damages nothing");
    let (vote, have) = store.with(|state| {
        assert_eq!(state.check(), Ok(()));
        (state.vote(), state.range(..).cloned().collect::<Vec<_>>())
    });
    expected.check(vote, have);
    expected.reached.opened += 1;

    let ballot = Ballot { term, node: 1, elected: true };
    expected.asked_vote = Some(ballot);
    step(time, disk, &store, Change::Vote(ballot)).await?;
    expected.vote = Some(ballot);
    expected.reached.voted += 1;

    let last = expected.asked.last().map(|entry| entry.at.index);
    let mut next = last.map_or(expected.first, |last| last + 1);
    if term.is_multiple_of(3) && next >= expected.first + 4 {
        next -= 3;
        // On the way either may be there; told, the old ones may not.
        expected.durable.retain(|entry| entry.at.index < next);
        step(time, disk, &store, Change::Truncate(next)).await?;
        expected.asked.retain(|entry| entry.at.index < next);
        expected.reached.cut += 1;
    }
    for (i, index) in (next..next + 12).enumerate() {
        let new = entry(term, index, 100 + 9000 * (i % 3));
        expected.asked.push(new.clone());
        step(time, disk, &store, Change::Entry(new.clone())).await?;
        expected.durable.push(new);
        expected.reached.appended += 1;
    }
    if next > expected.first + 15 {
        let upto = next - 15;
        let at = expected.asked.iter().find(|entry| entry.at.index == upto).expect("it is kept").at;
        expected.first = upto + 1;
        step(time, disk, &store, Change::Purge(at)).await?;
        let kept = |entry: &StoredEntry| entry.at.index > upto;
        expected.asked.retain(kept);
        expected.durable.retain(kept);
        expected.reached.purged += 1;
    }
    // What is left to do in the background may end first: then power fails while nothing is done.
    futures_lite::future::or(disk.power_failed(), time.pass(ms(200))).await;
    Some(())
}

#[test]
fn power_may_fail_at_any_effect() {
    let time = VirtualTime::new(99);
    host::install(Rc::new(time.clone()));
    time.run(async {
        let mut untold = 0;
        for seed in 0..4 {
            let disk = NodeDisk::new(time.clone(), seed);
            let mut expected = Expected::default();
            // A few effects of formatting, then each of those a life has; as often as not power
            // fails while the life is at work. 31 and 3 have nothing in common, so every effect
            // meets every kind of life.
            let formatting = [1, 2, 3, 5, 20, 100];
            let lives = (0..5).flat_map(|_| 1..=31);
            for (term, at) in (1..).zip(formatting.into_iter().chain(lives)) {
                disk.fail_power_at(at);
                life(&time, &disk, term, &mut expected).await;
                time.kill(1);
                disk.power_loss();
                assert_eq!(disk.misuse(), Vec::<String>::new());
            }
            let reached = &expected.reached;
            println!("seed {seed}: {reached:?}");
            assert!(reached.opened > 60 && reached.voted > 60, "{reached:?}");
            assert!(reached.cut > 5 && reached.purged > 5, "{reached:?}");
            assert!(reached.appended > 300, "{reached:?}");
            untold += reached.untold;
        }
        // Rare: a write in flight counts only when every sector of it reached the disk.
        assert!(untold > 0, "no change was ever there that was not told");
    });
}

/// A snapshot may be installed next, in a file of its own: with entries behind it that conflict the log
/// would not be opened again.
#[test]
fn what_is_cut_off_is_gone_when_that_is_told() {
    let time = VirtualTime::new(7);
    host::install(Rc::new(time.clone()));
    time.run(async {
        for seed in 0..20 {
            let disk = NodeDisk::new(time.clone(), seed);
            let opened = async || open(&time, &disk).await.expect("power is there");
            let store = opened().await.expect("nothing is damaged");
            for index in 1..=5 {
                let change = Change::Entry(entry(1, index, 100));
                step(&time, &disk, &store, change).await.expect("power is there");
            }
            let mut log = LogStore::new(store, PurgeFloor::default(), 64);
            let last = LogPoint { term: 1, index: 2 };
            let cut = async move { log.truncate_after(Some(last.into())).await.expect("it works") };
            time.run_in(1, cut).await;
            time.kill(1);
            disk.power_loss();
            let store = opened().await.expect("a crash damages nothing");
            assert_eq!(store.with(|state| state.last()), Some(last), "seed {seed}");
            time.kill(1);
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
    use ironring_node::raft::store::{Floor, LogStore};
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
            let floor = Rc::new(Cell::new(Floor { index: Some(u64::MAX), ..Floor::default() }));
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
