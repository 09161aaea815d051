//! Messages of the engine survive real frames: made, written, received, read in place, taken.

use std::time::Duration;

use ironring_core::{Incarnation, Instant, Offset, PartitionId, StorageUuid, Term};
use ironring_net::peer::message::{SECTION_ENTRIES_MAX, VOTERS_MAX};
use ironring_net::peer::{Input, Message, Output};
use ironring_ring::metadata::{LeaderId, ReplicaId};
use ironring_ring::replication::{Ack, AckState, Fence, FenceAnswer, Replicate, Request};
use proptest::collection::vec;
use proptest::prelude::*;

use super::convert::*;

fn replica() -> impl Strategy<Value = ReplicaId> {
    (any::<u128>(), any::<u64>())
        .prop_map(|(storage, life)| ReplicaId { storage: StorageUuid(storage), life })
}

fn leader() -> impl Strategy<Value = LeaderId> {
    (replica(), any::<u64>())
        .prop_map(|(replica, run)| LeaderId { replica, incarnation: Incarnation(run) })
}

fn partition() -> impl Strategy<Value = PartitionId> {
    any::<u32>().prop_map(PartitionId)
}

fn term() -> impl Strategy<Value = Term> {
    any::<u64>().prop_map(Term)
}

fn offset() -> impl Strategy<Value = Offset> {
    any::<u64>().prop_map(Offset)
}

/// A message, and the bytes of its records: some when it has entries, in pieces.
fn section() -> impl Strategy<Value = (Replicate, Vec<Vec<u8>>)> {
    let entries = prop_oneof![
        Just((0, vec![])),
        (1..=SECTION_ENTRIES_MAX, vec(vec(any::<u8>(), 1..200), 1..4)),
    ];
    let numbers = (term(), 0..u64::MAX / 2, term(), offset(), any::<u64>());
    (partition(), replica(), leader(), numbers, entries).prop_map(
        |(partition, to, from, (term, first, prev_term, high_watermark, probe), entries)| {
            let (count, records) = entries;
            let (first, probe) = (Offset(first), Instant(probe));
            let message = Replicate {
                partition,
                to,
                from,
                term,
                first,
                prev_term,
                count,
                high_watermark,
                probe,
                // What version 1 says of them, which is spoken here.
                answered: Instant(0),
                age_ms: ironring_ring::replication::AGE_UNKNOWN,
            };
            (message, records)
        },
    )
}

fn ack() -> impl Strategy<Value = Ack> {
    let state = prop_oneof![
        offset().prop_map(|end| AckState::Flushed { end }),
        (offset(), term()).prop_map(|(end, term)| AckState::Mismatch { end, term }),
        term().prop_map(|term| AckState::Promised { term }),
    ];
    (partition(), leader(), replica(), term(), state, any::<u64>()).prop_map(
        |(partition, from, to, term, state, probe)| Ack {
            partition,
            from,
            to,
            term,
            state,
            probe: Instant(probe),
        },
    )
}

fn fence() -> impl Strategy<Value = Fence> {
    (partition(), replica(), term()).prop_map(|(partition, to, term)| Fence { partition, to, term })
}

