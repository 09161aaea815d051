//! One example of every message, and of every choice a message has.

use std::borrow::Cow;

use ironring_core::{
    Incarnation, Instant, NodeId, Offset, PartitionId, ShardId, StorageUuid, Term, WallTime,
};
use ironring_net::Header as ClientHeader;
use ironring_net::peer::hello::{ClusterUuid, Identity};
use ironring_net::peer::message::*;
use ironring_net::peer::output::Buffer;
use ironring_net::peer::{Handshake, Hello, Output, Refusal, Refused, Welcome};

pub const CLUSTER: ClusterUuid = ClusterUuid(0xc1c2_c3c4_c5c6_c7c8_c9ca_cbcc_cdce_cfd0);
pub const NOW: WallTime = WallTime(1_700_000_000_000);

pub fn replica(number: u8) -> ReplicaId {
    ReplicaId {
        storage: StorageUuid(u128::from_le_bytes([number; 16])),
        life: 0x100 + u64::from(number),
    }
}

pub fn leader(number: u8) -> LeaderId {
    LeaderId { replica: replica(number), incarnation: Incarnation(0x200 + u64::from(number)) }
}

pub fn identity(number: u8) -> Identity<'static> {
    Identity {
        cluster_name: "prod",
        cluster: CLUSTER,
        node: NodeId(number.into()),
        node_name: ["n0", "n1", "n2", "n3"][usize::from(number)],
        storage: StorageUuid(u128::from_le_bytes([number; 16])),
        incarnation: Incarnation(7),
        shard_count: 2,
        wall: NOW,
        features: 0,
    }
}

pub fn hello() -> Hello<'static> {
    Hello {
        versions: (1, 1),
        identity: identity(2),
        to_node: NodeId(1),
        from_shard: ShardId(0),
        to_shard: ShardId(1),
        token: b"",
        mark: 0x1122_3344_5566_7788,
    }
}

pub fn welcome() -> Welcome<'static> {
    Welcome { version: 1, identity: identity(1), shard: ShardId(1), credits: 16 << 20, mark: 0 }
}

pub fn handshakes() -> Vec<(&'static str, Handshake<'static>)> {
    let joins = Hello {
        identity: Identity { cluster: ClusterUuid::NONE, ..identity(2) },
        to_node: NodeId(0),
        token: b"let me in",
        ..hello()
    };
    let refused = Refused {
        refusal: Refusal::ClockSkew,
        versions: (1, 1),
        message: Cow::Borrowed("the clocks differ by 900 ms, allowed are 500"),
    };
    vec![
        ("hello", Handshake::Hello(hello())),
        ("hello_join", Handshake::Hello(joins)),
        ("welcome", Handshake::Welcome(welcome())),
        ("refused", Handshake::Refused(refused)),
    ]
}

/// For as long as the test runs.
pub fn list<T: 'static, L: From<&'static [T]>>(items: Vec<T>) -> L {
    L::from(&*Vec::leak(items))
}

