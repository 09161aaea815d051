//! Which nodes should hold a partition, and which moves lead there from the map there is.
//!
//! The committed map is authoritative and everything here only proposes. A new cluster takes
//! [`Ring::propose`]; from then on [`plan()`] starts from the actual map and moves what has a reason
//! to move, never because the ring would have chosen otherwise.
//!
//! - [`tokens`](vnode_token): a node's claims on the ring (persistent recipe, golden vectors).
//! - [`Topology`]: the nodes, their weights, racks, regions and states.
//! - [`Ring`]: the clockwise walk with spread, shares of nodes, the first map.
//! - [`plan()`]: moves that repair and balance, with figures before and after.
//! - [`choose_leaders`]: leaders as even as the replicas allow, with the fewest changes.
//! - [`Pace`], [`Progress`]: how fast moves may go, and when they will be done.
//!
//! Invariants: a result depends on its arguments alone, never on the order in which nodes are
//! given; a partition's nodes are distinct; nothing here removes a copy for which there are not
//! enough others.

mod assignment;
mod balance;
mod leaders;
mod pace;
mod plan;
mod repair;
mod ring;
mod skew;
mod spread;
mod targets;
mod tokens;
mod topology;

#[cfg(test)]
mod tests;

pub use leaders::{LeaderChoice, choose_leaders};
pub use pace::{Pace, PaceMode, Progress, ProgressReport};
pub use plan::{
    Change, ChangeError, Move, PartitionState, Plan, PlanError, PlanRules, Reason, check, plan,
};
pub use ring::{Ring, partition_start};
pub use skew::{NodeLoad, Skew};
pub use spread::SpreadCost;
pub use targets::fair_shares;
pub use tokens::{
    PLACEMENT_VERSION, VNODES_PER_NODE, Weight, WeightError, vnode_token, vnode_tokens,
};
pub use topology::{MAX_NODES, Node, NodeState, Topology, TopologyError};
