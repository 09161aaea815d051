//! What a start would make of a data directory, found without making, changing or locking anything.

use ironring_core::NodeId;

use super::data_dir::{Held, Identity, Wanted, draw_identity, is_first_start};
use super::node::NodeError;
use super::place::{Entry, entry};
use crate::cluster::ClusterIdentity;
use crate::config::{Loaded, Origin, Settled, find_key};

/// How a start goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Will {
    /// It makes a cluster of its own.
    Found,
    /// It asks these nodes to be let into their cluster.
    Join(Vec<String>),
    /// It is the member again that the directory is.
    Resume(NodeId),
}

/// What a start would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// How it goes on.
    pub will: Will,
    /// What the directory says, or would say.
    pub identity: Identity,
}

impl Intent {
    /// Reads the directory, and refuses what a start refuses of it. What only sockets and other nodes can tell
    /// is for the start to find, and that another process has the directory.
    ///
    /// # Errors
    /// Those of a start.
    pub fn read(loaded: &Loaded, settled: &Settled) -> Result<Intent, NodeError> {
        let (config, wanted) = (&loaded.config, wanted(loaded, settled));
        let path = config.node.data_dir.as_path();
        let held = Held::read(path)?;
        let goes = held.goes();
        let identity = held.identity.filter(|_| held.bound);
        if let Some(identity) = &identity {
            identity.compare(path, &wanted)?;
        }
        let member = match &identity {
            Some(identity) if !goes => ClusterIdentity::load(path, identity)?,
            _ => None,
        };
        let how = (held.rejoin.as_ref(), goes || is_first_start(path));
        let will = match entry(config, (path, member), how, config.listen.peers)? {
            Entry::Has(member) => Will::Resume(member.node),
            Entry::Founds => Will::Found,
            Entry::Joins(seeds) => Will::Join(seeds),
        };
        Ok(Intent { will, identity: identity.unwrap_or_else(|| draw_identity(&wanted)) })
    }
}

/// What settings want of a data directory.
pub(super) fn wanted<'a>(loaded: &'a Loaded, settled: &Settled) -> Wanted<'a> {
    let config = &loaded.config;
    let set = |section: &str, name: &str| {
        let key = find_key(section, name).expect("a key of the schema");
        !matches!(loaded.origin(key), Origin::Default)
    };
    let explicit = [
        ("cluster", "name", "cluster"),
        ("node", "name", "node"),
        ("cluster", "partitions", "partitions"),
        ("log", "segment_bytes", "segment_bytes"),
    ];
    let explicit = explicit.into_iter().filter(|(section, name, _)| set(section, name));
    Wanted {
        cluster: &config.cluster.name,
        node: &config.node.name,
        partitions: config.cluster.partitions,
        shards: (config.node.shards > 0).then_some(config.node.shards),
        shards_default: u16::try_from(settled.cpus.len()).unwrap_or(u16::MAX),
        segment_bytes: config.log.segment_bytes,
        explicit: explicit.map(|(_, _, what)| what).collect(),
    }
}
