//! One node: data directory, sockets, one executor per shard, the control thread, and the end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ironring_core::ShardId;
use ironring_net::connection::{Identity, Limits, Timeouts};
use ironring_net::message::{ClusterMap, ShardAddress};
use ironring_ring::Slices;

use super::connection::Terms;
use super::data_dir::{DataDir, DataDirError};
use super::device;
use super::glommio::Glommio;
use super::intent;
use super::mesh::Mesh;
use super::monoio::Monoio;
use super::peers::Handover;
use super::place;
use super::runtime::{Join, Runtime, Seat};
use super::shard_life::{NodeEndsToo, ShardStart, run_shard};
use super::sockets::{Addresses, Listeners, advertised, listen};
use crate::cluster::refused::Advice;
use crate::cluster::{Board, IdentityError, Place, log_identity};
use crate::config::settle::RING_DEPTH_MAX;
use crate::config::{Config, Loaded, RuntimeName, Settled};
use crate::http::NodeView;
use crate::metrics::{ClientCounters, NodeSnapshot, ShardSnapshot, ShardState, resident_bytes};
use crate::raft::{self, RaftConfig};
use crate::shard::{MovementSettings, ShardConfig, compare};

/// Why a node cannot start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
    /// Its place in a cluster cannot be told.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It cannot be, or no longer be, a member of its cluster.
    #[error("{why}")]
    Cluster {
        /// Why.
        why: String,
        /// What can be done about it.
        advice: Advice,
    },
    /// The settings contradict each other, or the data directory.
    #[error("{0}")]
    Settings(String),
    /// The settings name something outside of them that does not work: a name that cannot be looked up, a file
    /// system that is not there yet.
    #[error("{0}")]
    Around(String),
    /// The system refuses something a node needs.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's words.
        source: std::io::Error,
    },
    /// An executor cannot be made.
    #[error("cannot start the executor of shard {shard}: {message}")]
    Executor {
        /// The shard.
        shard: u16,
        /// Why.
        message: String,
    },
    /// A shard cannot open its log, or its disk failed.
    #[error("shard {shard}: {message}")]
    Shard {
        /// The shard.
        shard: u16,
        /// Why, and what to do.
        message: String,
    },
}

/// Sockets of one shard, counted by its executor and read by everybody.
#[derive(Debug, Default)]
pub struct SocketCounters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections refused because of the limit.
    pub refused: AtomicU64,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
    /// The newest probe of readiness the shard has made durable.
    pub probe_done: AtomicU64,
}

impl SocketCounters {
    /// Adds them to a shard's snapshot.
    pub fn fill(&self, clients: &mut ClientCounters) {
        clients.connections_accepted = self.accepted.load(Ordering::Relaxed);
        clients.connections_refused = self.refused.load(Ordering::Relaxed);
        clients.bytes_in = self.bytes_in.load(Ordering::Relaxed);
        clients.bytes_out = self.bytes_out.load(Ordering::Relaxed);
    }
}

/// What all threads of a node share. Written by executors once a second at most, but for the
/// counters of connections.
#[derive(Debug)]
pub struct Shared {
    stop: Arc<AtomicBool>,
    /// Open client connections of all shards.
    pub connections: AtomicU64,
    /// Most of them.
    pub connections_max: u64,
    /// One per shard; each is written by its own executor only.
    pub sockets: Vec<SocketCounters>,
    /// How long a peer may do nothing.
    pub timeouts: Timeouts,
    /// How long a shard looks for work at the most before it sleeps.
    pub spin_max: Duration,
    /// Topics defined.
    pub topics: AtomicU64,
    /// The newest probe of readiness asked for.
    pub probe_wanted: AtomicU64,
    /// The cluster as this node knows it.
    pub board: Arc<Board>,
    base: NodeSnapshot,
    started: std::time::Instant,
    shards: Vec<Mutex<ShardSnapshot>>,
    /// Shards that lead nothing any more and have answered everybody.
    pub(super) left: AtomicU64,
}

