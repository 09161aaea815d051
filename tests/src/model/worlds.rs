//! The worlds in which the protocol with all of its rules is searched.

use super::bounds::{Bounds, FAST, SLOW};

/// A world by its name.
#[derive(Clone, Debug)]
pub struct World {
    /// As the program `model` takes it.
    pub name: &'static str,
    /// How large it is.
    pub bounds: Bounds,
}

fn world(name: &'static str, bounds: Bounds) -> World {
    World { name, bounds }
}

/// Worlds that are seen to the end in every run of the tests.
pub fn small() -> Vec<World> {
    let one = Bounds::quiet(1, &[0]);
    let two = Bounds::quiet(2, &[0, 1]);
    let two_silent = Bounds { writes: 0, ..two.clone() };
    let three = Bounds { writes: 0, ..Bounds::quiet(3, &[0, 1, 2]) };
    let learner = Bounds { terms: 1, ..Bounds::quiet(2, &[0]) };
    let rates = vec![SLOW, FAST];
    vec![
        world("1-voter-crash", Bounds { crashes: 2, terms: 3, writes: 2, ..one.clone() }),
        world(
            "1-voter-lease-crash",
            Bounds { rounds: 1, ticks: 2, crashes: 2, terms: 3, writes: 1, ..one },
        ),
        world("2-voters", two_silent.clone()),
        world("2-voters-1-write", two.clone()),
        world("2-voters-grow", Bounds { proposals: 1, ..learner.clone() }),
        world("2-voters-shrink", Bounds { proposals: 1, terms: 1, ..two_silent.clone() }),
        world("2-voters-transfer", Bounds { transfers: 1, ..two_silent.clone() }),
        world("2-voters-reads", Bounds { reads: 1, rounds: 1, ..two_silent.clone() }),
        world("2-voters-wipe", Bounds { wipes: 1, terms: 1, ..two.clone() }),
        world("2-voters-damage", Bounds { damages: 1, ..two_silent.clone() }),
        world("2-voters-lease", Bounds { rounds: 1, ticks: 2, rates, ..two_silent.clone() }),
        world("2-voters-late-fences", Bounds { late_fences: true, ..two_silent.clone() }),
        world("2-voters-alone", Bounds { alone: true, ..two.clone() }),
        world("2-voters-change-crash", Bounds { proposals: 1, crashes: 1, ..two_silent.clone() }),
        world("2-voters-transfer-crash", Bounds { transfers: 1, crashes: 1, ..two_silent }),
        world("2-voters-expiry", Bounds { expiries: 1, terms: 1, ..two }),
        world("2-nodes-drop", Bounds { drops: 1, proposals: 1, writes: 0, ..learner.clone() }),
        world("2-nodes-snapshot", Bounds { snapshots: 1, compactions: 1, ..learner }),
        world("3-voters", three),
    ]
}

/// Those of them whose states can be counted twice over in a moment.
pub fn tiny() -> Vec<World> {
    let larger = [
        "1-voter-lease-crash",
        "2-voters-1-write",
        "2-voters-reads",
        "2-voters-change-crash",
        "2-voters-transfer-crash",
        "3-voters",
    ];
    small().into_iter().filter(|world| !larger.contains(&world.name)).collect()
}

/// Worlds that take up to some minutes to see to the end.
pub fn medium() -> Vec<World> {
    let mut worlds = two_nodes();
    worlds.extend(two_nodes_with_leases());
    worlds.extend(three_nodes_and_more());
    worlds
}

fn two_nodes() -> Vec<World> {
    let two = Bounds::quiet(2, &[0, 1]);
    let silent = Bounds { writes: 0, ..two.clone() };
    let learner = Bounds { snapshots: 1, compactions: 1, ..Bounds::quiet(2, &[0]) };
    let moves = Bounds { writes: 0, proposals: 2, transfers: 1, drops: 1, ..learner.clone() };
    let sessions = Bounds { second_writes: 1, expiries: 1, ..two.clone() };
    let damage = Bounds { damages: 1, crashes: 1, snapshots: 1, compactions: 1, ..silent.clone() };
    let late = Bounds { late_fences: true, terms: 3, ..silent.clone() };
    vec![
        world("2-voters-2-writes", Bounds { writes: 2, ..two.clone() }),
        world("2-voters-every-part", Bounds { every_part: true, ..silent.clone() }),
        world("2-voters-crash", Bounds { crashes: 1, ..two.clone() }),
        world("2-voters-3-terms", Bounds { terms: 3, ..two }),
        world("2-voters-alone-crash", Bounds { alone: true, crashes: 1, ..silent.clone() }),
        world(
            "2-voters-alone-change",
            Bounds { alone: true, proposals: 1, terms: 3, ..silent.clone() },
        ),
        world("2-voters-change-wipe", Bounds { proposals: 1, wipes: 1, ..silent }),
        world("2-voters-sessions", Bounds { terms: 1, ..sessions.clone() }),
        world("2-voters-sessions-2-terms", sessions),
        world("2-voters-late-fences-3-terms", late),
        world("2-voters-damage-snapshot", damage),
        world("2-nodes-snapshot-crash", Bounds { crashes: 1, terms: 1, ..learner }),
        // A partition of one replica that moves: learner, voter, leader, and the source is dropped.
        world("2-nodes-move", moves.clone()),
        world("2-nodes-move-crash", Bounds { crashes: 1, ..moves.clone() }),
        world("2-nodes-move-damage", Bounds { damages: 1, ..moves.clone() }),
        world("2-nodes-move-wipe", Bounds { wipes: 1, ..moves }),
    ]
}

