//! Whole clusters: the shipped shards of several nodes with their disks, the shipped metadata state
//! and controller, a network between them, and clients whose histories are checked.
//!
//! Every node has one shard. The metadata group is one place that never fails, as in
//! [`super::replicas`]; what several controllers at once can do wrong is looked for there, and what
//! lost, doubled and reordered messages can. Here nodes talk over connections: messages keep their
//! order and get lost only with everything behind them.

mod clients;
mod node;
pub mod world;
