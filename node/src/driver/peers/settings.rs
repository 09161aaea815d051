//! Who this node is, whom it may dial, and how long things may take.

use std::net::SocketAddr;
use std::time::Duration;

use ironring_core::{Incarnation, NodeId, StorageUuid, WallTime};
use ironring_net::peer::hello::{ClusterUuid, Identity};

use super::{OUTPUT_BYTES_MAX, WINDOW_BYTES};

/// This node, as it tells others.
#[derive(Clone, Debug)]
pub struct Local {
    /// The cluster's name, 1 to 255 bytes.
    pub cluster_name: String,
    /// The cluster, or [`ClusterUuid::NONE`] before it joined one.
    pub cluster: ClusterUuid,
    /// Its id; not 0.
    pub node: NodeId,
    /// Its name, 1 to 255 bytes.
    pub node_name: String,
    /// Its data directory.
    pub storage: StorageUuid,
    /// The run of its process.
    pub incarnation: Incarnation,
    /// Its shards.
    pub shard_count: u16,
    /// Lets it join; empty when it is a member.
    pub token: Vec<u8>,
    /// The mark of its data directory, by which it is told from a copy; 0: none.
    pub mark: u64,
}

impl Local {
    /// The same for a handshake at `wall`.
    #[must_use]
    pub fn identity(&self, wall: WallTime) -> Identity<'_> {
        Identity {
            cluster_name: &self.cluster_name,
            cluster: self.cluster,
            node: self.node,
            node_name: &self.node_name,
            storage: self.storage,
            incarnation: self.incarnation,
            shard_count: self.shard_count,
            wall,
            features: 0,
        }
    }
}

/// A node that may be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTarget {
    /// Its id. 0: whoever listens there, for a node that does not yet know whom it joins by.
    pub node: NodeId,
    /// Where its node plane listens.
    pub address: SocketAddr,
    /// Its shards.
    pub shard_count: u16,
}

/// Everybody that may be dialled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTargets {
    /// The cluster they are of, as it is said in handshakes from here on.
    pub cluster: ClusterUuid,
    /// The nodes, each once, without this one.
    pub nodes: Vec<PeerTarget>,
}

/// How long and how much.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// How long a connection may take from its beginning to the end of its handshake.
    pub handshake_timeout: Duration,
    /// Wait before dialling again after the first failure.
    pub backoff_min: Duration,
    /// Longest wait, to which the first doubles.
    pub backoff_max: Duration,
    /// Wait after a handshake was refused: somebody has to do something first, most likely.
    pub refused_retry: Duration,
    /// A connection that held so long makes the next failure the first.
    pub stable_after: Duration,
    /// How much the wall clocks of two nodes may differ, in milliseconds.
    pub clock_skew_max_ms: u64,
    /// Payload bytes a peer may send that the owner is not yet done with. A payload longer than this
    /// never comes.
    pub window_bytes: u64,
    /// Bytes that may wait to be written on one connection; one frame goes beyond.
    pub output_bytes_max: usize,
}

impl Default for PeerSettings {
    fn default() -> PeerSettings {
        PeerSettings {
            handshake_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            refused_retry: Duration::from_secs(5),
            stable_after: Duration::from_secs(1),
            clock_skew_max_ms: 60_000,
            window_bytes: WINDOW_BYTES,
            output_bytes_max: OUTPUT_BYTES_MAX,
        }
    }
}
