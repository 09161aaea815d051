//! A short batch of the simulator with fixed seeds, for every change. `make sim` runs many more.

use ironring_tests::sim::cluster::world::half_filled::half_filled;
use ironring_tests::sim::cluster::world::kept::kept;
use ironring_tests::sim::cluster::world::last_copy::{hurt_leader, last_copy};
use ironring_tests::sim::profile::Trouble;
use ironring_tests::sim::runs::{Target, run};
use ironring_tests::sim::trace::Coverage;
use ironring_tests::sim::world::RECOVERIES;

/// Runs seeds `0..n` of every profile and returns what happened in them.
fn batch(target: Target, n: u64) -> Coverage {
    let mut coverage = Coverage::default();
    for (name, trouble) in Trouble::ALL {
        for seed in 0..n {
            let report = run(target, trouble, seed, false);
            if let Some(why) = report.failure {
                panic!("{target:?}, profile {name}, seed {seed}: {why}");
            }
            coverage.merge(&report.coverage);
        }
    }
    coverage
}

fn assert_covers(coverage: &Coverage, names: &[&str]) {
    for name in names {
        assert!(coverage.count(name) > 0, "`{name}` never happened in this batch");
    }
}

#[test]
fn the_log_alone_survives() {
    let coverage = batch(Target::Log, 30);
    assert_covers(
        &coverage,
        &[
            "power loss",
            "process killed",
            "clean stops",
            RECOVERIES,
            "recovery with a clean tail",
            "recovery with an uncertain tail",
            "recovery from a checkpoint",
            "checkpoints",
            "segments freed",
            "records relocated",
        ],
    );
}

#[test]
fn one_shard_survives() {
    let coverage = batch(Target::Shard, 8);
    assert_covers(&coverage, &["audits", "answer duplicate", "answer condition_failed"]);
}

#[test]
fn replicas_agree() {
    let coverage = batch(Target::Replicas, 8);
    assert_covers(
        &coverage,
        &[
            "commits: elections ended",
            "commits: leaderships transferred",
            "commits: replicas changed",
            "commits: voters proposed",
            "committed entries given up by an operator",
            "controllers replaced",
            "crashes",
            "disks wiped",
            "logs damaged",
            "messages over cut links",
            "messages replayed",
            "pauses",
            "reads confirmed by probes",
            "writes acked",
        ],
    );
}

#[test]
fn clusters_of_shards_keep_what_they_acked() {
    let coverage = batch(Target::Cluster, 3);
    assert_covers(
        &coverage,
        &[
            "crashes",
            "large values written",
            "links cut",
            "pauses",
            "reads answered",
            "stops",
            "writes acked",
        ],
    );
}

#[test]
fn several_shards_survive() {
    let coverage = batch(Target::Node, 5);
    let early = "file operations started early in a turn";
    assert_covers(&coverage, &["audits", "requests forwarded", "connections broken", early]);
}

