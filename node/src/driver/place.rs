//! Which node of which cluster this is, settled before anything of it runs.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ironring_core::NodeId;
use ironring_net::peer::Refusal;
use ironring_net::peer::hello::ClusterUuid;
use ironring_ring::metadata::{Addresses as Advertised, COMMAND_FORMAT, Condition, Facts};

use super::data_dir::{self, DataDir};
use super::node::NodeError;
use super::peers::{Local, PeerSettings};
use super::rejoin::{self, Rejoin};
use super::sockets::{Addresses, advertised};
use crate::cluster::identity::{draw_uuid, provisional};
use crate::cluster::join::{is_own, join};
use crate::cluster::{ClusterIdentity, Stage, refused};
use crate::config::{Config, NodeRole};

/// The id of the node that founds a cluster.
const FOUNDER: NodeId = NodeId(1);

/// How a node comes to its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It has one.
    Has(Box<ClusterIdentity>),
    /// It makes a cluster.
    Founds,
    /// It asks these nodes to be let into theirs.
    Joins(Vec<String>),
}

/// How a node comes to its place, from what its directory and its settings say.
pub(super) fn entry(
    config: &Config,
    (path, member): (&Path, Option<ClusterIdentity>),
    (rejoin, empty): (Option<&Rejoin>, bool),
    listens: SocketAddr,
) -> Result<Entry, NodeError> {
    if let Some(member) = member {
        if member.stage == Stage::Left {
            let (why, advice) = (member.farewell(), refused::advice(Refusal::Removed));
            return Err(NodeError::Cluster { why, advice });
        }
        if is_founder_alone(&member) && names_others(&config.cluster.seeds, listens) {
            return Err(NodeError::Settings(format!(
                "data directory {} founded cluster `{}` ({}) by itself, and no node has joined it: \
                 cluster.seeds are for a node that joins another; take them away, or start with an \
                 empty directory",
                path.display(),
                member.cluster,
                member.uuid
            )));
        }
        return Ok(Entry::Has(Box::new(member)));
    }
    let seeds = match rejoin {
        Some(rejoin) if config.cluster.seeds.is_empty() => &rejoin.seeds,
        _ => &config.cluster.seeds,
    };
    match seeds.is_empty() {
        true if rejoin.is_some() => Err(NodeError::Settings(
            "the directory was emptied to join its cluster again: name members of it with \
             cluster.seeds"
                .to_owned(),
        )),
        true => Ok(Entry::Founds),
        false if empty => Ok(Entry::Joins(seeds.clone())),
        false => Err(NodeError::Settings(format!(
            "data directory {} has data and no cluster: a node that joins begins with an empty \
             directory; without cluster.seeds this one founds a cluster with its data",
            path.display()
        ))),
    }
}

/// Which node of which cluster this is. One that has no cluster joins that of its seeds, or founds
/// one when there are none.
pub(super) fn settle(
    config: &Config,
    dir: &mut DataDir,
    addresses: &Addresses,
    stop: &AtomicBool,
) -> Result<ClusterIdentity, NodeError> {
    let member = ClusterIdentity::load(dir.path(), &dir.identity)?;
    let rejoin = rejoin::load(dir.path())?;
    let (held, how) = ((dir.path(), member), (rejoin.as_ref(), dir.is_empty()));
    let identity = match entry(config, held, how, addresses.peers)? {
        Entry::Has(identity) => return Ok(*identity),
        Entry::Founds => {
            ClusterIdentity::new(&dir.identity, draw_uuid(), FOUNDER, Stage::Founding, Vec::new())
        }
        Entry::Joins(seeds) => joined(config, dir, addresses, (&seeds, rejoin.is_some()), stop)?,
    };
    identity.save(dir.path())?;
    rejoin::done(dir.path())?;
    tracing::info!(
        "{} cluster {} ({}) as node {}",
        if identity.stage == Stage::Founding { "founding" } else { "joined" },
        identity.cluster,
        identity.uuid,
        identity.node
    );
    Ok(identity)
}

/// Whether a directory is that of a cluster's first node, which knows no other.
fn is_founder_alone(identity: &ClusterIdentity) -> bool {
    identity.node == FOUNDER && identity.known.is_empty()
}

/// Whether seeds are other nodes and this one is not among them, as where all nodes have the same list. A
/// name that cannot be looked up may be this one's.
fn names_others(seeds: &[String], listens: SocketAddr) -> bool {
    let is_other = |seed: &String| {
        let found = seed.to_socket_addrs();
        found.is_ok_and(|mut found| found.all(|address| !is_own(address, listens, listens)))
    };
    !seeds.is_empty() && seeds.iter().all(is_other)
}

/// Refuses what other machines could not reach: a node that tells them to look for it on themselves.
fn is_reachable(facts: &Facts, seeds: &[String]) -> Result<(), NodeError> {
    let is_loopback = |address: SocketAddr| address.ip().is_loopback();
    let addresses = |name: &String| name.to_socket_addrs().into_iter().flatten();
    let elsewhere = seeds.iter().flat_map(addresses).find(|address| !is_loopback(*address));
    let told = &facts.addresses;
    let here = [("listen.peers", &told.node), ("listen.clients", &told.client)]
        .into_iter()
        .find(|(_, told)| told.parse().is_ok_and(is_loopback));
    match (elsewhere, here) {
        (Some(seed), Some((key, told))) => Err(NodeError::Settings(format!(
            "this node would tell the cluster to find it at {told}, which on every other machine is \
             that machine, and the seed at {seed} is none of this one's loopback addresses: set {key}"
        ))),
        _ => Ok(()),
    }
}

