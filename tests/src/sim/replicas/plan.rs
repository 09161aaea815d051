//! What a seed is about: its sizes, its pace, and which kinds of trouble it has.
//!
//! A seed leaves out most kinds of trouble and has much of a few (swarm testing, Groce et al. 2012):
//! a bug that needs a slow disk and a lost link is not found where processes also die all the time.
//! Clusters are small, logs short and timeouts of the order of a few round trips, so that a run of
//! seconds has dozens of elections and changes of voters.

use std::time::Duration;

use ironring_core::prng::Prng;
use ironring_ring::controller;
use ironring_ring::replication::Settings;

use super::nemesis::Nemesis;
use super::network::Weather;
use super::node::Clock;
use crate::sim::profile::Trouble;

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;

/// The pace of clients, troubles, and controllers that are not prompt.
pub const TICK_NS: u64 = 5 * MS;

/// Trouble lasts so long at most.
const TROUBLE_NS_MAX: u64 = 8_000 * MS;

/// Everything a seed decides before its run begins.
#[derive(Debug)]
pub struct Plan {
    /// How many nodes.
    pub nodes: usize,
    /// How many partitions.
    pub partitions: usize,
    /// Replicas of each, at first.
    pub rf: u8,
    /// How the replication engine is set.
    pub settings: Settings,
    /// How controllers are set.
    pub patience: controller::Settings,
    /// In so many of 1000 ticks somebody orders an election.
    pub elections: u64,
    /// In so many of 1000 ticks somebody asks a leader to hand over.
    pub handovers: u64,
    /// In so many of 1000 ticks an operator asks for other replicas.
    pub operations: u64,
    /// Each node's clock, and at last that of the metadata group.
    pub clocks: Vec<Clock>,
    /// Most entries in one message.
    pub entries_max: u32,
    /// So many of 1000 messages are handled in one turn with what comes next.
    pub lazy: u64,
    /// How long a group commit takes at most, by node.
    pub flush_ns: Vec<u64>,
    /// How long a commit of metadata takes at most.
    pub commit_ns: u64,
    /// Controllers work as soon as they hear something, not only now and then.
    pub prompt: bool,
    /// In so many of 1000 ticks a controller that was replaced learns it.
    pub retire: u64,
    /// What clients do.
    pub clients: Clients,
    /// How the network is.
    pub weather: Weather,
    /// What goes wrong besides.
    pub nemesis: Nemesis,
    /// What goes wrong with disks and commits.
    pub faults: Faults,
    /// The cluster may grow in peace before there is trouble.
    pub grows_first: bool,
    /// How long there is trouble.
    pub trouble_ns: u64,
}

/// Failures, of 1000 tries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Appends of a follower that are refused.
    pub refused: u64,
    /// Group commits that fail: the process ends.
    pub fsync_fails: u64,
    /// Commits of metadata that do not happen, or are not heard of.
    pub commits_lost: u64,
}

/// How often clients ask whoever leads a partition, of 1000 ticks.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    /// Writes.
    pub writes: u64,
    /// How many at once, at most.
    pub burst: u64,
    /// Reads.
    pub reads: u64,
}

/// Up to `max`: of every order of magnitude about as often.
pub fn any_length(rng: &mut Prng, max: u64) -> u64 {
    let order = rng.below(8);
    rng.below((max >> order).max(1))
}

/// One of them.
pub fn one_of<T: Copy>(rng: &mut Prng, of: &[T]) -> T {
    of[rng.below(of.len() as u64) as usize]
}

/// The rate per 1000 ticks of what happens once in some number of elections; or none, as often.
pub fn every(election_ns: u64, rng: &mut Prng, elections: &[u64]) -> u64 {
    let rate = 1000 * TICK_NS / election_ns;
    if rng.chance(1, 2) { (rate / one_of(rng, elections)).max(1) } else { 0 }
}

/// A rate, or none at all as often.
pub fn rate(rng: &mut Prng, of: &[u64]) -> u64 {
    if rng.chance(1, 2) { one_of(rng, of) } else { 0 }
}

impl Plan {
    /// The plan of one seed.
    pub fn draw(trouble: Trouble, rng: &mut Prng) -> Plan {
        let temper = if trouble == Trouble::Calm { Temper::Wild } else { one_of(rng, &TEMPERS) };
        let nodes = match temper {
            Temper::Duels => one_of(rng, &[3, 3, 3, 4]),
            Temper::Wild | Temper::Changes => one_of(rng, &[2, 3, 3, 3, 3, 4, 4, 5]),
        };
        let partitions = one_of(rng, &[1, 1, 1, 1, 1, 2, 2]);
        let rf = if rng.chance(3, 4) { nodes } else { 1 + rng.below(nodes as u64) as usize };
        let settings = settings(rng);
        let lease_ns = settings.lease.as_nanos() as u64;
        let calm = trouble == Trouble::Calm;
        let commit_ns = one_of(rng, &[MS / 2, MS / 2, 5 * MS, lease_ns / 4, lease_ns]);
        let election_ns = lease_ns + 2 * commit_ns + 10 * MS;
        let mut plan = Plan {
            nodes,
            partitions,
            rf: rf as u8,
            settings,
            patience: patience(rng, settings.lease),
            elections: every(election_ns, rng, &[2, 5, 20]),
            handovers: every(election_ns, rng, &[1, 4, 16]),
            operations: rate(rng, &[2, 10, 50]),
            clocks: clocks(rng, nodes + 1, settings.drift_permille),
            entries_max: one_of(rng, &[1, 2, 8]),
            lazy: rate(rng, &[50, 300]),
            flush_ns: flush_ns(rng, nodes, lease_ns, calm),
            commit_ns,
            prompt: rng.chance(1, 2),
            retire: one_of(rng, &[5, 200]),
            clients: Clients {
                writes: one_of(rng, &[2, 10, 50, 400]),
                burst: one_of(rng, &[1, 4]),
                reads: one_of(rng, &[20, 200]),
            },
            weather: Weather::draw(calm, lease_ns, nodes, rng),
            nemesis: Nemesis::draw(trouble, election_ns, rng),
            faults: Faults {
                refused: if trouble == Trouble::Full { rate(rng, &[30, 200]) } else { 0 },
                fsync_fails: if trouble == Trouble::DiskFaults { rate(rng, &[3, 20]) } else { 0 },
                commits_lost: if calm { 0 } else { rate(rng, &[20, 100]) },
            },
            grows_first: rng.chance(3, 4),
            trouble_ns: (20 * election_ns + rng.below(40 * election_ns)).min(TROUBLE_NS_MAX),
        };
        match temper {
            Temper::Wild => {}
            Temper::Duels => plan.duels(rng),
            Temper::Changes => plan.changes(rng),
        }
        plan
    }

