//! A newtype per number space, so that an offset cannot be used where a file position is meant.

use std::fmt;

macro_rules! number_space {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[repr(transparent)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_space!(
    /// Position of a record in its partition. The first record has offset 1; 0 means "none".
    Offset(u64)
);
number_space!(
    /// Byte position in a file.
    FilePos(u64)
);
number_space!(
    /// One of P equal token ranges, fixed at cluster creation.
    PartitionId(u32)
);
number_space!(
    /// One pinned thread of this node and everything it owns. Never in replicated metadata.
    ShardId(u16)
);
number_space!(
    /// Leadership generation of one partition.
    Term(u64)
);
number_space!(
    /// Sequence of a commit group in a shard's log: 1, 2, 3, ... without holes.
    GroupSeq(u64)
);
number_space!(
    /// One life of one segment file. Unique per shard for ever: a recycled file gets a new one.
    SegmentId(u32)
);
number_space!(
    /// A segment file of a shard, by its place in the directory. Holds many segments over time.
    SlotId(u32)
);
number_space!(
    /// A client session, within which (partition, sequence) names one request.
    SessionId(u64)
);
number_space!(
    /// A topic, by the number metadata gave it. Names can be reused after a delete, ids never.
    TopicId(u32)
);
number_space!(
    /// One run of a node's process: higher than that of any run before it on the same storage.
    Incarnation(u64)
);
number_space!(
    /// A position on the hash ring.
    Token(u64)
);
number_space!(
    /// A node, by the number it keeps in its data directory: above 0, given once, and never given
    /// to another node of the cluster, also after this one left.
    NodeId(u64)
);

impl Offset {
    /// "No record": what a key that does not exist has for a version.
    pub const NONE: Offset = Offset(0);
    /// The offset of the first record of every partition.
    pub const FIRST: Offset = Offset(1);

    /// The offset after this one.
    #[must_use]
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

impl GroupSeq {
    /// The sequence after this one.
    #[must_use]
    pub fn next(self) -> GroupSeq {
        GroupSeq(self.0 + 1)
    }
}

impl PartitionId {
    /// The node's own bookkeeping (topic definitions, sessions), owned by shard 0.
    pub const META: PartitionId = PartitionId(u32::MAX);
    /// The metadata group's log, which is no shard's.
    pub const RAFT: PartitionId = PartitionId(u32::MAX - 1);
}

impl SessionId {
    /// A request without a session: it is applied each time it arrives.
    pub const NONE: SessionId = SessionId(0);
}

/// Identity of one data directory, drawn once when it is made. Two directories never share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StorageUuid(pub u128);

impl fmt::Display for StorageUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
    }
}

impl fmt::Debug for StorageUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for StorageUuid {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let digits: String = s.chars().filter(|c| *c != '-').collect();
        let plain = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        plain
            .then(|| u128::from_str_radix(&digits, 16).ok())
            .flatten()
            .map(StorageUuid)
            .ok_or_else(|| format!("`{s}` is no uuid: 32 hexadecimal digits are"))
    }
}

impl serde::Serialize for StorageUuid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for StorageUuid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// When a write may be acknowledged. Ordered from weakest to strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Durability {
    /// In the leader's memory: a crash may lose it.
    Async = 0,
    /// Fsynced on the leader.
    Local = 1,
    /// Fsynced on a majority of the partition's voters. The same as `Local` on one node.
    Quorum = 2,
    /// Fsynced on every replica.
    All = 3,
}

impl Durability {
    /// The level a wire byte names.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Durability> {
        Some(match value {
            0 => Durability::Async,
            1 => Durability::Local,
            2 => Durability::Quorum,
            3 => Durability::All,
            _ => return None,
        })
    }

    /// The level's name in configuration and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Durability::Async => "async",
            Durability::Local => "local",
            Durability::Quorum => "quorum",
            Durability::All => "all",
        }
    }
}

impl std::str::FromStr for Durability {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        (0..4)
            .filter_map(Durability::from_u8)
            .find(|level| level.name() == s)
            .ok_or_else(|| format!("unknown durability `{s}`: use async, local, quorum or all"))
    }
}