pub fn section(partition: u32, count: u32, records: &'static [u8]) -> Replicate<'static> {
    Replicate {
        partition: PartitionId(partition),
        to: replica(2),
        from: leader(1),
        term: Term(3),
        first: Offset(40),
        prev_term: Term(2),
        count,
        high_watermark: Offset(39),
        probe: Instant(0x1122_3344_5566_7788),
        answered: Instant(0),
        age_ms: AGE_UNKNOWN,
        records,
    }
}

pub fn ack(partition: u32, state: AckState) -> Ack {
    Ack {
        partition: PartitionId(partition),
        from: leader(2),
        to: replica(1),
        term: Term(3),
        state,
        probe: Instant(0x1122_3344_5566_7788),
    }
}

fn client_header(opcode: u8, deadline_ms: u32, correlation: u64) -> ClientHeader {
    ClientHeader {
        version: 1,
        opcode,
        status: 0,
        correlation,
        body_len: 4,
        deadline_ms,
        body_crc: 0xdead_beef,
    }
}

pub fn messages() -> Vec<(&'static str, Message<'static>)> {
    let (partition, term) = (PartitionId(5), Term(3));
    let states = vec![
        ack(5, AckState::Flushed { end: Offset(42) }),
        ack(6, AckState::Mismatch { end: Offset(30), term: Term(1) }),
        ack(7, AckState::Promised { term: Term(4) }),
    ];
    let answer = FenceAnswer {
        partition,
        from: leader(2),
        term: Term(4),
        last_term: term,
        log_end: Offset(42),
        lease_left_ns: 1_500_000_000,
    };
    let no_lease = FenceAnswer { partition: PartitionId(6), lease_left_ns: 0, ..answer };
    let asks = vec![
        Ask::Voters {
            partition,
            term,
            from: replica(1),
            base: 11,
            voters: list(vec![replica(1), replica(2), replica(3)]),
        },
        Ask::Transfer { partition, term, from: replica(1), to: leader(2) },
        Ask::Election { partition, term, from: leader(1) },
    ];
    let ping = Ping { sent: Instant(77), wall: NOW };
    let answered = |state| Message::SnapshotAnswer(SnapshotAnswer { transfer: 9, state });
    let compared =
        |state| Message::Compared(Compared { number: 31, partition, from: leader(2), term, state });
    let fetched = |records| {
        Message::Fetched(Fetched { number: 32, partition, from: leader(2), term, records })
    };
    vec![
        (
            "replicate",
            Message::Replicate(list(vec![
                section(5, 2, b"two records"),
                section(6, 0, b""),
                section(7, 1, b"and a third"),
            ])),
        ),
        ("replicate_probe", Message::Replicate(list(vec![section(5, 0, b"")]))),
        ("acks", Message::Acks(list(states))),
        ("fences", Message::Fences(list(vec![Fence { partition, to: replica(2), term }]))),
        ("fence_answers", Message::FenceAnswers(list(vec![answer, no_lease]))),
        ("asks", Message::Asks(list(asks))),
        ("raft_request", Message::Raft(Raft { call: 8, half: Half::Request, payload: b"vote" })),
        ("raft_answer", Message::Raft(Raft { call: 8, half: Half::Answer, payload: b"granted" })),
        (
            "forward",
            Message::Forward(Forward {
                call: 21,
                header: client_header(0x10, 5000, 0x0102_0304_0506_0708),
                body: b"body",
            }),
        ),
        (
            "forward_answer",
            Message::ForwardAnswer(ForwardAnswer {
                call: 21,
                header: client_header(0x90, 0, 0),
                body: b"body",
            }),
        ),
        (
            "snapshot_begin",
            Message::SnapshotBegin(SnapshotBegin {
                transfer: 9,
                partition,
                to: replica(2),
                from: leader(1),
                term,
                start: Offset(1),
                end: Offset(900),
                end_term: Term(2),
                total_bytes: 123_456,
            }),
        ),
        (
            "snapshot_piece",
            Message::SnapshotPiece(SnapshotPiece {
                transfer: 9,
                number: 3,
                last: true,
                payload: b"live records",
            }),
        ),
        ("snapshot_resume", answered(SnapshotState::Resume { number: 4 })),
        ("snapshot_complete", answered(SnapshotState::Complete)),
        ("snapshot_refused", answered(SnapshotState::Refused(SnapshotRefusal::Busy))),
        ("credits", Message::Credits { bytes: 1 << 20 }),
        ("ping", Message::Ping(ping)),
        ("pong", Message::Pong(ping)),
        ("goodbye", Message::Goodbye(GoodbyeReason::Stopping)),
        (
            "compare",
            Message::Compare(Compare {
                number: 31,
                partition,
                to: replica(2),
                from: leader(1),
                term,
                at: Offset(900),
                expires_after: NOW,
                range: b"a range",
            }),
        ),
        ("compared_digest", compared(ComparedState::Digest { items: 3, bytes: 900, hash: 77 })),
        ("compared_later", compared(ComparedState::Later)),
        (
            "diverged",
            Message::Diverged(Diverged {
                number: 31,
                partition,
                to: replica(2),
                from: leader(1),
                term,
            }),
        ),
        (
            "fetch",
            Message::Fetch(Fetch {
                number: 32,
                partition,
                to: replica(2),
                from: leader(1),
                term,
                wants: b"names of records",
            }),
        ),
        ("fetched", fetched(b"a record")),
        ("fetched_nothing", fetched(b"")),
    ]
}

/// An output that speaks version 1 and has sent nothing.
pub fn output() -> Output {
    output_of(1)
}

/// The same of any version.
pub fn output_of(version: u16) -> Output {
    let mut output = Output::new(usize::MAX / 2);
    output.agree(version, u64::MAX);
    output
}

/// (name, version of the header, frame), each the first of its connection.
pub fn frames() -> Vec<(&'static str, u16, Vec<u8>)> {
    let mut frames = Vec::new();
    for (name, handshake) in handshakes() {
        let mut output = Output::new(1 << 20);
        output.handshake(&handshake).unwrap();
        frames.push((name, 0, output.bytes().to_vec()));
    }
    for (name, message) in messages() {
        // Of the first version that has it.
        let version = message.kind().since();
        let mut output = output_of(version);
        output.send(&message).unwrap();
        frames.push((name, version, output.bytes().to_vec()));
    }
    frames
}

/// `bytes` on a boundary.
pub fn aligned(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::new();
    buffer.extend_from_slice(bytes);
    buffer
}
