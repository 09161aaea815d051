//! How large a world is searched.

use super::state::{Node, Term, Uuids};

/// A lease, in units of a clock. A fast clock makes [`FAST`] units per tick, a slow one [`SLOW`]:
/// the two rates and the leader's margin are exactly at the edge of the promised drift, so that one
/// unit less of margin would be too little.
pub const LEASE: u8 = 6;
/// What a leader counts of it: lease x (1 - drift).
pub const LEASE_OF_LEADER: u8 = LEASE * SLOW / FAST;
/// Units per tick of the fastest clock.
pub const FAST: u8 = 3;
/// Units per tick of the slowest clock.
pub const SLOW: u8 = 2;

/// Whom and how often.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How many nodes there are.
    pub nodes: Node,
    /// V at the beginning. The other nodes are learners.
    pub voters: Uuids,
    /// The last term.
    pub terms: Term,
    /// The first session's last sequence.
    pub writes: u8,
    /// The second session's.
    pub second_writes: u8,
    /// How often the first session expires: once at most.
    pub expiries: u8,
    /// Crashes, of all nodes together.
    pub crashes: u8,
    /// Disks wiped.
    pub wipes: u8,
    /// Logs damaged in the middle.
    pub damages: u8,
    /// Proposals of voters.
    pub proposals: u8,
    /// Proposals that metadata refuses although it could accept them.
    pub refusals: u8,
    /// Handovers.
    pub transfers: u8,
    /// Rounds of probes.
    pub rounds: u8,
    /// Reads that wait for a round of probes.
    pub reads: u8,
    /// Steps of time. Without any there are no leases.
    pub ticks: u8,
    /// Committed drops.
    pub drops: u8,
    /// Compactions, of all nodes together.
    pub compactions: u8,
    /// Snapshots sent.
    pub snapshots: u8,
    /// Units per tick of each node's clock.
    pub rates: Vec<u8>,
    /// Units per tick of the controller's clock.
    pub controller_rate: u8,
    /// Whether a leader sends every part of its log, or only all of it and all behind the acked end.
    pub every_part: bool,
    /// Whether Fence and its answers may be late, and a controller lives on beside its successor.
    pub late_fences: bool,
    /// Whether the winner of an election with fewer answers than a commit needs may become the only voter.
    pub alone: bool,
    /// Whether a proposal may exchange a voter for another in one step.
    pub exchanges: bool,
    /// Learners that a leader sends to; voters always get everything.
    pub taught: Uuids,
}

impl Bounds {
    /// `voters` of `nodes` nodes, two terms, and nothing else that happens.
    pub fn quiet(nodes: Node, voters: &[u8]) -> Self {
        Bounds {
            nodes,
            voters: Uuids::of(voters),
            terms: 2,
            writes: 1,
            second_writes: 0,
            expiries: 0,
            crashes: 0,
            wipes: 0,
            damages: 0,
            proposals: 0,
            refusals: 0,
            transfers: 0,
            rounds: 0,
            reads: 0,
            ticks: 0,
            drops: 0,
            compactions: 0,
            snapshots: 0,
            rates: vec![SLOW; usize::from(nodes)],
            controller_rate: SLOW,
            every_part: false,
            late_fences: false,
            alone: false,
            exchanges: false,
            taught: Uuids(u16::MAX),
        }
    }

    /// Whether time passes, and with it leases.
    pub fn leases(&self) -> bool {
        self.ticks > 0
    }

    /// Sets the bound of this name, unless there is none.
    pub fn set(&mut self, name: &str, value: u8) -> bool {
        let bound = match name {
            "terms" => &mut self.terms,
            "writes" => &mut self.writes,
            "crashes" => &mut self.crashes,
            "wipes" => &mut self.wipes,
            "damages" => &mut self.damages,
            "proposals" => &mut self.proposals,
            "refusals" => &mut self.refusals,
            "transfers" => &mut self.transfers,
            "rounds" => &mut self.rounds,
            "reads" => &mut self.reads,
            "ticks" => &mut self.ticks,
            "drops" => &mut self.drops,
            "second-writes" => &mut self.second_writes,
            "expiries" => &mut self.expiries,
            "compactions" => &mut self.compactions,
            "snapshots" => &mut self.snapshots,
            _ => return false,
        };
        *bound = value;
        true
    }
}