impl Shared {
    /// True when the node is to stop.
    #[must_use]
    pub fn stop_wanted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Stops the node.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Replaces what is known of a shard.
    pub fn publish(&self, snapshot: ShardSnapshot) {
        let shard = usize::from(snapshot.shard);
        *self.shard(shard) = snapshot;
    }

    /// Whether every shard has left what it led.
    pub(super) fn all_left(&self) -> bool {
        self.left.load(Ordering::Acquire) >= self.shards.len() as u64
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, ShardSnapshot> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each shard's share of the memory no shard accounts for, as of the last second or so. The
    /// ceiling is about all of the process: what the allocator keeps, copies that live for a moment,
    /// the program itself. `None` while a shard does not know yet what it has.
    #[must_use]
    pub fn unaccounted_bytes(&self) -> Option<usize> {
        let mut accounted = 0;
        for shard in 0..self.shards.len() {
            let snapshot = self.shard(shard);
            if snapshot.state != ShardState::Ready {
                return None;
            }
            accounted += snapshot.memory.used_bytes;
        }
        Some((resident_bytes().saturating_sub(accounted) / self.shards.len() as u64) as usize)
    }
}

impl NodeView for Shared {
    /// What is known of the node, at most a second old.
    fn snapshot(&self) -> NodeSnapshot {
        let mut node = self.base.clone();
        node.uptime_seconds = self.started.elapsed().as_secs_f64();
        node.shards = self
            .shards
            .iter()
            .map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect();
        node.topics = self.topics.load(Ordering::Relaxed);
        node.cluster_counters = self.board.counters();
        node
    }

    fn board(&self) -> &Board {
        &self.board
    }

    /// Asks every shard for a durable write and waits for all of them.
    fn probe_ready(&self, timeout: Duration) -> Result<(), Vec<String>> {
        let ticket = self.probe_wanted.fetch_add(1, Ordering::Relaxed) + 1;
        let until = std::time::Instant::now() + timeout;
        loop {
            let late: Vec<String> = self
                .sockets
                .iter()
                .enumerate()
                .filter(|(_, s)| s.probe_done.load(Ordering::Relaxed) < ticket)
                .map(|(shard, _)| format!("shard {shard} made no write durable within {timeout:?}"))
                .collect();
            if late.is_empty() {
                return Ok(());
            }
            if std::time::Instant::now() >= until {
                return Err(late);
            }
            std::thread::sleep(PROBE_NAP);
        }
    }
}

/// How glommio says that a ring could not be made for lack of lockable memory.
const NO_MEMORY: &str = "(os error 12)";
/// A shard scrubs at least this fast, however slow the disk was measured: the log takes no less.
const SCRUB_BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// How often a probe looks for its answers; executors look for probes every 20 ms.
const PROBE_NAP: Duration = Duration::from_millis(5);
/// A node to run.
pub struct Node {
    /// Its settings.
    pub loaded: Loaded,
    /// What they come to on this machine.
    pub settled: Settled,
    /// Set from outside to stop it.
    pub stop: Arc<AtomicBool>,
}

impl Node {
    /// Runs the node until it is stopped. `started` is called once with its addresses when the
    /// sockets are bound, and with what the control thread needs; it returns where that listens.
    ///
    /// # Errors
    /// When it cannot start, or a shard's disk failed ([`NodeError::Shard`]).
    pub fn run(
        self,
        started: impl FnOnce(&Addresses, &Arc<Shared>) -> Result<Option<SocketAddr>, NodeError>,
    ) -> Result<(), NodeError> {
        let config = &self.loaded.config;
        // Whoever needs it waits until it is done, so nobody has to wait here.
        std::thread::spawn(raft::warm_up);
        let mut dir =
            DataDir::open(&config.node.data_dir, &intent::wanted(&self.loaded, &self.settled))?;
        let shards = dir.identity.shards;
        let log = self.log_config(&dir)?;
        raise_descriptor_limit();
        let listeners = listen(config, shards)?;
        let identity = place::settle(config, &mut dir, &listeners.addresses, &self.stop)?;
        let slices = Slices::new(dir.identity.partitions, shards)
            .map_err(|e| NodeError::Settings(e.to_string()))?;
        let shared = Arc::new(self.shared(&dir, &listeners.addresses));
        let map = cluster_map(&slices, config, &listeners.addresses);
        self.announce(&dir, &listeners.addresses);
        let http = started(&listeners.addresses, &shared)?;
        let place = Place {
            facts: place::facts(config, &dir, &listeners.addresses, http)?,
            identity,
            data_dir: dir.path().to_owned(),
            meta_dir: place::meta_dir(config, &dir)?,
            partitions: dir.identity.partitions,
            raft: RaftConfig { cluster_name: dir.identity.cluster.clone(), ..config.raft() },
            controller: config.controller_settings(),
            board: Arc::clone(&shared.board),
        };

        let config = (log, map, place);
        match self.settled.runtime {
            RuntimeName::Glommio => {
                self.run_shards::<Glommio>(&dir, slices, config, listeners, &shared)
            }
            RuntimeName::Monoio => {
                self.run_shards::<Monoio>(&dir, slices, config, listeners, &shared)
            }
        }
    }