/// Seeds that once failed, with what they found then. A seed is a run only together with the code
/// that draws from it: every change of what the simulator draws makes another run of it, so most of
/// these would not find the same again. They stay as a fixed set of seeds.
const ONCE_FAILED: [(Target, Trouble, u64, &str); 21] = [
    (Target::Cluster, Trouble::DiskFaults, 20_072, "a leader that was to leave named no voters"),
    (Target::Cluster, Trouble::DiskFaults, 146, "a new controller deposed the last whole copy"),
    (Target::Cluster, Trouble::Corruption, 2052, "a term could not begin before a state was sent"),
    (Target::Cluster, Trouble::DiskFaults, 10_134, "a leader handed over to a voter without a log"),
    (Target::Cluster, Trouble::DiskFaults, 19, "three copies with different damage stayed damaged"),
    (Target::Cluster, Trouble::Full, 116, "followers were sent entries that had been cut off"),
    (Target::Node, Trouble::Crash, 1822, "a session was unknown before shard 0 had told of it"),
    (Target::Node, Trouble::DiskFaults, 592, "a session was unknown before shard 0 had told of it"),
    (Target::Node, Trouble::DiskFaults, 1242, "the same"),
    (Target::Node, Trouble::DiskFaults, 1534, "the same"),
    (Target::Node, Trouble::DiskFaults, 915, "the oracle took a new write for a lost one"),
    (Target::Shard, Trouble::Crash, 2231, "the oracle took a new write for a lost trim"),
    (Target::Node, Trouble::Corruption, 1043, "the oracle forgave a removal by half"),
    (Target::Node, Trouble::Corruption, 1685, "the oracle did not forgive a session's answers"),
    (Target::Node, Trouble::Corruption, 100_968, "the oracle did not forgive a session's grant"),
    (Target::Node, Trouble::Corruption, 104_965, "the oracle did not forgive a topic's creation"),
    (Target::Node, Trouble::Crash, 501_062, "readers were told of a trim that was not durable"),
    (Target::Node, Trouble::DiskFaults, 103_380, "superblock copies in a cache were relied on"),
    (Target::Shard, Trouble::Corruption, 202_004, "a session number was given to two clients"),
    (Target::Log, Trouble::Full, 202_341, "a file given up after its header had been begun"),
    (Target::Replicas, Trouble::Crash, 239, "an old record emptied a restarted replica's log"),
];

#[test]
fn seeds_that_once_failed_pass() {
    for (target, trouble, seed, found) in ONCE_FAILED {
        let report = run(target, trouble, seed, false);
        assert_eq!(report.failure, None, "{target:?} {trouble:?} {seed}, which found: {found}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for (name, trouble) in Trouble::ALL {
        for target in [Target::Log, Target::Node, Target::Replicas, Target::Cluster] {
            let (first, second) =
                (run(target, trouble, 77, false), run(target, trouble, 77, false));
            assert_eq!(first.hash, second.hash, "{target:?}, profile {name}");
            assert_eq!(first.steps, second.steps);
            assert_ne!(first.hash, run(target, trouble, 78, false).hash);
        }
    }
}

/// Whoever reads what is lost hears so, and all else is copied.
#[test]
fn one_bad_record_of_the_last_copy_keeps_no_others_from_being_copied() {
    for seed in 0..6 {
        for again in [false, true] {
            let found = last_copy(seed, again, false);
            assert_eq!(found, Ok(()), "seed {seed}, again: {again}");
        }
    }
}

/// They take no place from those whose state can be sent.
#[test]
fn damaged_partitions_keep_no_others_from_being_sent() {
    let found: Vec<_> = (0..16).map(|seed| hurt_leader(seed, false)).collect();
    assert!(found.iter().all(Result::is_ok), "{found:?}");
    assert!(found.iter().filter(|made| **made == Ok(true)).count() >= 3, "{found:?}");
}

/// However long its state takes: all that was written meanwhile is there for it as entries.
#[test]
fn what_is_overwritten_while_a_state_is_sent_is_kept_for_the_follower() {
    let found: Vec<_> = (0..8).map(|seed| kept(seed, false)).collect();
    assert!(found.iter().all(Result::is_ok), "{found:?}");
    assert!(found.iter().filter(|made| **made == Ok(true)).count() >= 4, "{found:?}");
}

/// What the copy has is older than what is written from then on, whatever offsets it had where it came from.
#[test]
fn a_half_filled_replica_that_an_operator_lets_lead_keeps_what_it_acks() {
    for (behind, restarts) in [(false, false), (false, true), (true, false), (true, true)] {
        let found: Vec<_> = (0..8).map(|seed| half_filled(seed, behind, restarts, false)).collect();
        assert!(found.iter().all(Result::is_ok), "{behind}, {restarts}: {found:?}");
        assert!(found.iter().filter(|made| **made == Ok(true)).count() >= 4, "{found:?}");
    }
}
