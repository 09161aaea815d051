//! The handshake: hand-laid, and the same in every version for ever.
//!
//! A later version may give a meaning to reserved bytes, and append fields behind the last: a reader
//! takes what it knows and ignores both. It never moves a field. `docs/peer-protocol.md` has the
//! offsets. The bytes are the payload of a frame of version 0 without a body.

use std::borrow::Cow;

use ironring_core::{Incarnation, NodeId, ShardId, StorageUuid, WallTime};

use super::error::PeerError;
use super::frame::{HANDSHAKE_BYTES_MAX, Kind};
use crate::error::BodyError;
use crate::wire::{Put, Reader, text_len, within};

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 256;
/// Longest message of a refusal, in bytes; what is longer is cut.
pub const REFUSAL_BYTES_MAX: usize = 1024;

/// Identity of a cluster, drawn once when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ClusterUuid(pub u128);

impl ClusterUuid {
    /// Not yet known: the node has joined no cluster.
    pub const NONE: ClusterUuid = ClusterUuid(0);
}

/// What both sides say about themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The cluster's name, 1 to 255 bytes.
    pub cluster_name: &'a str,
    /// The cluster, or [`ClusterUuid::NONE`].
    pub cluster: ClusterUuid,
    /// The node; not 0.
    pub node: NodeId,
    /// The node's name, 1 to 255 bytes.
    pub node_name: &'a str,
    /// The data directory.
    pub storage: StorageUuid,
    /// The run of the process.
    pub incarnation: Incarnation,
    /// Shards of the node, at least 1.
    pub shard_count: u16,
    /// The wall clock when it was sent.
    pub wall: WallTime,
    /// Feature bits; no bit has a meaning yet.
    pub features: u64,
}

/// The first frame of a connection, from the node that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Versions it speaks, lowest and highest.
    pub versions: (u16, u16),
    /// Who it is.
    pub identity: Identity<'a>,
    /// The node it means to reach; 0: whoever listens there.
    pub to_node: NodeId,
    /// The shard that dialled.
    pub from_shard: ShardId,
    /// The shard it means to reach.
    pub to_shard: ShardId,
    /// Lets a node join that is not a member yet; empty for members.
    pub token: &'a [u8],
    /// The mark of its data directory, by which it is told from a copy; 0: none.
    pub mark: u64,
}

/// The answer to a node that is let in: from here on frames of `version` go both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The version to be spoken.
    pub version: u16,
    /// Who answers. `features` are those both have.
    pub identity: Identity<'a>,
    /// The shard that answers.
    pub shard: ShardId,
    /// Payload bytes the dialler may send until it is given more.
    pub credits: u64,
    /// As in [`Hello`], of the node that answers.
    pub mark: u64,
}

macro_rules! refusals {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $retry:literal; )*) => {
        /// Why a node is not let in.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $( $(#[$doc])* $name, )*
            /// A reason of a later version.
            Other(u16),
        }

        impl Refusal {
            /// Every reason this build knows, in order of number.
            pub const ALL: &'static [Refusal] = &[ $( Refusal::$name, )* ];

            /// The number on the wire.
            #[must_use]
            pub fn code(self) -> u16 {
                match self { $( Refusal::$name => $code, )* Refusal::Other(code) => code }
            }

            /// The reason a wire number names.
            #[must_use]
            pub fn from_code(code: u16) -> Refusal {
                match code { $( $code => Refusal::$name, )* other => Refusal::Other(other) }
            }

            /// Whether the same `Hello` may be taken later, without anyone doing something.
            #[must_use]
            pub fn retriable(self) -> bool {
                match self { $( Refusal::$name => $retry, )* Refusal::Other(_) => false }
            }

            /// For logs, metrics and the document.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Refusal::$name => stringify!($name), )* Refusal::Other(_) => "Other" }
            }
        }
    };
}

refusals! {
    /// The two builds have no version in common.
    NoCommonVersion = 1, false;
    /// Another cluster, by name or by uuid.
    WrongCluster = 2, false;
    /// The node reached is not the one meant, or is the dialler itself.
    WrongNode = 3, false;
    /// The node reached has no such shard.
    NoSuchShard = 4, false;
    /// The node id belongs to a node with another data directory.
    DuplicateNode = 5, false;
    /// Not a member, and no token. Members may become known later.
    UnknownNode = 6, true;
    /// The token is not the cluster's, or nobody may join.
    BadToken = 7, false;
    /// The node is being removed from the cluster, or was.
    Removed = 8, false;
    /// The wall clocks differ too much.
    ClockSkew = 9, true;
    /// The node reached is about to stop.
    Stopping = 10, true;
    /// What was received is no `Hello`.
    Malformed = 11, false;
    /// A newer run of the node is known, or another process with the same run.
    OldRun = 12, false;
}

