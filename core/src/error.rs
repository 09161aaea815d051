//! The error codes a client can receive: stable numbers, whether a retry can help, what to do.

macro_rules! error_codes {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $text:literal, retriable: $retriable:literal, hint: $hint:literal; )*) => {
        /// Why a request was refused. The numbers are part of the client protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum ErrorCode { $( $(#[$doc])* $name = $code, )* }

        impl ErrorCode {
            /// Every code, in order of number.
            pub const ALL: &'static [ErrorCode] = &[ $( ErrorCode::$name, )* ];

            /// The code a wire number names.
            #[must_use]
            pub fn from_u16(code: u16) -> Option<ErrorCode> {
                match code { $( $code => Some(ErrorCode::$name), )* _ => None }
            }

            /// The code's name in JSON, metrics and `ironring explain`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( ErrorCode::$name => $text, )* }
            }

            /// Whether the same request may succeed later without any change to it.
            #[must_use]
            pub fn retriable(self) -> bool {
                match self { $( ErrorCode::$name => $retriable, )* }
            }

            /// What the user can do about it, in one sentence.
            #[must_use]
            pub fn hint(self) -> &'static str {
                match self { $( ErrorCode::$name => $hint, )* }
            }
        }
    };
}

error_codes! {
    /// The frame or its body does not parse.
    Malformed = 1, "malformed", retriable: false, hint: "the client library and the server disagree about the protocol: check both versions";
    /// No common protocol version.
    UnsupportedVersion = 2, "unsupported_version", retriable: false, hint: "use a client that speaks one of the versions the server named";
    /// The opcode is not known to this version.
    UnknownOpcode = 3, "unknown_opcode", retriable: false, hint: "the server is older than the client: upgrade the server or negotiate features first";
    /// A checksum did not match: damaged on the way.
    BadChecksum = 4, "bad_checksum", retriable: true, hint: "the bytes changed between sender and receiver: reconnect; if it repeats, check the network and memory";
    /// A frame, key, value, batch or name is longer than the limit.
    TooLarge = 5, "too_large", retriable: false, hint: "split the request: the limits are in the handshake and in docs/protocol.md";
    /// A field holds a value that is not allowed.
    InvalidArgument = 6, "invalid_argument", retriable: false, hint: "correct the request as the message says";
    /// The first frame was not a handshake.
    HandshakeRequired = 7, "handshake_required", retriable: false, hint: "send Hello first on every connection";
    /// The client named another cluster.
    WrongCluster = 8, "wrong_cluster", retriable: false, hint: "check the address: this node belongs to another cluster";
    /// The connection limit is reached.
    TooManyConnections = 9, "too_many_connections", retriable: true, hint: "share connections (requests are pipelined) or raise limits.connections_max";

    /// The server refuses more work instead of queueing it.
    Overloaded = 20, "overloaded", retriable: true, hint: "back off and retry; add shards or nodes if it persists";
    /// The request's deadline passed before it was started.
    DeadlineExceeded = 21, "deadline_exceeded", retriable: true, hint: "nothing was changed: retry with a longer deadline";
    /// The write was started, and whether it is durable is not known.
    Unknown = 22, "unknown", retriable: true, hint: "retry with the same session and sequence: it is applied once";
    /// The node is starting or stopping.
    NotReady = 23, "not_ready", retriable: true, hint: "wait until /health/ready answers 200";
    /// The disk is full.
    NoSpace = 24, "no_space", retriable: true, hint: "delete data or add disk: reads and deletes go on";
    /// The memory ceiling is reached.
    MemoryFull = 25, "memory_full", retriable: true, hint: "raise memory.max_bytes or delete keys: reads, overwrites and deletes go on";
    /// The shard stopped after a disk fault.
    ShardFenced = 26, "shard_fenced", retriable: true, hint: "the disk failed under this shard: see the node's log, replace the disk, restart";
    /// Stored bytes did not match their checksum, and no good copy is at hand.
    Corrupt = 27, "corrupt", retriable: false, hint: "the record is damaged on disk: run `ironring inspect segment` and restore it from a replica or backup";
    /// The partition is served elsewhere.
    WrongPartition = 28, "wrong_partition", retriable: true, hint: "the key does not belong to the partition named: refresh the cluster map";
    /// This replica does not lead the partition, or not yet.
    NotLeader = 29, "not_leader", retriable: true, hint: "another node leads the partition, or one is being elected: refresh the cluster map and retry";
    /// The partition has fewer voters than its keyspace asks for, or its leader hears no majority of them.
    TooFewReplicas = 30, "too_few_replicas", retriable: true, hint: "too many nodes are down to keep what is written safe: bring them back, or lower min_voters";

    /// The key does not exist.
    NotFound = 40, "not_found", retriable: false, hint: "the key does not exist or has expired";
    /// A compare-and-set or put-if-absent found another version.
    ConditionFailed = 41, "condition_failed", retriable: false, hint: "read the current version and decide again";
    /// The session is not known (any more).
    SessionExpired = 42, "session_expired", retriable: false, hint: "open a new session; whether unanswered requests of the old one were applied must be read back";
    /// A sequence of the session was skipped.
    SequenceGap = 43, "sequence_gap", retriable: true, hint: "an earlier request of this session was refused: resend from that one, in order";
    /// The sequence is older than the receipts still kept.
    SequenceTooOld = 44, "sequence_too_old", retriable: false, hint: "it was answered long ago: keep at most 64 requests in flight per session and partition";

    /// No such topic.
    UnknownTopic = 60, "unknown_topic", retriable: false, hint: "create it with `ironring topic create`";
    /// A topic of that name exists.
    TopicExists = 61, "topic_exists", retriable: false, hint: "choose another name, or describe the existing topic";
    /// The topic has no such partition.
    UnknownPartition = 62, "unknown_partition", retriable: false, hint: "describe the topic to see its partitions";
    /// The offset is below the start or above the end of the topic partition.
    OffsetOutOfRange = 63, "offset_out_of_range", retriable: false, hint: "the records were trimmed, or do not exist yet: the answer names the valid range";
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        for (i, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(ErrorCode::from_u16(*code as u16), Some(*code));
            assert!(ErrorCode::ALL[..i].iter().all(|other| other.name() != code.name()));
            assert!(!code.hint().is_empty());
        }
        assert_eq!(ErrorCode::from_u16(0), None, "0 means success on the wire");
    }
}
