//! Caps: what is refused before it is sent, and what is refused when it comes nevertheless.

use ironring_core::limits::FRAME_BODY_BYTES_MAX;
use ironring_core::{Offset, PartitionId, Term};
use ironring_net::BodyError;
use ironring_net::peer::frame::{FORWARD_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use ironring_net::peer::hello::TOKEN_BYTES_MAX;
use ironring_net::peer::message::*;
use ironring_net::peer::output::{CONTROL_BYTES_MAX, GROUP_CREDITS, GROUP_SHARE};
use ironring_net::peer::{Frame, Handshake, Hello, Input, Kind, Output, OutputError, PeerError};

use super::examples::{
    ack, aligned, hello, leader, list, messages, output, output_of, replica, section,
};

fn fence() -> Fence {
    Fence { partition: PartitionId(1), to: replica(2), term: Term(1) }
}

fn answer() -> FenceAnswer {
    FenceAnswer {
        partition: PartitionId(1),
        from: leader(2),
        term: Term(4),
        last_term: Term(3),
        log_end: Offset(4),
        lease_left_ns: 1,
    }
}

fn voters(count: usize) -> Ask<'static> {
    Ask::Voters {
        partition: PartitionId(1),
        term: Term(1),
        from: replica(1),
        base: 1,
        voters: list(vec![replica(1); count]),
    }
}

#[test]
fn lists_at_their_caps_are_sent_and_read() {
    let ack = ack(1, AckState::Flushed { end: Offset(1) });
    for message in [
        Message::Replicate(list(vec![section(1, 1, b"entry"); SECTIONS_MAX])),
        Message::Acks(list(vec![ack; SECTIONS_MAX])),
        Message::Fences(list(vec![fence(); SECTIONS_MAX])),
        Message::FenceAnswers(list(vec![answer(); SECTIONS_MAX])),
        Message::Asks(list(vec![voters(VOTERS_MAX); ASKS_MAX])),
    ] {
        let mut output = output();
        output.send(&message).unwrap();
        let bytes = aligned(output.bytes());
        assert_eq!(Frame::parse(&bytes, 1).unwrap().message(), Ok(message));
    }
}

#[test]
fn lists_beyond_their_caps_are_not_sent() {
    let ack = ack(1, AckState::Flushed { end: Offset(1) });
    for (message, field, len, max) in [
        (Message::Acks(list(vec![ack; SECTIONS_MAX + 1])), "list", 4097, 4096),
        (Message::Fences(list(vec![fence(); SECTIONS_MAX + 1])), "list", 4097, 4096),
        (Message::FenceAnswers(list(vec![answer(); SECTIONS_MAX + 1])), "list", 4097, 4096),
        (Message::Asks(list(vec![voters(1); ASKS_MAX + 1])), "list", 1025, 1024),
        (Message::Asks(list(vec![voters(VOTERS_MAX + 1)])), "voters", 17, 16),
    ] {
        let mut output = output();
        let error = BodyError::TooLarge { field, len, max };
        let expected = PeerError::Field { kind: message.kind(), error };
        assert_eq!(output.send(&message), Err(OutputError::Message(expected)));
        assert_eq!(output.queued_bytes(), 0);
    }
}

#[test]
fn what_a_peer_would_refuse_is_not_sent() {
    let mut output = output();
    for message in [
        Message::Acks(list(vec![])),
        Message::Asks(list(vec![voters(0)])),
        Message::Credits { bytes: 0 },
        Message::Replicate(list(vec![section(1, 0, b"records of no entry")])),
        Message::Replicate(list(vec![section(1, 2, b"")])),
    ] {
        let sent = output.send(&message);
        assert!(matches!(sent, Err(OutputError::Message(_))), "{sent:?}");
        assert_eq!(output.queued_bytes(), 0);
    }
    // The next is the first frame of the connection.
    output.send(&Message::Credits { bytes: 1 }).unwrap();
    assert_eq!(Frame::parse(output.bytes(), 1).unwrap().header.sequence, 0);
}

#[test]
fn payloads_have_their_limits() {
    let too_long = vec![1; FORWARD_BYTES_MAX as usize + 1].leak();
    let (max, longest) = too_long.split_at(FORWARD_BYTES_MAX as usize);
    assert_eq!((max.len(), longest.len()), (FRAME_BODY_BYTES_MAX, 1));
    let messages = messages();
    let forward = |body| {
        messages.iter().find_map(|(_, message)| match message {
            Message::Forward(forward) => Some(Message::Forward(Forward { body, ..*forward })),
            _ => None,
        })
    };
    output().send(&forward(max).unwrap()).unwrap();
    let sent = output().send(&forward(too_long).unwrap());
    assert!(matches!(sent, Err(OutputError::Message(PeerError::TooLarge { .. }))), "{sent:?}");
    let payload = &too_long[..PAYLOAD_BYTES_MAX as usize + 1];
    let raft = Message::Raft(Raft { call: 1, half: Half::Answer, payload });
    let expected = PeerError::TooLarge {
        kind: Kind::Raft,
        part: "payload",
        len: PAYLOAD_BYTES_MAX + 1,
        max: PAYLOAD_BYTES_MAX,
    };
    assert_eq!(output().send(&raft), Err(OutputError::Message(expected)));
}

