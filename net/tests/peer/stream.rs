//! Streams of frames, cut anywhere, and what is copied on the way.

use ironring_core::{Incarnation, Instant, Offset, PartitionId, StorageUuid, Term, WallTime};
use ironring_net::Header as ClientHeader;
use ironring_net::peer::frame::HEADER_BYTES;
use ironring_net::peer::input::KEEP_BYTES;
use ironring_net::peer::message::*;
use ironring_net::peer::{Handshake, Input, Output, VERSIONS};
use proptest::collection::vec;
use proptest::prelude::*;

use super::examples::{handshakes, list, messages, output, output_of, section};

/// Hands `bytes` to `input` in pieces of at most `len` and calls `each` with every frame's message.
fn receive(input: &mut Input, mut bytes: &[u8], len: usize, mut each: impl FnMut(Message<'_>)) {
    while !bytes.is_empty() {
        let space = input.space(len);
        let taken = space.len().min(bytes.len());
        space[..taken].copy_from_slice(&bytes[..taken]);
        input.filled(taken);
        bytes = &bytes[taken..];
        while let Some(frame) = input.next_frame().unwrap() {
            each(frame.message().unwrap());
        }
    }
}

fn all_messages() -> Vec<u8> {
    let mut output = output_of(VERSIONS.1);
    for (_, message) in messages() {
        output.send(&message).unwrap();
    }
    output.bytes().to_vec()
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    let (bytes, expected) = (all_messages(), messages());
    for len in (1..200).chain([bytes.len() - 1, bytes.len()]) {
        let mut input = Input::new();
        input.agree(VERSIONS.1, u64::MAX);
        let mut expected = expected.iter();
        receive(&mut input, &bytes, len, |message| {
            assert_eq!(message, expected.next().unwrap().1);
        });
        assert_eq!(expected.next(), None);
        assert_eq!(input.buffered(), 0);
    }
}

#[test]
fn messages_follow_the_handshake_on_one_connection() {
    let mut output = Output::new(1 << 20);
    let (_, hello) = &handshakes()[0];
    output.handshake(hello).unwrap();
    output.agree(1, u64::MAX);
    output.send(&Message::Credits { bytes: 5 }).unwrap();
    let mut input = Input::new();
    let bytes = output.bytes();
    input.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
    input.filled(bytes.len());
    let frame = input.next_frame().unwrap().unwrap();
    assert!(matches!(frame.handshake(), Ok(Handshake::Hello(_))));
    input.agree(1, u64::MAX);
    let frame = input.next_frame().unwrap().unwrap();
    assert_eq!(frame.message(), Ok(Message::Credits { bytes: 5 }));
    assert_eq!(input.next_frame(), Ok(None));
}

#[test]
fn frames_that_arrived_whole_stay_where_they_are() {
    let bytes = all_messages();
    let mut input = Input::new();
    input.agree(VERSIONS.1, u64::MAX);
    let space = input.space(bytes.len());
    space.copy_from_slice(&bytes);
    let mut at = space.as_ptr().addr();
    input.filled(bytes.len());
    while let Some(frame) = input.next_frame().unwrap() {
        assert_eq!(frame.payload.as_ptr().addr(), at + HEADER_BYTES);
        assert_eq!(frame.body.as_ptr().addr() % 16, 0);
        if let Message::Replicate(sections) = frame.message().unwrap() {
            assert!(sections.iter().all(|section| {
                let records = section.records.as_ptr_range();
                frame.payload.as_ptr_range().contains(&records.start) || section.records.is_empty()
            }));
        }
        at += frame.header.frame_bytes();
    }
}

/// A frame larger than the buffer moves once, when its header is there and its memory is not.
#[test]
fn a_large_frame_moves_once() {
    let records = vec![7; 1 << 20].leak();
    let mut output = output();
    output.send(&Message::Replicate(list(vec![section(5, 1, records)]))).unwrap();
    let bytes = output.bytes().to_vec();
    for offset in [0, 16, HEADER_BYTES - 1, HEADER_BYTES, 40_000] {
        let mut input = Input::new();
        input.agree(1, u64::MAX);
        let mut places = Vec::new();
        let mut rest = &bytes[..];
        let mut len = KEEP_BYTES - offset;
        loop {
            while input.next_frame().unwrap().is_some() {}
            let space = input.space(len);
            let taken = space.len().min(rest.len()).min(len);
            space[..taken].copy_from_slice(&rest[..taken]);
            places.push((bytes.len() - rest.len(), space.as_ptr().addr()));
            input.filled(taken);
            rest = &rest[taken..];
            len = KEEP_BYTES;
            if rest.is_empty() {
                break;
            }
        }
        let frame = input.next_frame().unwrap().unwrap();
        let start = frame.payload.as_ptr().addr() - HEADER_BYTES;
        // All but the first piece lie where they were received.
        for (at, place) in &places[1..] {
            assert_eq!(start + at, *place, "{offset}: byte {at} moved");
        }
        assert!(input.memory() <= bytes.len() + KEEP_BYTES);
    }
}

#[test]
fn memory_for_a_large_frame_is_given_back() {
    let records = vec![7; 1 << 20].leak();
    let mut output = output();
    output.send(&Message::Replicate(list(vec![section(5, 1, records)]))).unwrap();
    for bytes in 1..=40 {
        output.send(&Message::Credits { bytes }).unwrap();
    }
    let mut input = Input::new();
    input.agree(1, u64::MAX);
    let mut frames = 0;
    receive(&mut input, output.bytes(), 48, |_| frames += 1);
    assert_eq!(frames, 41);
    assert_eq!(input.memory(), KEEP_BYTES);
    input.release();
    assert_eq!(input.memory(), 0);
}

#[derive(Clone, Debug)]
struct Any {
    seed: u64,
    kind: u8,
    payloads: Vec<Vec<u8>>,
}

fn any_message() -> impl Strategy<Value = Any> {
    let payloads = vec(vec(any::<u8>(), 0..300), 1..6);
    (any::<u64>(), 0..15u8, payloads).prop_map(|(seed, kind, payloads)| Any {
        seed,
        kind,
        payloads,
    })
}

impl Any {
    /// The message it stands for. Leaks: a test.
    fn message(&self) -> Message<'static> {
        let mut prng = ironring_core::prng::Prng::new(self.seed);
        let mut number = || prng.next_u64() >> (prng.next_u64() % 64);
        let mut replica =
            || ReplicaId { storage: StorageUuid(u128::from(number()) << 64), life: number() };
        let (to, from, other) = (replica(), replica(), replica());
        let from = LeaderId { replica: from, incarnation: Incarnation(number()) };
        let partition = PartitionId(number() as u32);
        let (term, low) = (Term(number()), Term(number()));
        let (offset, end) = (Offset(number() >> 1), Offset(number() | 1));
        let call = number();
        let payloads: Vec<&'static [u8]> =
            self.payloads.iter().map(|payload| &*payload.clone().leak()).collect();
        let payload = payloads[0];
        let header = ClientHeader {
            version: call as u8,
            opcode: call as u8,
            status: 3,
            correlation: call,
            body_len: payload.len() as u32,
            deadline_ms: 9,
            body_crc: 8,
        };
        match self.kind {
            0 => Message::Replicate(list(
                payloads
                    .iter()
                    .map(|records| Replicate {
                        partition,
                        to,
                        from,
                        term,
                        first: offset,
                        prev_term: low,
                        count: records.len() as u32,
                        high_watermark: end,
                        probe: Instant(call),
                        answered: Instant(0),
                        age_ms: AGE_UNKNOWN,
                        records,
                    })
                    .collect(),
            )),
            1 => {
                let states = [
                    AckState::Flushed { end },
                    AckState::Mismatch { end, term: low },
                    AckState::Promised { term: low },
                ];
                let probe = Instant(call);
                let ack = |state| Ack { partition, from, to, term, state, probe };
                Message::Acks(list(states[call as usize % 3..].iter().copied().map(ack).collect()))
            }
            2 => Message::Fences(list(vec![Fence { partition, to, term }; payloads.len()])),
            3 => {
                let answer = |lease_left_ns| FenceAnswer {
                    partition,
                    from,
                    term,
                    last_term: low,
                    log_end: end,
                    lease_left_ns,
                };
                Message::FenceAnswers(list([0, call, u64::MAX].map(answer).to_vec()))
            }
            4 => {
                let to = LeaderId { replica: to, ..from };
                let voters = list(vec![other; payloads.len()]);
                let replica = from.replica;
                Message::Asks(list(vec![
                    Ask::Election { partition, term, from },
                    Ask::Voters { partition, term, from: replica, base: call, voters },
                    Ask::Transfer { partition, term, from: replica, to },
                    Ask::Renew { partition, replica, renewal: call },
                ]))
            }
            5 => Message::Raft(Raft { call, half: Half::Request, payload }),
            6 => Message::Forward(Forward { call, header, body: payload }),
            7 => {
                let header = ClientHeader { correlation: 0, deadline_ms: 0, ..header };
                Message::ForwardAnswer(ForwardAnswer { call, header, body: payload })
            }
            8 => Message::SnapshotBegin(SnapshotBegin {
                transfer: call,
                partition,
                to,
                from,
                term,
                start: offset,
                end: Offset(offset.0 + call / 2),
                end_term: low,
                total_bytes: call,
            }),
            9 => {
                let (number, last) = (partition.0, call % 2 == 0);
                Message::SnapshotPiece(SnapshotPiece { transfer: call, number, last, payload })
            }
            10 => {
                let state = SnapshotState::Resume { number: partition.0 };
                Message::SnapshotAnswer(SnapshotAnswer { transfer: call, state })
            }
            11 => Message::Credits { bytes: end.0 },
            12 => Message::Ping(Ping { sent: Instant(call), wall: WallTime(end.0) }),
            13 => Message::Pong(Ping { sent: Instant(call), wall: WallTime(end.0) }),
            _ => Message::Goodbye(GoodbyeReason::from_u32(1 + call as u32 % 5).unwrap()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn messages_round_trip_through_any_cuts(
        messages in vec(any_message(), 1..12),
        cuts in vec(1..700usize, 1..20),
    ) {
        let messages: Vec<_> = messages.iter().map(Any::message).collect();
        let mut output = output();
        for message in &messages {
            output.send(message).unwrap();
        }
        let mut input = Input::new();
        input.agree(1, u64::MAX);
        let mut expected = messages.iter();
        let mut cuts = cuts.iter().cycle();
        // The output is written in pieces as well: what is left stays on its boundaries.
        while output.queued_bytes() > 0 {
            let len = output.queued_bytes().min(*cuts.next().unwrap());
            let piece = output.bytes()[..len].to_vec();
            output.sent(len);
            receive(&mut input, &piece, *cuts.next().unwrap(), |message| {
                assert_eq!(Some(&message), expected.next());
            });
        }
        prop_assert_eq!(expected.next(), None);
    }

    #[test]
    fn any_bytes_end_in_a_typed_error_or_wait_for_more(
        bytes in vec(any::<u8>(), 0..200),
        version in 0..3u16,
    ) {
        let bytes = [b"IRNP", &bytes[..]].concat();
        let _ = ironring_net::peer::Frame::parse(&bytes, version);
        let mut input = Input::new();
        if version > 0 {
            input.agree(version, 100);
        }
        input.space(bytes.len())[..bytes.len()].copy_from_slice(&bytes);
        input.filled(bytes.len());
        while let Ok(Some(frame)) = input.next_frame() {
            let _ = frame.message();
        }
    }
}