/// The answer to a node that is not let in; the connection closes behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Why.
    pub refusal: Refusal,
    /// Versions the answering node speaks, lowest and highest.
    pub versions: (u16, u16),
    /// What is wrong, with the values that are, for people.
    pub message: Cow<'a, str>,
}

/// A frame of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handshake<'a> {
    /// From the node that dialled.
    Hello(Hello<'a>),
    /// It is let in.
    Welcome(Welcome<'a>),
    /// It is not.
    Refused(Refused<'a>),
}

impl<'a> Handshake<'a> {
    /// Reads the payload of a handshake frame.
    pub(super) fn decode(kind: Kind, payload: &'a [u8]) -> Result<Handshake<'a>, PeerError> {
        let mut reader = Reader::new(payload);
        let read = match kind {
            Kind::Hello => Hello::decode(&mut reader).map(Handshake::Hello),
            Kind::Welcome => Welcome::decode(&mut reader).map(Handshake::Welcome),
            Kind::Refused => Refused::decode(&mut reader).map(Handshake::Refused),
            _ => return Err(PeerError::UnknownKind { version: 0, kind: kind as u8 }),
        };
        read.map_err(|error| PeerError::Field { kind, error })
    }

    /// The kind of its frame.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Handshake::Hello(_) => Kind::Hello,
            Handshake::Welcome(_) => Kind::Welcome,
            Handshake::Refused(_) => Kind::Refused,
        }
    }

    /// The payload of its frame.
    pub(super) fn encode(&self) -> Result<Vec<u8>, PeerError> {
        let mut out = Vec::with_capacity(512);
        let encoded = match self {
            Handshake::Hello(hello) => hello.encode(&mut out),
            Handshake::Welcome(welcome) => welcome.encode(&mut out),
            Handshake::Refused(refused) => {
                refused.encode(&mut out);
                Ok(())
            }
        };
        encoded.map_err(|error| PeerError::Field { kind: self.kind(), error })?;
        Ok(out)
    }
}

impl<'a> Hello<'a> {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        let token_len = within(self.token.len(), TOKEN_BYTES_MAX, "token")?;
        out.put_u16(self.versions.0);
        out.put_u16(self.versions.1);
        out.put_u16(self.from_shard.0);
        out.put_u16(self.to_shard.0);
        out.put_u16(self.identity.shard_count);
        out.put(&[0; 6]);
        self.identity.encode_numbers(out);
        out.put_u64(self.to_node.0);
        self.identity.encode_names(out)?;
        out.put_u16(token_len as u16);
        out.put(self.token);
        out.put_u64(self.mark);
        Ok(())
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Hello<'a>, BodyError> {
        let versions = versions(reader)?;
        let from_shard = ShardId(reader.u16("from_shard")?);
        let to_shard = ShardId(reader.u16("to_shard")?);
        let shard_count = reader.u16("shard_count")?;
        reader.take(6, "reserved")?;
        let numbers = Numbers::decode(reader)?;
        let to_node = NodeId(reader.u64("to_node")?);
        let identity = numbers.with_names(shard_count, reader)?;
        if from_shard.0 >= shard_count {
            return Err(invalid("from_shard", "must be below shard_count"));
        }
        let token_len = within(reader.u16("token_len")?.into(), TOKEN_BYTES_MAX, "token")?;
        let token = reader.take(token_len, "token")?;
        let mark = mark(reader)?;
        Ok(Hello { versions, identity, to_node, from_shard, to_shard, token, mark })
    }
}

impl<'a> Welcome<'a> {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        out.put_u16(self.version);
        out.put_u16(self.shard.0);
        out.put_u16(self.identity.shard_count);
        out.put(&[0; 10]);
        self.identity.encode_numbers(out);
        out.put_u64(self.credits);
        self.identity.encode_names(out)?;
        out.put_u64(self.mark);
        Ok(())
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Welcome<'a>, BodyError> {
        let version = reader.u16("version")?;
        if version == 0 {
            return Err(invalid("version", "must not be 0"));
        }
        let shard = ShardId(reader.u16("shard")?);
        let shard_count = reader.u16("shard_count")?;
        reader.take(10, "reserved")?;
        let numbers = Numbers::decode(reader)?;
        let credits = reader.u64("credits")?;
        let identity = numbers.with_names(shard_count, reader)?;
        if shard.0 >= shard_count {
            return Err(invalid("shard", "must be below shard_count"));
        }
        let mark = mark(reader)?;
        Ok(Welcome { version, identity, shard, credits, mark })
    }
}

