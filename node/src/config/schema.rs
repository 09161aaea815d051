//! Every configuration key, once: its type, default, bounds and meaning.
//!
//! The [`Config`] structs, the table of [`KEYS`] that the loader, `ironring config default` and
//! `docs/configuration.md` are made from, and the defaults all come from this one list.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ironring_ring::placement::PaceMode;
use serde::Serialize;

use super::kind::{
    Choice, Cpus, Directory, Host, Input, Kind, Label, Listen, Name, OptionalDirectory, Password,
    Secret, Seeds, Share, Size, Whole,
};
use super::size::{GIB, MIB, TIB};

/// One configuration key.
pub struct Key {
    /// The table of the file it belongs to.
    pub section: &'static str,
    /// Its name in that table.
    pub name: &'static str,
    /// What it does, with line breaks.
    pub doc: &'static str,
    /// Reads, bounds and stores a value.
    pub(super) set: fn(&mut Config, Input<'_>) -> Result<(), String>,
    /// The value as TOML.
    pub(super) show: fn(&Config) -> String,
    /// The value as JSON.
    pub(super) json: fn(&Config) -> serde_json::Value,
    /// What is allowed, for people.
    pub(super) allowed: fn() -> String,
}

impl Key {
    /// `section.name`, as in messages and `--set`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The variable that overrides it: `IRONRING__SECTION__NAME`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("IRONRING__{}__{}", self.section, self.name).to_ascii_uppercase()
    }

    /// The value `config` holds, as TOML.
    #[must_use]
    pub fn value(&self, config: &Config) -> String {
        (self.show)(config)
    }

    /// The value `config` holds, as JSON; sizes in bytes.
    #[must_use]
    pub fn json(&self, config: &Config) -> serde_json::Value {
        (self.json)(config)
    }

    /// What values are allowed, for people.
    #[must_use]
    pub fn allowed(&self) -> String {
        (self.allowed)()
    }
}

/// A table of the file.
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// What its keys are about.
    pub doc: &'static str,
}