#[test]
fn a_full_frame_takes_no_more_and_stays_good() {
    let mut output = output();
    let half = vec![1; PAYLOAD_BYTES_MAX as usize / 2].leak();
    let mut frame = output.replicate().unwrap();
    frame.push(&section(1, 1, half), []).unwrap();
    // The second half comes in parts; the third does not fit, in whatever parts it comes.
    frame.push(&section(2, 2, &half[..100]), [&half[100..1000], &half[1000..]]).unwrap();
    assert_eq!(frame.room(), 0);
    let refused = frame.push(&section(3, 1, b""), [&[][..], b"x"]);
    assert!(matches!(refused, Err(OutputError::FrameFull { .. })));
    frame.push(&section(4, 0, b""), []).unwrap();
    assert_eq!(frame.sections(), 3);
    frame.finish().unwrap();
    let bytes = aligned(output.bytes());
    let Ok(Message::Replicate(sections)) = Frame::parse(&bytes, 1).unwrap().message() else {
        panic!("it is a frame of sections");
    };
    assert_eq!(sections.len(), 3);
    assert_eq!(sections.get(1).unwrap().records, half);
    assert_eq!(sections.get(2).unwrap().partition, PartitionId(4));
    assert_eq!(sections.get(3), None);
}

/// A build and the one before it speak the older one's version: what that does not have is not sent,
/// and ends the connection when it comes.
#[test]
fn a_kind_of_a_later_version_is_neither_sent_nor_taken() {
    let mut later = 0;
    for (name, message) in messages() {
        let kind = message.kind();
        let unknown = PeerError::UnknownKind { version: 1, kind: kind as u8 };
        let mut older = output_of(1);
        let sent = older.send(&message);
        let mut newer = output_of(2);
        newer.send(&message).unwrap();
        let bytes = aligned(newer.bytes());
        assert_eq!(Frame::parse(&bytes, 2).unwrap().message(), Ok(message), "{name}");
        if kind.since() > 1 {
            assert_eq!(sent, Err(OutputError::Message(unknown)), "{name}");
            assert_eq!(older.queued_bytes(), 0);
            let frame = Frame::parse(&bytes, 2).unwrap();
            let mut header = frame.header;
            header.version = 1;
            let content = &bytes[HEADER_BYTES..];
            let claimed = aligned(&[&header.encode()[..], content].concat());
            assert_eq!(Frame::parse(&claimed, 1), Err(unknown), "{name}");
            later += 1;
        } else {
            assert_eq!(sent, Ok(()), "{name}");
            let older = aligned(older.bytes());
            let (old, new) = (Frame::parse(&older, 1).unwrap(), Frame::parse(&bytes, 2).unwrap());
            assert_eq!(old.payload, new.payload, "{name}");
            // Of these alone version 2 has more to say.
            assert_eq!(old.body == new.body, kind != Kind::Replicate, "{name}");
        }
    }
    assert_eq!(later, 7);
}

#[test]
fn a_frame_that_is_dropped_leaves_nothing() {
    let mut output = output();
    output.send(&Message::Credits { bytes: 1 }).unwrap();
    let before = output.bytes().to_vec();
    let mut frame = output.replicate().unwrap();
    frame.push(&section(1, 1, b"entry"), []).unwrap();
    drop(frame);
    assert_eq!(output.bytes(), before);
    output.replicate().unwrap().finish().unwrap();
    assert_eq!(output.bytes(), before);
}

#[test]
fn an_output_is_bounded_and_control_frames_have_room() {
    let mut output = Output::new(1000);
    output.agree(1, u64::MAX);
    let raft = Message::Raft(Raft { call: 1, half: Half::Answer, payload: &[0; 600] });
    let bulk = Message::Replicate(list(vec![section(1, 1, &[0; 600])]));
    output.send(&bulk).unwrap();
    output.send(&bulk).unwrap();
    let queued = output.queued_bytes();
    assert_eq!(output.send(&bulk), Err(OutputError::Full { queued, max: 1000 }));
    assert!(output.replicate().is_err());
    output.send(&raft).expect("the metadata group does not wait for replicas that catch up");
    let mut frames = 0;
    while output.send(&Message::Credits { bytes: 1 }).is_ok() {
        frames += 1;
    }
    assert!(frames > 1000);
    assert!(output.queued_bytes() < 1000 + CONTROL_BYTES_MAX + HEADER_BYTES + 16);
    let taken = output.take(Default::default());
    assert!(output.send(&raft).is_err(), "what is being written still counts");
    output.sent(taken.len() - 10);
    assert_eq!(output.queued_bytes(), 10);
    output.send(&raft).unwrap();
    output.sent(10);
    assert_eq!(output.bytes().len(), HEADER_BYTES + 608 + 16);
}