fn fence_answer() -> impl Strategy<Value = FenceAnswer> {
    (partition(), leader(), term(), term(), offset(), any::<u64>()).prop_map(
        |(partition, from, term, last_term, log_end, left)| {
            let lease_left = Duration::from_nanos(left);
            FenceAnswer { partition, from, term, last_term, log_end, lease_left }
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (partition(), term(), replica(), any::<u64>(), vec(replica(), 1..=VOTERS_MAX)).prop_map(
            |(partition, term, from, base, voters)| {
                Request::Voters { partition, term, from, base, voters }
            }
        ),
        (partition(), term(), replica(), leader()).prop_map(|(partition, term, from, to)| {
            Request::Transfer { partition, term, from, to }
        }),
        (partition(), term(), leader()).prop_map(|(partition, term, from)| Request::Election {
            partition,
            term,
            from
        }),
        (partition(), replica(), any::<u64>()).prop_map(|(partition, replica, renewal)| {
            Request::Renew { partition, replica, renewal }
        }),
    ]
}

fn output() -> Output {
    let mut output = Output::new(1 << 24);
    output.agree(1, u64::MAX);
    output
}

/// Carries the bytes over in pieces and calls `each` with every message.
fn carry(output: &Output, piece: usize, mut each: impl FnMut(Message<'_>)) {
    let mut input = Input::new();
    input.agree(1, u64::MAX);
    let mut bytes = output.bytes();
    while !bytes.is_empty() {
        let space = input.space(piece);
        let len = space.len().min(bytes.len());
        space[..len].copy_from_slice(&bytes[..len]);
        input.filled(len);
        bytes = &bytes[len..];
        while let Some(frame) = input.next_frame().expect("it was checked when it was made") {
            each(frame.message().expect("it was checked when it was made"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn sections_round_trip_with_their_records(sections in vec(section(), 1..8), piece in 1..2000usize) {
        let mut output = output();
        let mut frame = output.replicate().expect("it is empty");
        for (message, records) in &sections {
            let first = records.first().map_or(&[][..], |records| records);
            let more = records.iter().skip(1).map(|records| &**records);
            frame.push(&to_section(message, first), more).expect("there is room");
        }
        frame.finish().expect("sections are right");
        let mut came = Vec::new();
        carry(&output, piece, |message| {
            let Message::Replicate(sections) = message else { panic!("{message:?}") };
            came.extend(sections.iter().map(|s| (from_section(&s), s.records.to_vec())));
        });
        let sent: Vec<_> = sections.into_iter().map(|(m, records)| (m, records.concat())).collect();
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn acks_round_trip(acks in vec(ack(), 1..50)) {
        let mut output = output();
        let sent: Vec<_> = acks.iter().map(to_ack).collect();
        output.send(&Message::Acks((&*sent).into())).expect("there is room");
        let mut came = Vec::new();
        carry(&output, 4096, |message| {
            let Message::Acks(acks) = message else { panic!("{message:?}") };
            came.extend(acks.iter().map(|ack| from_ack(&ack)));
        });
        prop_assert_eq!(came, acks);
    }

    #[test]
    fn fences_and_their_answers_round_trip(
        fences in vec(fence(), 1..50),
        answers in vec(fence_answer(), 1..50),
    ) {
        let mut output = output();
        let sent: Vec<_> = fences.iter().map(to_fence).collect();
        output.send(&Message::Fences((&*sent).into())).expect("there is room");
        let sent: Vec<_> = answers.iter().map(to_fence_answer).collect();
        output.send(&Message::FenceAnswers((&*sent).into())).expect("there is room");
        let (mut came, mut answered) = (Vec::new(), Vec::new());
        carry(&output, 4096, |message| match message {
            Message::Fences(fences) => came.extend(fences.iter().map(|fence| from_fence(&fence))),
            Message::FenceAnswers(answers) => {
                answered.extend(answers.iter().map(|answer| from_fence_answer(&answer)));
            }
            other => panic!("{other:?}"),
        });
        prop_assert_eq!((came, answered), (fences, answers));
    }

    #[test]
    fn requests_round_trip(requests in vec(request(), 1..30)) {
        let mut output = output();
        let mut voters = Vec::new();
        let sent = to_asks(&requests, &mut voters);
        output.send(&Message::Asks((&*sent).into())).expect("there is room");
        let mut came = Vec::new();
        carry(&output, 4096, |message| {
            let Message::Asks(asks) = message else { panic!("{message:?}") };
            came.extend(asks.iter().map(|ask| from_ask(&ask)));
        });
        prop_assert_eq!(came, requests);
    }
}

#[test]
fn a_lease_longer_than_the_wire_can_say_is_the_longest_it_can() {
    let answer = FenceAnswer {
        partition: PartitionId(1),
        from: LeaderId {
            replica: ReplicaId { storage: StorageUuid(1), life: 1 },
            incarnation: Incarnation(1),
        },
        term: Term(2),
        last_term: Term(1),
        log_end: Offset(1),
        lease_left: Duration::MAX,
    };
    let sent = to_fence_answer(&answer);
    assert_eq!(sent.lease_left_ns, u64::MAX);
    assert_eq!(from_fence_answer(&sent).lease_left, Duration::from_nanos(u64::MAX));
}