macro_rules! schema {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])* $name:ident: $type:ty = $default:expr, $kind:expr; )*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Clone, Debug, PartialEq, Serialize)]
            pub struct $Section { $( $(#[doc = $doc])* pub $name: $type, )* }

            impl Default for $Section {
                fn default() -> Self {
                    $Section { $( $name: $default, )* }
                }
            }
        )*

        /// The whole configuration of a node. Values of 0 that mean "find out" are settled by
        /// [`Settled`](super::Settled).
        #[derive(Clone, Debug, Default, PartialEq, Serialize)]
        pub struct Config { $( $(#[doc = $section_doc])* pub $section: $Section, )* }

        /// Every section, in the order of the file `ironring config default` prints.
        pub static SECTIONS: &[Section] =
            &[$( Section { name: stringify!($section), doc: concat!($($section_doc, "\n"),*) }, )*];

        /// Every key, by section.
        pub static KEYS: &[Key] = &[$($( Key {
            section: stringify!($section),
            name: stringify!($name),
            doc: concat!($($doc, "\n"),*),
            set: |config, input| {
                config.$section.$name = $kind.read(input)?;
                Ok(())
            },
            show: |config| $kind.render(&config.$section.$name),
            json: |config| $kind.json(&config.$section.$name),
            allowed: || $kind.allowed(),
        }, )*)*];
    };
}

schema! {
    /// This process.
    node: NodeConfig {
        /// Name of the node, unique in the cluster. Kept in the data directory from its first
        /// start on.
        name: String = "node-1".to_owned(), Name::Node;
        /// Directory of everything the node stores. It belongs to one node for ever.
        data_dir: PathBuf = PathBuf::from("/var/lib/ironring"), Directory;
        /// How many shards (pinned threads) to run. Fixed when the data directory is made.
        shards: u16 = 0, Whole::<u16>::zero_or("one per CPU the process may use", 1, 1024);
        /// The CPUs to pin shards to, one each, in this order.
        cpus: Vec<u16> = Vec::new(), Cpus;
        /// What fails together with this node, such as its rack: replicas of a partition are spread
        /// over racks first.
        rack: String = String::new(), Label;
        /// The site the node is at: replicas are spread over regions before racks.
        region: String = String::new(), Label;
        /// How much of the data the node should hold, compared to a usual node. 0: none.
        weight: f64 = 1.0, Share { min_percent: 0, max_percent: 10_000 };
        /// `data`: it votes and leads like any other. `observer`: it holds a copy of every partition
        /// that only follows, for reads that may be old and for disaster recovery; it never votes.
        role: NodeRole = NodeRole::Data, Choice(ROLES);
    }

    /// The cluster the node belongs to.
    cluster: ClusterConfig {
        /// Name of the cluster. Clients that name another one are refused.
        name: String = "ironring".to_owned(), Name::Cluster;
        /// How many partitions the token ring is cut into: a power of two, fixed when the data
        /// directory is made.
        partitions: u32 = 256, Whole::<u32>::within(1, 65_536);
        /// Nodes of the cluster to join by (`listen.peers` of each), asked in this order. Without
        /// seeds a node that has no cluster founds one. A node that has one needs none.
        seeds: Vec<String> = Vec::new(), Seeds;
        /// Lets the node join; made by `ironring cluster token create`.
        token: Secret = Secret::default(), Password;
    }

    /// Addresses. There is no authentication or encryption: anything but loopback must be a
    /// network where every host is trusted.
    listen: ListenConfig {
        /// Where clients connect first. The connection lands on any shard.
        clients: SocketAddr = loopback(7411), Listen;
        /// First of the ports on which each shard listens by itself, so that clients can connect
        /// to the shard that owns a key: shard `i` listens on this port + `i`.
        shard_port_base: u16 = 0, Whole::<u16>::zero_or("free ports, named to clients in the cluster map", 1024, 65_535);
        /// Where other nodes of the cluster connect.
        peers: SocketAddr = loopback(7412), Listen;
        /// The host other nodes are told to connect to, resolved when the node starts; empty for the
        /// address of `peers`. Required when `peers` is an unspecified address such as 0.0.0.0.
        peers_advertise: String = String::new(), Host;
        /// Where health, metrics and the JSON status are served.
        http: SocketAddr = loopback(7413), Listen;
        /// The host clients are told to connect to; empty for the address of `clients`.
        /// Required when `clients` is an unspecified address such as 0.0.0.0.
        advertise: String = String::new(), Host;
    }

    /// The append log of each shard.
    log: LogConfig {
        /// Size of a segment file. Fixed when the data directory is made.
        segment_bytes: u64 = 64 * MIB, Size::within(4 * MIB, GIB);
        /// Most bytes of disk the node's segments may take, all shards together.
        disk_bytes_max: u64 = 0, Size::zero_or("the size of the file system less a tenth", 64 * MIB, 1024 * TIB);
        /// Empty segments each shard keeps: two so that deletes and compaction have room on a full
        /// disk, the rest zeroed ahead so that a write never waits for one.
        reserve_segments: u32 = 4, Whole::<u32>::within(2, 64);
        /// Log bytes a shard writes between two checkpoints of its index, and so about the most a
        /// restart has to read again. Twice the size of the last checkpoint when that is more; down
        /// to an eighth while dead bytes take much of the disk, so that they can be freed.
        checkpoint_interval_bytes: u64 = 256 * MIB, Size::within(16 * MIB, 64 * GIB);
        /// Milliseconds without a write after which an empty group is written, so that recovery
        /// can tell a torn tail from damage.
        idle_floor_after_ms: u32 = 50, Whole::<u32>::within(1, 10_000);
        /// Share of dead bytes from which on a sealed segment is compacted. Higher writes less and
        /// takes more disk.
        compaction_dead_share: f64 = 0.5, Share { min_percent: 10, max_percent: 95 };
        /// Share of the bytes moved to and from the device that may be compaction's while space is
        /// not short. It rises to all of them as free space shrinks.
        compaction_bandwidth_share: f64 = 0.25, Share { min_percent: 1, max_percent: 90 };
        /// Days within which every stored byte is read again and verified, at no more than a tenth
        /// of the read bandwidth `ironring diskprobe` measured (64 MiB/s when it did not).
        scrub_period_days: u32 = 14, Whole::<u32>::within(1, 365);
        /// Bytes a second that are read again at least, all shards together, also when the period
        /// leaves more time: for a disk that is suspected. What is measured stays the most.
        scrub_bytes_per_second_min: u64 = 0, Size::zero_or("as the period asks", MIB, GIB);
    }

    /// What is looked after in the background.
    repair: RepairConfig {
        /// Seconds within which every leader has compared all it leads with the other replicas once,
        /// at an even pace.
        compare_interval_s: u32 = 604_800, Whole::<u32>::zero_or("replicas are not compared", 10, 31_536_000);
        /// Most bytes a second the node reads to compare what it leads, all shards together, and as
        /// many again to compare what it follows. Where that is not enough the interval is exceeded.
        compare_bytes_per_second_max: u64 = 4 * MIB, Size::within(MIB / 16, GIB);
    }

    /// The metadata group, which decides who is a member and who leads what.
    metadata: MetadataConfig {
        /// Directory of its files, for a disk of their own; empty for one in `node.data_dir`.
        dir: PathBuf = PathBuf::new(), OptionalDirectory;
        /// Milliseconds between two signs of life of its leader.
        heartbeat_interval_ms: u32 = 100, Whole::<u32>::within(1, 60_000);
        /// A leader that is silent is replaced no earlier than after so many milliseconds,
        election_timeout_min_ms: u32 = 1000, Whole::<u32>::within(100, 300_000);
        /// and no later than after so many; at least twice as many.
        election_timeout_max_ms: u32 = 2000, Whole::<u32>::within(200, 600_000);
        /// Changes from one snapshot of the metadata to the next.
        snapshot_entries: u32 = 8192, Whole::<u32>::within(1, 16_383);
        /// Seconds after which a snapshot is taken when anything has changed.
        snapshot_interval_s: u32 = 1800, Whole::<u32>::within(1, 604_800);
        /// Snapshots kept, so that an older one can be used when the newest is damaged.
        snapshot_retain_count: u32 = 3, Whole::<u32>::within(2, 100);
        /// Changes kept behind a snapshot, for members that are a little late.
        entries_kept: u32 = 1000, Whole::<u32>::within(0, 1_000_000);
        /// Changes forgotten in one step.
        purge_batch_size: u32 = 100, Whole::<u32>::within(1, 100_000);
    }

    /// The controller: the node that leads the metadata group has partitions' leaders elected and
    /// replicas moved. What counts is what that node has here, so give every node the same.
    controller: ControllerConfig {
        /// A node that is silent for so many milliseconds loses its leaderships. At least three
        /// times `metadata.heartbeat_interval_ms`.
        leader_timeout_ms: u32 = 600, Whole::<u32>::within(100, 600_000);
        /// A node that is silent for so many milliseconds is dead: for people, and for the time
        /// after which what it held is rebuilt. More than `leader_timeout_ms`.
        session_timeout_ms: u32 = 10_000, Whole::<u32>::within(200, 3_600_000);
        /// What a dead node held is rebuilt elsewhere after so many seconds more.
        rebalance_grace_s: u32 = 600, Whole::<u32>::within(0, 2_592_000);
        /// Replicas on their way from one node to another at a time.
        moves_max: u32 = 8, Whole::<u32>::within(1, 1024);
        /// Leaderships asked to be handed over at a time.
        handovers_max: u32 = 16, Whole::<u32>::within(1, 4096);
    }

    /// Replicas on their way to other nodes: how fast the leaders on this node send them.
    movement: MovementConfig {
        /// How much of `bandwidth_bytes_per_s` moves take: `gradual` 10 %, `aggressive` 50 %,
        /// `progressive` 10 % beside a busy foreground and up to 80 % beside an idle one. An
        /// operator changes it for all nodes with `ironring cluster rebalance start --pace`.
        pace: PaceMode = PaceMode::Gradual, Choice(PACES);
        /// Bytes a second the node could read, write and send at the most, all shards together.
        bandwidth_bytes_per_s: u64 = 0, Size::zero_or("the slower of reading and writing as `ironring diskprobe` measured it, or 64MiB", MIB, 1024 * GIB);
    }

    /// Connections between nodes.
    peers: PeersConfig {
        /// Milliseconds by which the clocks of two nodes may differ: a node that differs more is not
        /// let in.
        clock_skew_max_ms: u32 = 60_000, Whole::<u32>::within(1, 3_600_000);
        /// Milliseconds a connection may take until both sides know each other.
        handshake_timeout_ms: u32 = 10_000, Whole::<u32>::within(100, 600_000);
        /// Bytes that may wait to be sent on one connection.
        output_bytes_max: u64 = 8 * MIB, Size::within(MIB, GIB);
    }

    /// Memory of the process.
    memory: MemoryConfig {
        /// Ceiling of the process's memory: indexes, caches, requests and answers on their way, and
        /// what the allocator keeps. New keys and large requests are refused or wait before it is
        /// passed; the cache gives way.
        max_bytes: u64 = 0, Size::zero_or("60 % of the memory, or of the control group's limit", 128 * MIB, 64 * TIB);
        /// Cache of recently written and read values, all shards together; part of `max_bytes`.
        cache_bytes: u64 = 0, Size::zero_or("a quarter of `max_bytes`", 8 * MIB, 64 * TIB);
    }

    /// What clients may ask of the node.
    limits: LimitsConfig {
        /// Most client connections, all shards together.
        connections_max: u32 = 4096, Whole::<u32>::within(1, 1_000_000);
        /// Most unanswered requests of one connection.
        in_flight_max: u32 = 1024, Whole::<u32>::within(1, 65_536);
        /// Most bytes of requests one shard lets wait for the disk; more is answered `overloaded`.
        waiting_bytes_max: u64 = 8 * MIB, Size::within(2 * MIB, GIB);
        /// Deadline of a request that names none, in milliseconds.
        deadline_default_ms: u32 = 5000, Whole::<u32>::within(1, 3_600_000);
        /// Longest deadline a request may name, in milliseconds.
        deadline_max_ms: u32 = 60_000, Whole::<u32>::within(1, 3_600_000);
    }

    /// The executors.
    driver: DriverConfig {
        /// The asynchronous runtime that runs the shards. What is stored and what clients see is
        /// the same with either. On a disk with a cache and without FUA a shard on monoio
        /// waits for the flush of a durable write now and then; one on glommio does not.
        runtime: RuntimeName = RuntimeName::Glommio, Choice(RUNTIMES);
        /// Microseconds a shard with nothing to do looks for work at the most before it sleeps. It
        /// looks only while that has paid lately: while requests come closer together than this.
        /// 0: it sleeps at once.
        spin_us: u32 = 200, Whole::<u32>::within(0, 1_000_000);
    }

    /// What the node writes to its log (stderr).
    trace: TraceConfig {
        /// Least important kind of line to write.
        level: TraceLevel = TraceLevel::Info, Choice(TRACE_LEVELS);
    }
}

/// How fast replicas are moved.
const PACES: &[(&str, PaceMode)] = &[
    ("gradual", PaceMode::Gradual),
    ("aggressive", PaceMode::Aggressive),
    ("progressive", PaceMode::Progressive),
];

/// How much the node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceLevel {
    /// Only what needs a person.
    Error,
    /// What may need one soon.
    Warn,
    /// Starts, stops, recoveries.
    Info,
    /// Every connection and segment.
    Debug,
    /// Every request.
    Trace,
}

const TRACE_LEVELS: &[(&str, TraceLevel)] = &[
    ("error", TraceLevel::Error),
    ("warn", TraceLevel::Warn),
    ("info", TraceLevel::Info),
    ("debug", TraceLevel::Debug),
    ("trace", TraceLevel::Trace),
];

impl TraceLevel {
    /// The level's name, as `tracing` filters spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        TRACE_LEVELS[self as usize].0
    }
}

/// What part a node has in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// It votes and leads.
    Data,
    /// It follows.
    Observer,
}

const ROLES: &[(&str, NodeRole)] = &[("data", NodeRole::Data), ("observer", NodeRole::Observer)];

/// An asynchronous runtime that can run the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeName {
    /// glommio.
    Glommio,
    /// monoio.
    Monoio,
}

const RUNTIMES: &[(&str, RuntimeName)] =
    &[("glommio", RuntimeName::Glommio), ("monoio", RuntimeName::Monoio)];

impl RuntimeName {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        RUNTIMES[self as usize].0
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// The key `section.name`, if there is one.
#[must_use]
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}