impl<'a> Refused<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut len = self.message.len().min(REFUSAL_BYTES_MAX);
        while !self.message.is_char_boundary(len) {
            len -= 1;
        }
        out.put_u16(self.refusal.code());
        out.put_u16(self.versions.0);
        out.put_u16(self.versions.1);
        out.put_u16(len as u16);
        out.put(&self.message.as_bytes()[..len]);
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Refused<'a>, BodyError> {
        let refusal = Refusal::from_code(reader.u16("code")?);
        let versions = versions(reader)?;
        let len = within(reader.u16("message_len")?.into(), REFUSAL_BYTES_MAX, "message")?;
        Ok(Refused { refusal, versions, message: Cow::Borrowed(reader.str(len, "message")?) })
    }
}

impl Identity<'_> {
    fn encode_numbers(&self, out: &mut Vec<u8>) {
        out.put(&self.cluster.0.to_le_bytes());
        out.put(&self.storage.0.to_le_bytes());
        out.put_u64(self.node.0);
        out.put_u64(self.incarnation.0);
        out.put_u64(self.wall.0);
        out.put_u64(self.features);
    }

    fn encode_names(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        for (name, field) in [(self.cluster_name, "cluster_name"), (self.node_name, "node_name")] {
            out.put_u8(text_len(name, field)?);
            out.put(name.as_bytes());
        }
        Ok(())
    }
}

/// The fields of an [`Identity`] that have a fixed length.
struct Numbers {
    cluster: ClusterUuid,
    storage: StorageUuid,
    node: NodeId,
    incarnation: Incarnation,
    wall: WallTime,
    features: u64,
}

impl Numbers {
    fn decode(reader: &mut Reader<'_>) -> Result<Numbers, BodyError> {
        Ok(Numbers {
            cluster: ClusterUuid(u128::from_le_bytes(reader.array("cluster")?)),
            storage: StorageUuid(u128::from_le_bytes(reader.array("storage")?)),
            node: NodeId(reader.u64("node")?),
            incarnation: Incarnation(reader.u64("incarnation")?),
            wall: WallTime(reader.u64("wall_ms")?),
            features: reader.u64("features")?,
        })
    }

    fn with_names<'a>(
        self,
        shard_count: u16,
        reader: &mut Reader<'a>,
    ) -> Result<Identity<'a>, BodyError> {
        let mut name = |field| {
            let len = reader.u8(field)?;
            match len {
                0 => Err(invalid(field, "must not be empty")),
                _ => reader.str(len.into(), field),
            }
        };
        let (cluster_name, node_name) = (name("cluster_name")?, name("node_name")?);
        let Numbers { cluster, storage, node, incarnation, wall, features } = self;
        if node == NodeId(0) {
            return Err(invalid("node", "must not be 0"));
        }
        Ok(Identity {
            cluster_name,
            cluster,
            node,
            node_name,
            storage,
            incarnation,
            shard_count,
            wall,
            features,
        })
    }
}

/// The last field; builds that knew no marks end before it.
fn mark(reader: &mut Reader<'_>) -> Result<u64, BodyError> {
    if reader.rest().is_empty() { Ok(0) } else { reader.u64("mark") }
}

fn versions(reader: &mut Reader<'_>) -> Result<(u16, u16), BodyError> {
    let versions = (reader.u16("version_min")?, reader.u16("version_max")?);
    if versions.0 == 0 || versions.0 > versions.1 {
        return Err(invalid("version_min", "must be 1 to version_max"));
    }
    Ok(versions)
}

fn invalid(field: &'static str, rule: &'static str) -> BodyError {
    BodyError::Invalid { field, rule }
}

// The longest of each fits a frame.
const _: () = assert!(16 + 72 + 2 * 256 + 2 + TOKEN_BYTES_MAX + 8 <= HANDSHAKE_BYTES_MAX as usize);
const _: () = assert!(8 + REFUSAL_BYTES_MAX <= HANDSHAKE_BYTES_MAX as usize);