    /// Runs every shard on its thread, to the end of all.
    fn run_shards<R: Runtime>(
        &self,
        dir: &DataDir,
        slices: Slices,
        (log, map, place): (ironring_log::LogConfig, ClusterMap, Place),
        listeners: Listeners,
        shared: &Arc<Shared>,
    ) -> Result<(), NodeError> {
        let shards = dir.identity.shards;
        let system = |source| NodeError::System { what: "no descriptors for shards", source };
        let meshes = Mesh::all(shards).map_err(system)?;
        let handovers = Handover::all(shards).map_err(system)?;
        shared.board.set_caller(meshes[0].caller(ShardId(0)));
        let local = place::local(dir, Some(&place.identity));
        let identity = place.identity.clone();
        let mut threads = Vec::new();
        let mut core_0 = Some((place, listeners.peers));
        let sockets = listeners.common.into_iter().zip(listeners.own);
        let ways = meshes.into_iter().zip(handovers);
        for ((shard, (mesh, handover)), sockets) in (0..shards).zip(ways).zip(sockets) {
            let start = ShardStart {
                config: self.shard_config(
                    dir,
                    slices,
                    shard,
                    (log.clone(), map.clone()),
                    !identity.known.is_empty(),
                ),
                dir: dir.shard_dir(shard),
                format: !dir.shard_was_made(shard),
                terms: terms(&self.loaded.config, dir, shard),
                mesh,
                handover,
                local: local.clone(),
                peers: place::peer_settings(&self.loaded.config),
                identity: identity.clone(),
                sockets,
                core_0: core_0.take(),
                shared: Arc::clone(shared),
                node: NodeEndsToo::new(Arc::clone(shared)),
            };
            threads.push((shard, self.spawn::<R>(dir, shard, start)?));
        }
        let mut worst = Ok(());
        for (shard, thread) in threads {
            let ended = thread().map_err(|why| self.no_executor(shard, &why));
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(message)) => {
                    // One shard's disk is gone: with one node the others cannot go on alone.
                    shared.stop();
                    worst = Err(NodeError::Shard { shard, message });
                }
                Err(error) => {
                    shared.stop();
                    worst = Err(error);
                }
            }
        }
        worst.and_then(|()| {
            shared
                .board
                .failure()
                .map_or(Ok(()), |(why, advice)| Err(NodeError::Cluster { why, advice }))
        })
    }

    fn shared(&self, dir: &DataDir, addresses: &Addresses) -> Shared {
        let shards = dir.identity.shards;
        let wall = super::clock::now().wall;
        let board = Board::default();
        board.set_pace(self.loaded.config.movement.pace);
        Shared {
            stop: Arc::clone(&self.stop),
            connections: AtomicU64::new(0),
            connections_max: u64::from(self.loaded.config.limits.connections_max),
            sockets: (0..shards).map(|_| SocketCounters::default()).collect(),
            timeouts: Timeouts::default(),
            spin_max: Duration::from_micros(u64::from(self.loaded.config.driver.spin_us)),
            topics: AtomicU64::new(0),
            probe_wanted: AtomicU64::new(0),
            board: Arc::new(board),
            base: NodeSnapshot {
                node: dir.identity.node.clone(),
                cluster: dir.identity.cluster.clone(),
                storage: dir.identity.uuid().to_string(),
                version: env!("CARGO_PKG_VERSION"),
                started_unix_ms: wall.0,
                partitions: dir.identity.partitions,
                clients_address: addresses.clients.to_string(),
                ..NodeSnapshot::default()
            },
            started: std::time::Instant::now(),
            shards: (0..shards)
                .map(|shard| {
                    let cpu = self.cpu_of(shard).unwrap_or(0);
                    Mutex::new(ShardSnapshot { shard, cpu, ..ShardSnapshot::default() })
                })
                .collect(),
            left: AtomicU64::new(0),
        }
    }

    /// The CPU a shard is pinned to: one each while they last, then shared in turn.
    fn cpu_of(&self, shard: u16) -> Option<u16> {
        let cpus = &self.settled.cpus;
        cpus.get(usize::from(shard) % cpus.len().max(1)).copied()
    }

    /// Says in one line which paths are in use.
    fn announce(&self, dir: &DataDir, addresses: &Addresses) {
        let block = direct_io_block(&dir.probe());
        let direct = match block {
            Some(align) => format!("yes (alignment {align})"),
            None => "NO (the file system refuses O_DIRECT)".to_owned(),
        };
        let depth = self.settled.ring_depth;
        let aside = self.settled.runtime == RuntimeName::Glommio && device::flushes(&dir.probe());
        let aside = if aside {
            " (submitted aside while there are other nodes: the disk has a cache to flush)"
        } else {
            ""
        };
        let least = if depth < RING_DEPTH_MAX { " (ulimit -l allows no more)" } else { "" };
        tracing::info!(
            "node {} of cluster {} (storage {}): clients on {}, nodes on {}, {} shards, {} partitions; runtime \
             {}, O_DIRECT {direct}, rings of {depth} entries{least}, registered buffers no, polling no, sync \
             O_DSYNC{aside}, spin at most {} us",
            dir.identity.node,
            dir.identity.cluster,
            dir.identity.uuid(),
            addresses.clients,
            addresses.peers,
            dir.identity.shards,
            dir.identity.partitions,
            self.settled.runtime.name(),
            self.loaded.config.driver.spin_us,
        );
    }

    /// The settings of each shard's log.
    fn log_config(&self, dir: &DataDir) -> Result<ironring_log::LogConfig, NodeError> {
        let config = &self.loaded.config;
        let shards = u64::from(dir.identity.shards);
        let mut disk = self.settled.disk_bytes_max / shards;
        if config.log.disk_bytes_max == 0 {
            // Nobody asked for more than the segment table holds.
            let slots = ironring_log::format::superblock::SLOTS_MAX as u64;
            disk = disk.min(slots * dir.identity.segment_bytes);
        }
        let log = ironring_log::LogConfig {
            segment_bytes: u32::try_from(dir.identity.segment_bytes).unwrap_or(u32::MAX),
            disk_bytes_max: disk,
            // Of the segments kept ready two are for deletes and compaction.
            reserve_segments: 2,
            free_segments_target: config.log.reserve_segments.saturating_sub(2).max(1),
            waiting_bytes_max: u32::try_from(config.limits.waiting_bytes_max).unwrap_or(u32::MAX),
            checkpoint_interval_bytes: config.log.checkpoint_interval_bytes,
            idle_floor_after: Duration::from_millis(u64::from(config.log.idle_floor_after_ms)),
            compaction: ironring_log::CompactionConfig {
                dead_percent_min: (config.log.compaction_dead_share * 100.0).round() as u8,
                bandwidth_percent: (config.log.compaction_bandwidth_share * 100.0).round() as u8,
                ..ironring_log::CompactionConfig::default()
            },
            scrub: ironring_log::ScrubConfig {
                period: Duration::from_secs(u64::from(config.log.scrub_period_days) * 86_400),
                bytes_per_second_max: (self.settled.scrub_bytes_per_second_max / shards)
                    .max(SCRUB_BYTES_PER_SECOND_MIN),
                bytes_per_second_min: config.log.scrub_bytes_per_second_min / shards,
            },
            ..ironring_log::LogConfig::default()
        };
        log.validate().map_err(|e| NodeError::Settings(e.to_string()))?;
        Ok(log)
    }

    fn shard_config(
        &self,
        dir: &DataDir,
        slices: Slices,
        shard: u16,
        (log, map): (ironring_log::LogConfig, ClusterMap),
        has_others: bool,
    ) -> ShardConfig {
        let config = &self.loaded.config;
        let shards = u64::from(dir.identity.shards);
        let ms = |n: u32| Duration::from_millis(u64::from(n));
        ShardConfig {
            identity: log_identity(dir.identity.uuid(), ShardId(shard)),
            slices,
            log,
            memory_bytes_max: (self.settled.memory_max_bytes / shards) as usize,
            cache_bytes: (self.settled.cache_bytes / shards) as usize,
            deadline_default: ms(config.limits.deadline_default_ms),
            deadline_max: ms(config.limits.deadline_max_ms),
            alone: false,
            has_others,
            incarnation: Some(dir.incarnation),
            replication: ironring_ring::replication::Settings::default(),
            movement: MovementSettings {
                pace: config.movement.pace,
                bandwidth_bytes_per_s: self.settled.movement_bytes_per_s / shards,
            },
            compare: compare::Settings {
                interval: Duration::from_secs(config.repair.compare_interval_s.into()),
                bytes_per_second_max: (config.repair.compare_bytes_per_second_max / shards).max(1),
            },
            map,
        }
    }

    fn no_executor(&self, shard: u16, why: &str) -> NodeError {
        let hint = if why.contains(NO_MEMORY) {
            "; io_uring needs more lockable memory, a limit of all processes of this user together: \
             raise `ulimit -l`"
        } else {
            ""
        };
        NodeError::Executor { shard, message: format!("{why}{hint}") }
    }

    fn spawn<R: Runtime>(
        &self,
        dir: &DataDir,
        shard: u16,
        start: ShardStart,
    ) -> Result<Join, NodeError> {
        let seat = Seat {
            shard,
            cpu: self.cpu_of(shard),
            memlock_tight_bytes: self.settled.memlock_tight_bytes.map(|limit| limit as usize),
            ring_depth: self.settled.ring_depth,
            flushes: start.flushes(),
            probe: dir.probe(),
        };
        R::start(seat, move |runtime| run_shard(runtime, start))
            .map_err(|why| self.no_executor(shard, &why))
    }
}

