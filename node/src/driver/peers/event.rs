//! What the owner of the connections is told.

use ironring_core::{Incarnation, NodeId, ShardId, StorageUuid};
use ironring_net::peer::hello::Identity;
use ironring_net::peer::message::GoodbyeReason;
use ironring_net::peer::{Frame, Kind, Message, PeerError, Refusal};
use nix::errno::Errno;

/// One connection, or one attempt at one. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A shard of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerShard {
    /// The node.
    pub node: NodeId,
    /// Its shard.
    pub shard: ShardId,
}

/// Who asks on a connection, and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// This side dialled: it asks.
    Dialled,
    /// This side accepted: it answers.
    Accepted,
}

impl Side {
    /// Whether a message may come from the other side.
    #[must_use]
    pub fn takes(self, message: &Message<'_>) -> bool {
        use ironring_net::peer::message::Half;
        let from = match message {
            Message::Credits { .. } | Message::Ping(_) | Message::Pong(_) | Message::Goodbye(_) => {
                return true;
            }
            Message::Replicate(_)
            | Message::Fences(_)
            | Message::Asks(_)
            | Message::Forward(_)
            | Message::SnapshotBegin(_)
            | Message::SnapshotPiece(_)
            | Message::Compare(_)
            | Message::Diverged(_)
            | Message::Fetch(_) => Half::Request,
            Message::Acks(_)
            | Message::FenceAnswers(_)
            | Message::ForwardAnswer(_)
            | Message::SnapshotAnswer(_)
            | Message::Compared(_)
            | Message::Fetched(_) => Half::Answer,
            Message::Raft(raft) => raft.half,
        };
        (self == Side::Accepted) == (from == Half::Request)
    }
}

/// The other side of a connection that is up, as it said itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Who asks.
    pub side: Side,
    /// The shard at the other end. Its node is the one that answered, also where
    /// [`super::PeerTarget::node`] was 0.
    pub peer: PeerShard,
    /// Name of its node.
    pub node_name: String,
    /// Its node's data directory.
    pub storage: StorageUuid,
    /// The run of its process.
    pub incarnation: Incarnation,
    /// Shards of its node.
    pub shard_count: u16,
    /// The version that is spoken.
    pub version: u16,
    /// Features both have.
    pub features: u64,
}

impl Remote {
    pub(super) fn new(
        side: Side,
        shard: ShardId,
        them: &Identity<'_>,
        (version, features): (u16, u64),
    ) -> Remote {
        Remote {
            side,
            peer: PeerShard { node: them.node, shard },
            node_name: them.node_name.to_owned(),
            storage: them.storage,
            incarnation: them.incarnation,
            shard_count: them.shard_count,
            version,
            features,
        }
    }
}

/// Why a connection is no more, or never was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// Nobody listens at the address.
    #[error("nobody listens there")]
    NobodyListens,
    /// The other side's kernel says that its process let go of the connection.
    #[error("the connection was reset")]
    Reset,
    /// The other side closed without a word.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side's kernel answers no more.
    #[error("the other side fell silent")]
    Silent,
    /// The handshake was not over in time.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// The system refused: no route, no descriptors.
    #[error("the system: {0}")]
    System(Errno),
    /// This shard has [`super::LINKS_MAX`] connections.
    #[error("this shard has as many connections as it may")]
    TooMany,
    /// One of the two refused the other in the handshake.
    #[error("{} ({message})", refusal.name())]
    NotLetIn {
        /// Why.
        refusal: Refusal,
        /// What is wrong, with the values that are.
        message: String,
        /// This side refused.
        by_us: bool,
    },
    /// What came is not the protocol.
    #[error(transparent)]
    Protocol(#[from] PeerError),
    /// A request came where only answers may, or the other way round.
    #[error("a {} frame came from the wrong side", .0.name())]
    WrongSide(Kind),
    /// The other side took leave.
    #[error("the other side took leave: {0:?}")]
    Goodbye(GoodbyeReason),
    /// A newer connection of the same shard took its place.
    #[error("a newer connection took its place")]
    Replaced,
    /// This side ended it.
    #[error("this side ended it")]
    Ended,
}

impl Down {
    /// Whether the process at the other end is gone, as its kernel says: nothing has to be waited for.
    /// A connection that ended says less: whatever is in between may have ended it.
    #[must_use]
    pub fn gone(&self) -> bool {
        matches!(self, Down::NobodyListens)
    }

    /// Whether the other end let go of the connection: whether its process is gone is known when it is
    /// dialled again.
    pub(super) fn let_go(&self) -> bool {
        matches!(self, Down::Reset | Down::Closed)
    }

    pub(super) fn of(errno: Errno) -> Down {
        match errno {
            Errno::ECONNREFUSED => Down::NobodyListens,
            Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED => Down::Reset,
            Errno::ETIMEDOUT => Down::Silent,
            other => Down::System(other),
        }
    }

    pub(super) fn of_io(error: &std::io::Error) -> Down {
        Down::of(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }
}

/// Who uses the connections of a shard. Called in the middle of a round: it may use every method of
/// [`super::Peers`] but `round` and `flush`.
pub trait PeerOwner {
    /// Frames may be sent, and will come.
    fn up(&mut self, link: LinkId, remote: &Remote);

    /// The connection is no more, or an attempt failed. One that this side dials is dialled again.
    fn down(&mut self, link: LinkId, peer: PeerShard, side: Side, reason: &Down);

    /// A frame, where it lies in the receive buffer, and what it says. When its payload is done with,
    /// however much later, [`super::Peers::grant`] lets the other side send as much again.
    fn frame(&mut self, link: LinkId, frame: &Frame<'_>, message: Message<'_>);

    /// What did not fit may fit by now: credits came, or what waited was written.
    fn room(&mut self, _link: LinkId) {}
}

#[cfg(test)]
mod tests {
    use ironring_net::peer::message::{Half, Raft};

    use super::*;

    #[test]
    fn requests_come_where_this_side_accepted_and_answers_where_it_dialled() {
        let raft = |half| Message::Raft(Raft { call: 1, half, payload: &[] });
        for (message, request) in [
            (Message::Fences((&[][..]).into()), true),
            (Message::Replicate((&[][..]).into()), true),
            (Message::Acks((&[][..]).into()), false),
            (Message::FenceAnswers((&[][..]).into()), false),
            (raft(Half::Request), true),
            (raft(Half::Answer), false),
        ] {
            assert_eq!(Side::Accepted.takes(&message), request, "{message:?}");
            assert_eq!(Side::Dialled.takes(&message), !request, "{message:?}");
        }
        let credits = Message::Credits { bytes: 1 };
        assert!(Side::Accepted.takes(&credits) && Side::Dialled.takes(&credits));
    }

    #[test]
    fn only_what_the_kernel_says_of_a_process_counts_as_gone() {
        assert!(Down::of(Errno::ECONNREFUSED).gone());
        assert!(!Down::of(Errno::ECONNRESET).gone() && !Down::Closed.gone());
        assert!(!Down::of(Errno::ETIMEDOUT).gone() && !Down::of(Errno::EHOSTUNREACH).gone());
        assert!(!Down::HandshakeTimeout.gone() && !Down::Replaced.gone());
    }
}
