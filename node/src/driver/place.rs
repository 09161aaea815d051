//! Which node of which cluster this is, settled before anything of it runs.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ironring_core::NodeId;
use ironring_net::peer::Refusal;
use ironring_net::peer::hello::ClusterUuid;
use ironring_ring::metadata::{Addresses as Advertised, COMMAND_FORMAT, Condition, Facts};

use super::data_dir::{self, DataDir};
use super::node::NodeError;
use super::peers::{Local, PeerSettings};
use super::rejoin;
use super::sockets::{Addresses, advertised};
use crate::cluster::identity::{draw_uuid, provisional};
use crate::cluster::join::join;
use crate::cluster::{ClusterIdentity, Stage, refused};
use crate::config::{Config, NodeRole};

/// Which node of which cluster this is. One that has no cluster joins that of its seeds, or founds
/// one when there are none.
pub(super) fn settle(
    config: &Config,
    dir: &mut DataDir,
    addresses: &Addresses,
    stop: &AtomicBool,
) -> Result<ClusterIdentity, NodeError> {
    if let Some(identity) = ClusterIdentity::load(dir.path(), &dir.identity)? {
        if identity.stage == Stage::Left {
            let (why, hint) = (identity.farewell(), refused::hint(Refusal::Removed));
            return Err(NodeError::Cluster { why, hint });
        }
        return Ok(identity);
    }
    let rejoin = rejoin::load(dir.path())?;
    let seeds = match (&rejoin, config.cluster.seeds.is_empty()) {
        (Some(rejoin), true) => &rejoin.seeds,
        _ => &config.cluster.seeds,
    };
    let identity = match seeds.is_empty() {
        true if rejoin.is_some() => {
            let why = "the directory was emptied to join its cluster again: name members of it with \
                       cluster.seeds";
            return Err(NodeError::Settings(why.to_owned()));
        }
        true => {
            let (uuid, first) = (draw_uuid(), NodeId(1));
            ClusterIdentity::new(&dir.identity, uuid, first, Stage::Founding, Vec::new())
        }
        false => joined(config, dir, addresses, (seeds, rejoin.is_some()), stop)?,
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

fn joined(
    config: &Config,
    dir: &mut DataDir,
    addresses: &Addresses,
    (seeds, replace): (&[String], bool),
    stop: &AtomicBool,
) -> Result<ClusterIdentity, NodeError> {
    if !dir.is_empty() {
        return Err(NodeError::Settings(format!(
            "data directory {} has data and no cluster: a node that joins begins with an empty \
             directory; without cluster.seeds this one founds a cluster with its data",
            dir.path().display()
        )));
    }
    let facts = facts(config, dir, addresses, None)?;
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
        .map_err(|error| NodeError::Cluster { why: error.to_string(), hint: error.hint() })?;
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
    let wrong = |why: String| NodeError::Settings(format!("listen.peers_advertise {host}: {why}"));
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
        NodeError::Settings(format!("metadata.dir {}: {error}", elsewhere.display()))
    })
}