fn two_nodes_with_leases() -> Vec<World> {
    let rates = vec![SLOW, FAST];
    let short = Bounds { rounds: 1, ticks: 2, writes: 0, rates, ..Bounds::quiet(2, &[0, 1]) };
    let lease = Bounds { rounds: 2, ticks: 3, ..short.clone() };
    let three_terms = Bounds { terms: 3, ..lease.clone() };
    let alone = Bounds { alone: true, ..lease.clone() };
    let handed_over = Bounds { transfers: 1, crashes: 1, terms: 3, ..short };
    vec![
        world("2-voters-lease-crash", Bounds { crashes: 1, ..lease.clone() }),
        world("2-voters-lease-change", Bounds { proposals: 1, ..lease }),
        world("2-voters-lease-crash-3-terms", Bounds { crashes: 1, ..three_terms.clone() }),
        world("2-voters-lease-transfer-3-terms", Bounds { transfers: 1, ..three_terms }),
        world("2-voters-lease-transfer-crash", handed_over),
        world("2-voters-lease-alone", alone),
    ]
}

fn three_nodes_and_more() -> Vec<World> {
    let three = Bounds::quiet(3, &[0, 1, 2]);
    let silent = Bounds { writes: 0, ..three.clone() };
    let four = Bounds { writes: 0, ..Bounds::quiet(4, &[0, 1, 2, 3]) };
    let four_nodes = Bounds { writes: 0, ..Bounds::quiet(4, &[0, 1, 2]) };
    vec![
        world("3-voters-crash", Bounds { crashes: 1, ..silent.clone() }),
        world("3-voters-transfer", Bounds { transfers: 1, ..silent.clone() }),
        world("3-voters-change", Bounds { proposals: 1, ..silent.clone() }),
        world("3-voters-late-fences", Bounds { late_fences: true, ..silent.clone() }),
        world("3-voters-lease", Bounds { rounds: 1, ticks: 2, ..silent.clone() }),
        world("3-voters-snapshot", Bounds { snapshots: 1, crashes: 1, ..silent.clone() }),
        world("3-voters-compaction", Bounds { snapshots: 1, compactions: 1, ..silent.clone() }),
        world("3-voters-1-write", three),
        world("3-voters-3-terms", Bounds { terms: 3, ..silent.clone() }),
        world("3-voters-change-crash", Bounds { proposals: 1, crashes: 1, ..silent.clone() }),
        world("3-voters-transfer-crash", Bounds { transfers: 1, crashes: 1, ..silent }),
        world("4-voters", four),
        world("3-of-4-move", Bounds { proposals: 2, drops: 1, terms: 1, ..four_nodes }),
    ]
}

/// Worlds that are only walked in, at random.
pub fn large() -> Vec<World> {
    let everything = |nodes, voters: &[u8]| Bounds {
        terms: 5,
        writes: 3,
        second_writes: 2,
        expiries: 1,
        crashes: 3,
        wipes: 1,
        damages: 1,
        proposals: 3,
        refusals: 1,
        transfers: 2,
        rounds: 3,
        reads: 2,
        ticks: 6,
        drops: 1,
        compactions: 3,
        snapshots: 3,
        late_fences: true,
        rates: [SLOW, FAST].into_iter().cycle().take(usize::from(nodes)).collect(),
        controller_rate: FAST,
        every_part: true,
        exchanges: true,
        ..Bounds::quiet(nodes, voters)
    };
    let calm = |nodes, voters: &[u8]| Bounds {
        terms: 3,
        writes: 3,
        crashes: 1,
        proposals: 2,
        compactions: 1,
        snapshots: 2,
        reads: 1,
        rounds: 1,
        ..Bounds::quiet(nodes, voters)
    };
    vec![
        world("3-voters-everything", everything(3, &[0, 1, 2])),
        world("4-voters-everything", everything(4, &[0, 1, 2, 3])),
        world("5-voters-everything", everything(5, &[0, 1, 2, 3, 4])),
        world("3-of-5-everything", everything(5, &[0, 1, 2])),
        world("3-voters-calm", calm(3, &[0, 1, 2])),
        world("4-voters-calm", calm(4, &[0, 1, 2, 3])),
        world("5-voters-calm", calm(5, &[0, 1, 2, 3, 4])),
        world("3-of-4-calm", calm(4, &[0, 1, 2])),
    ]
}

/// The world of this name.
pub fn named(name: &str) -> Option<World> {
    small().into_iter().chain(medium()).chain(large()).find(|world| world.name == name)
}