    /// The cluster is whole and fast, but for its leaders.
    fn duels(&mut self, rng: &mut Prng) {
        let lease_ns = self.settings.lease.as_nanos() as u64;
        self.partitions = 1;
        self.rf = self.nodes as u8;
        self.grows_first = true;
        self.settings.replica_timeout = self.settings.heartbeat * one_of(rng, &[8, 30]);
        self.operations = 0;
        self.commit_ns = one_of(rng, &[MS / 2, 5 * MS]);
        if rng.chance(1, 2) {
            self.flush_ns.fill(MS / 10);
        }
        self.weather = Weather::of_duels(lease_ns, self.nodes, rng);
        self.nemesis.duels(lease_ns + 2 * self.commit_ns + 10 * MS, rng);
    }

    /// Voters come and go, and it takes long until a leader knows what was decided.
    fn changes(&mut self, rng: &mut Prng) {
        let lease_ns = self.settings.lease.as_nanos() as u64;
        self.partitions = 1;
        self.settings.replica_timeout = self.settings.heartbeat * one_of(rng, &[3, 3, 8]);
        self.patience.balance_every = Duration::from_millis(10);
        self.patience.rebalance_grace = Duration::ZERO;
        self.operations = one_of(rng, &[20, 60]);
        self.commit_ns = one_of(rng, &[5 * MS, lease_ns / 4, lease_ns]);
        self.nemesis.changes(rng);
    }
}

/// What a seed is mostly about. Faults that are drawn one by one seldom come together; these are
/// what most violations of such protocols are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    /// Anything.
    Wild,
    /// Leaders are cut off, and others are elected before they know.
    Duels,
    /// Changes of voters, while others are under way.
    Changes,
}

const TEMPERS: [Temper; 3] = [Temper::Wild, Temper::Duels, Temper::Changes];

fn settings(rng: &mut Prng) -> Settings {
    let lease = one_of(rng, &[50, 100, 100, 200]);
    let ms = Duration::from_millis;
    let heartbeat = lease / 5;
    Settings {
        lease: ms(lease),
        drift_permille: one_of(rng, &[10, 100, 300]),
        heartbeat: ms(heartbeat),
        replica_timeout: ms(heartbeat * one_of(rng, &[3, 8, 30])),
        replica_lag_max: one_of(rng, &[2, 10, 100]),
        resend_after: ms(heartbeat * one_of(rng, &[2, 10])),
        handover_timeout: ms(one_of(rng, &[lease / 4, lease, 10 * lease])),
    }
}

fn patience(rng: &mut Prng, lease: Duration) -> controller::Settings {
    let ms = Duration::from_millis;
    let leader_timeout = lease * one_of(rng, &[1, 2, 4]);
    controller::Settings {
        leader_timeout,
        session_timeout: leader_timeout * one_of(rng, &[2, 4]),
        rebalance_grace: lease * one_of(rng, &[0, 1, 4]),
        fence_again: ms(one_of(rng, &[10, 50])),
        // Long enough to wait for leases, whatever else is slow.
        election_patience: lease * 2 + ms(200),
        balance_every: ms(one_of(rng, &[10, 30, 200])),
        ..controller::Settings::default()
    }
}

/// The slowest clock and the fastest are as far apart as is promised. One may differ from all
/// others: a leader that believes in its lease longer than everybody else.
fn clocks(rng: &mut Prng, n: usize, drift_permille: u32) -> Vec<Clock> {
    let slow = 1000 - u64::from(drift_permille);
    let usual = one_of(rng, &[[1000, 1000], [1000, 1000], [slow, slow], [1000, slow]]);
    let mut clocks: Vec<Clock> = (0..n)
        .map(|_| Clock { permille: one_of(rng, &usual), begin: rng.below(1 << 40) })
        .collect();
    let other = rng.below(n as u64) as usize;
    clocks[other].permille = if usual[0] == 1000 { slow } else { 1000 };
    clocks
}

/// Most disks are fast; of some clusters one or two are slower than an election.
fn flush_ns(rng: &mut Prng, nodes: usize, lease_ns: u64, calm: bool) -> Vec<u64> {
    let usual = one_of(rng, &[MS / 10, MS / 10, MS, lease_ns / 20]);
    let mut all = vec![usual; nodes];
    if !calm && rng.chance(1, 2) {
        for _ in 0..nodes / 2 {
            let slow = one_of(rng, &[lease_ns / 8, lease_ns / 2, 2 * lease_ns]);
            all[rng.below(nodes as u64) as usize] = slow;
        }
    }
    all
}