fn joined(
    config: &Config,
    dir: &mut DataDir,
    addresses: &Addresses,
    (seeds, replace): (&[String], bool),
    stop: &AtomicBool,
) -> Result<ClusterIdentity, NodeError> {
    let facts = facts(config, dir, addresses, None)?;
    is_reachable(&facts, seeds)?;
    let local = Local {
        node: provisional(dir.identity.uuid()),
        cluster: ClusterUuid::NONE,
        token: config.cluster.token.0.clone().into_bytes(),
        ..local(dir, None)
    };
    let skew = u64::from(config.peers.clock_skew_max_ms);
    let stopped = || stop.load(Ordering::Relaxed);
    let seeds = (seeds, addresses.peers);
    let admitted = join(&local, (&facts, replace), seeds, skew, stopped)
        .map_err(|error| NodeError::Cluster { why: error.to_string(), advice: error.advice() })?;
    dir.adopt_partitions(admitted.partitions)?;
    let (uuid, node) = (admitted.cluster, admitted.node);
    Ok(ClusterIdentity::new(&dir.identity, uuid, node, Stage::Joining, admitted.members))
}

/// What this node says of itself in metadata.
pub(super) fn facts(
    config: &Config,
    dir: &DataDir,
    addresses: &Addresses,
    http: Option<SocketAddr>,
) -> Result<Facts, NodeError> {
    Ok(Facts {
        name: dir.identity.node.clone(),
        storage: dir.identity.uuid(),
        incarnation: dir.incarnation,
        addresses: Advertised {
            client: advertised(config, addresses.clients),
            node: node_address(config, addresses.peers)?.to_string(),
            http: http.map_or_else(String::new, |address| address.to_string()),
            shards: addresses.shards.iter().map(|shard| advertised(config, *shard)).collect(),
        },
        rack: config.node.rack.clone(),
        region: config.node.region.clone(),
        // The bounds of the key are those of the number.
        weight: (config.node.weight * 100.0).round() as u16,
        shards: dir.identity.shards,
        format: COMMAND_FORMAT,
        lineage: dir.lineage,
        observer: config.node.role == NodeRole::Observer,
        condition: Condition::default(),
    })
}

/// Where other nodes are told to connect: always an address, so that nobody who dials has to ask for
/// that of a name.
fn node_address(config: &Config, listens: SocketAddr) -> Result<SocketAddr, NodeError> {
    let host = &config.listen.peers_advertise;
    if host.is_empty() {
        return Ok(listens);
    }
    let wrong = |why: String| NodeError::Around(format!("listen.peers_advertise {host}: {why}"));
    let mut found = (host.as_str(), listens.port())
        .to_socket_addrs()
        .map_err(|error| wrong(error.to_string()))?;
    found.next().ok_or_else(|| wrong("it has no address".to_owned()))
}

/// What this node says of itself in handshakes.
pub(super) fn local(dir: &DataDir, identity: Option<&ClusterIdentity>) -> Local {
    Local {
        cluster_name: dir.identity.cluster.clone(),
        cluster: identity.map_or(ClusterUuid::NONE, |identity| ClusterUuid(identity.uuid.0)),
        node: identity.map_or(NodeId(0), |identity| identity.node),
        node_name: dir.identity.node.clone(),
        storage: dir.identity.uuid(),
        incarnation: dir.incarnation,
        shard_count: dir.identity.shards,
        token: Vec::new(),
        mark: dir.lineage.mark,
    }
}

/// The settings of connections between nodes.
pub(super) fn peer_settings(config: &Config) -> PeerSettings {
    let peers = &config.peers;
    PeerSettings {
        handshake_timeout: Duration::from_millis(u64::from(peers.handshake_timeout_ms)),
        clock_skew_max_ms: u64::from(peers.clock_skew_max_ms),
        output_bytes_max: usize::try_from(peers.output_bytes_max).unwrap_or(usize::MAX),
        ..PeerSettings::default()
    }
}

/// The directory of the metadata group: in the data directory, or where the operator wants it.
pub(super) fn meta_dir(config: &Config, dir: &DataDir) -> Result<PathBuf, NodeError> {
    let elsewhere = &config.metadata.dir;
    if elsewhere.as_os_str().is_empty() {
        return Ok(dir.meta_dir());
    }
    let made = data_dir::make_dirs(elsewhere).and_then(|()| elsewhere.canonicalize());
    made.map_err(|error| {
        NodeError::Around(format!("metadata.dir {}: {error}", elsewhere.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_others_unless_this_node_is_among_them() {
        let listens: SocketAddr = "127.0.0.1:7412".parse().unwrap();
        let names = |seeds: &[&str]| {
            names_others(&seeds.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), listens)
        };
        assert!(!names(&[]));
        assert!(names(&["127.0.0.1:7413"]));
        assert!(!names(&["127.0.0.1:7413", "127.0.0.1:7412"]), "the list of all nodes");
        assert!(!names(&["127.0.0.1:7413", "no such name:7412"]), "it may be this one");
    }
}