fn terms(config: &Config, dir: &DataDir, shard: u16) -> Terms {
    Terms {
        identity: Arc::new(Identity {
            storage: dir.identity.uuid(),
            cluster: dir.identity.cluster.clone(),
            node: dir.identity.node.clone(),
            server: concat!("ironring/", env!("CARGO_PKG_VERSION")).to_owned(),
            shard,
            features: ironring_net::features::KNOWN,
        }),
        limits: Limits { in_flight_max: config.limits.in_flight_max, ..Limits::default() },
    }
}

fn cluster_map(slices: &Slices, config: &Config, addresses: &Addresses) -> ClusterMap {
    let shards = addresses.shards.iter().enumerate().map(|(shard, address)| {
        let shard = shard as u16;
        let range = slices.range(ShardId(shard));
        let address = advertised(config, *address);
        ShardAddress { shard, address, first: range.start, end: range.end }
    });
    ClusterMap { epoch: 1, partitions: slices.partitions(), shards: shards.collect() }
}

/// As many descriptors as the system lets us have: each connection takes two.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The alignment direct I/O needs on the probe file, or `None` when the file system refuses it.
fn direct_io_block(probe: &std::path::Path) -> Option<u64> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(probe);
    let file = opened.ok()?;
    Some(nix::sys::statfs::fstatfs(&file).map_or(4096, |s| s.block_size() as u64))
}