#[test]
fn a_hello_has_its_limits() {
    let token = vec![1; TOKEN_BYTES_MAX + 1].leak();
    let long = "x".repeat(256).leak();
    let good = hello();
    let send = |hello| {
        let mut output = Output::new(1 << 20);
        output.handshake(&Handshake::Hello(hello)).map(|()| output.queued_bytes())
    };
    assert!(send(Hello { token: &token[1..], ..good }).is_ok());
    let named = |node_name| Hello {
        identity: ironring_net::peer::hello::Identity { node_name, ..good.identity },
        ..good
    };
    for hello in [
        Hello { token, ..good },
        Hello { versions: (0, 1), ..good },
        Hello { versions: (2, 1), ..good },
        Hello { from_shard: ironring_core::ShardId(2), ..good },
        named(""),
        named(long),
    ] {
        assert!(matches!(send(hello), Err(OutputError::Message(PeerError::Field { .. }))));
    }
    assert!(send(named(&long[1..])).is_ok());
}

#[test]
fn replication_leaves_the_metadata_group_credits() {
    let given = GROUP_SHARE * GROUP_CREDITS;
    let mut output = Output::new(usize::MAX / 2);
    output.agree(2, given);
    let records = vec![0; given as usize];
    let piece = |len| {
        let payload = &records[..len];
        Message::SnapshotPiece(SnapshotPiece { transfer: 1, number: 0, last: false, payload })
    };
    let room = output.room();
    assert_eq!(room as u64, given - GROUP_CREDITS);
    let refused = output.send(&piece(room + 1));
    assert_eq!(refused, Err(OutputError::NoCredit { need: room + 1, left: room as u64 }));
    output.send(&piece(room)).unwrap();
    let mut frame = output.replicate().unwrap();
    assert_eq!(frame.room(), 0);
    assert!(frame.push(&section(1, 1, b"1"), []).is_err());
    frame.push(&section(2, 0, b""), []).expect("a sign of life has no payload");
    frame.finish().unwrap();
    let payload = &records[..GROUP_CREDITS as usize];
    output.send(&Message::Raft(Raft { call: 1, half: Half::Request, payload })).unwrap();
    assert_eq!((output.credits(), output.room()), (0, 0));
    // The group's come first of what is given again.
    output.credit(GROUP_CREDITS + 1);
    assert_eq!(output.room(), 1);
}

#[test]
fn payloads_use_up_credits() {
    let mut output = Output::new(1 << 20);
    output.agree(1, 10);
    let raft = Message::Raft(Raft { call: 1, half: Half::Request, payload: b"123456" });
    output.send(&raft).unwrap();
    assert_eq!(output.send(&raft), Err(OutputError::NoCredit { need: 6, left: 4 }));
    let mut frame = output.replicate().unwrap();
    assert_eq!(frame.room(), 4);
    let refused = frame.push(&section(1, 1, b"1234"), [&b"5"[..]]);
    assert_eq!(refused, Err(OutputError::NoCredit { need: 5, left: 4 }));
    frame.push(&section(1, 1, b"1234"), []).unwrap();
    frame.push(&section(2, 0, b""), []).unwrap();
    frame.finish().unwrap();
    assert_eq!(output.credits(), 0);
    // What has no payload needs none; more may be given at any time.
    output.send(&Message::Credits { bytes: 1 }).unwrap();
    output.credit(6);
    output.send(&raft).unwrap();

    let bytes = output.bytes().to_vec();
    for (granted, frames) in [(16, 4), (15, 3), (5, 0)] {
        let mut input = Input::new();
        input.agree(1, 0);
        input.grant(granted);
        input.space(bytes.len())[..bytes.len()].copy_from_slice(&bytes);
        input.filled(bytes.len());
        for _ in 0..frames {
            assert!(input.next_frame().unwrap().is_some());
        }
        match input.next_frame() {
            Ok(frame) => assert_eq!((frame, granted), (None, 16)),
            Err(error) => {
                let left = granted - if granted == 15 { 10 } else { 0 };
                assert_eq!(error, PeerError::NoCredit { kind: Kind::Raft, len: 6, left });
            }
        }
    }
}
