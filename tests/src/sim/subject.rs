//! What the simulator runs: anything that handles events and asks for effects. The shipped shard
//! is one, and so is the log alone.

use std::fmt;

use ironring_core::io::{IoDone, IoOp, IoQueue};
use ironring_core::{Instant, Now, ShardId};

use crate::sim::op::{Op, Outcome, RequestId};

/// Names a connection of one shard; never reused within a run of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub u64);

/// Something happened.
#[derive(Debug)]
pub enum Event<M> {
    /// First event of a life. `format`: an empty directory may be made a new log.
    Start {
        /// Whether an empty directory is a new shard (true) or a loss (false).
        format: bool,
    },
    /// A file operation ended.
    Io(IoDone),
    /// A request arrived on a connection of this shard.
    Request {
        /// The connection.
        conn: Conn,
        /// Its name.
        request: RequestId,
        /// What is asked for.
        op: Op,
    },
    /// A connection is gone.
    Closed(Conn),
    /// Another shard of the node sent something.
    Message(M),
    /// Everything that was ready has been handed over.
    TurnEnd,
    /// The deadline the subject named has passed.
    Timer,
    /// Stop cleanly.
    Stop,
}

/// What the subject wants done.
#[derive(Debug)]
pub struct Effects<M> {
    /// File operations. Lives as long as the process, so that names are not reused.
    pub io: IoQueue,
    /// Answers, in the order they were made.
    pub replies: Vec<(Conn, RequestId, Outcome)>,
    /// Messages to other shards of the node.
    pub messages: Vec<(ShardId, M)>,
}

impl<M> Default for Effects<M> {
    fn default() -> Effects<M> {
        Effects { io: IoQueue::default(), replies: Vec::new(), messages: Vec::new() }
    }
}

/// What ended a life that nobody asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The device failed an operation.
    Device,
    /// What is stored cannot be trusted, and that was noticed.
    Damage,
}

/// Where a subject is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Recovering.
    Opening,
    /// Takes requests.
    Serving,
    /// Stopped cleanly: everything is durable.
    Stopped,
    /// Ended by itself.
    Failed(FailureKind, String),
}

/// A state machine under simulation.
pub trait Subject {
    /// What shards of one node send each other.
    type Message: fmt::Debug;

    /// Handles one event to completion.
    fn handle(&mut self, now: Now, event: Event<Self::Message>, fx: &mut Effects<Self::Message>);

    /// When [`Event::Timer`] is wanted next.
    fn next_deadline(&self) -> Option<Instant>;

    /// Where it is in its life.
    fn phase(&self) -> Phase;

    /// What happened in this life, to be counted over many runs: names and how often.
    fn counted(&self) -> Vec<(String, u64)>;
}

/// Makes the subjects of one node, life after life.
pub trait Node {
    /// What it makes.
    type Subject: Subject;

    /// How many shards the node has.
    fn shards(&self) -> u16;

    /// How many partitions there are; a power of two.
    fn partitions(&self) -> u32;

    /// The shard that owns a partition.
    fn owner(&self, partition: ironring_core::PartitionId) -> ShardId;

    /// Whether an operation writes a commit group: bytes whose loss a later group reveals.
    fn is_group(&self, op: &IoOp) -> bool;

    /// A shard that waits for [`Event::Start`].
    fn make(&self, shard: ShardId) -> Self::Subject;
}
