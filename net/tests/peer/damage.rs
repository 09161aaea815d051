//! Bytes that are not what a peer sends.

use ironring_core::checksum::crc32c;
use ironring_net::BodyError;
use ironring_net::peer::frame::{HEADER_BYTES, Header, decode_header};
use ironring_net::peer::message::{Ask, Message};
use ironring_net::peer::{Frame, Input, Kind, PeerError};

use super::examples::{ack, aligned, frames, list, output, output_of, replica, section};
use ironring_core::{Offset, PartitionId, Term};
use ironring_net::peer::message::AckState;

/// The header with lengths and kind of `header`, and both checksums right.
fn resealed(header: Header, content: &[u8]) -> Vec<u8> {
    let header = Header { content_crc: crc32c(content), ..header };
    [&header.encode()[..], content].concat()
}

fn read(bytes: &[u8], version: u16) -> Result<(), PeerError> {
    let frame = Frame::parse(bytes, version)?;
    if version == 0 { frame.handshake().map(drop) } else { frame.message().map(drop) }
}

#[test]
fn every_truncation_is_noticed() {
    for (name, version, bytes) in frames() {
        for len in 0..bytes.len() {
            let short = aligned(&bytes[..len]);
            let need = if len < HEADER_BYTES { HEADER_BYTES } else { bytes.len() };
            let expected = PeerError::Short { need, got: len };
            assert_eq!(Frame::parse(&short, version), Err(expected), "{name} at {len}");
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for (name, version, bytes) in frames() {
        for bit in 0..bytes.len() * 8 {
            let mut bad = aligned(&bytes);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::parse(&bad, version).is_err(), "{name}, bit {bit}");
        }
    }
}

/// Behind checksums that are right nothing panics, and what is taken says what it says.
#[test]
fn a_flipped_bit_with_right_checksums_is_refused_or_read() {
    for (name, version, bytes) in frames() {
        let header = decode_header(&bytes, version).unwrap();
        for bit in 0..(bytes.len() - HEADER_BYTES) * 8 {
            let mut content = bytes[HEADER_BYTES..].to_vec();
            content[bit / 8] ^= 1 << (bit % 8);
            let bad = aligned(&resealed(header, &content));
            let Ok(frame) = Frame::parse(&bad, version) else { continue };
            if let Ok(message) = frame.message() {
                let mut again = output_of(version);
                again.send(&message).unwrap();
                let bytes = aligned(again.bytes());
                let read = Frame::parse(&bytes, version).unwrap().message();
                assert_eq!(read, Ok(message), "{name}");
            }
            let _ = frame.handshake();
        }
    }
}

#[test]
fn padding_is_zero() {
    let frames = frames();
    let (_, _, bytes) = frames.iter().find(|(name, _, _)| *name == "snapshot_piece").unwrap();
    let mut content = bytes[HEADER_BYTES..].to_vec();
    content[12] = 1;
    let bad = resealed(decode_header(bytes, 1).unwrap(), &content);
    let kind = Kind::SnapshotPiece;
    assert_eq!(read(&aligned(&bad), 1), Err(PeerError::Padding { kind }));
}

#[test]
fn a_body_off_its_boundary_is_refused() {
    for (name, version, bytes) in frames().into_iter().filter(|(_, version, _)| *version == 1) {
        for shift in [1, 2, 3, 5, 7] {
            let mut buffer = aligned(&vec![0; shift]);
            buffer.extend_from_slice(&bytes);
            let frame = Frame::parse(&buffer[shift..], version).unwrap();
            let kind = frame.header.kind;
            assert_eq!(frame.message(), Err(PeerError::Archive { kind }), "{name}");
        }
    }
}

#[test]
fn headers_tell_what_is_wrong_with_them() {
    let header = Header {
        version: 1,
        kind: Kind::Ping,
        body_len: 16,
        payload_len: 0,
        sequence: 0,
        content_crc: 0,
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = header.encode();
        bytes[at] = byte;
        let crc = crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        decode_header(&bytes, 1)
    };
    assert_eq!(with(7, 0), Ok(header));
    assert_eq!(with(3, b'G'), Err(PeerError::BadMagic { got: *b"IRNG" }));
    assert_eq!(with(4, 2), Err(PeerError::Version { got: 2, expected: 1 }));
    assert_eq!(with(6, 0x7f), Err(PeerError::UnknownKind { version: 1, kind: 0x7f }));
    assert_eq!(with(6, 0x01), Err(PeerError::UnknownKind { version: 1, kind: 0x01 }));
    assert_eq!(with(7, 1), Err(PeerError::UnknownFlags(1)));
    let too_large = |part, len, max| Err(PeerError::TooLarge { kind: Kind::Ping, part, len, max });
    assert_eq!(with(10, 1), too_large("body", (1 << 16) + 16, 1024));
    assert_eq!(with(12, 1), too_large("payload", 1, 0));
    let mut bytes = header.encode();
    bytes[16] ^= 1;
    assert!(matches!(decode_header(&bytes, 1), Err(PeerError::HeaderChecksum { .. })));
    let handshake = Header { version: 0, kind: Kind::Hello, body_len: 0, ..header };
    let expected = PeerError::Version { got: 0, expected: 1 };
    assert_eq!(decode_header(&handshake.encode(), 1), Err(expected));
    assert_eq!(decode_header(&handshake.encode(), 0), Ok(handshake));
}

/// Changes the archived integer at `at` behind the start of the body.
fn with_body(message: &Message<'_>, at: usize, value: u32) -> Result<(), PeerError> {
    let mut output = output();
    output.send(message).unwrap();
    let bytes = output.bytes().to_vec();
    let header = decode_header(&bytes, 1).unwrap();
    let mut content = bytes[HEADER_BYTES..].to_vec();
    let at = (header.payload_len as usize).next_multiple_of(16) + at;
    content[at..at + 4].copy_from_slice(&value.to_le_bytes());
    read(&aligned(&resealed(header, &content)), 1)
}

#[test]
fn ranges_of_the_payload_follow_each_other() {
    let sections =
        Message::Replicate(list(vec![section(5, 1, b"first"), section(6, 1, b"second")]));
    let range = |section| Err(PeerError::Range { kind: Kind::Replicate, section });
    assert_eq!(with_body(&sections, 104, 0), Ok(()));
    for (at, value, expected) in [
        (104, 1, range(0)),        // The first begins behind the start.
        (108, 4, range(1)),        // A gap.
        (108, 6, range(1)),        // An overlap.
        (108, u32::MAX, range(0)), // Beyond the payload.
        (112 + 104, 4, range(1)),  // An overlap.
        (112 + 108, 7, range(1)),  // Beyond the payload.
        (112 + 108, 5, range(2)),  // Left over.
        (112 + 104, u32::MAX, range(1)),
    ] {
        assert_eq!(with_body(&sections, at, value), expected, "at {at}: {value}");
    }
}

#[test]
fn fields_mean_something() {
    let sections = Message::Replicate(list(vec![section(5, 1, b"first")]));
    let field = |kind, error| Err(PeerError::Field { kind, error });
    let too_large = BodyError::TooLarge { field: "count", len: 65_537, max: 65_536 };
    assert_eq!(with_body(&sections, 4, 65_537), field(Kind::Replicate, too_large));
    assert!(matches!(
        with_body(&sections, 4, 0),
        Err(PeerError::Field { error: BodyError::Invalid { field: "count", .. }, .. })
    ));
    let far = Message::Replicate(list(vec![section(5, 65_536, b"first")]));
    assert_eq!(with_body(&far, 72, u32::MAX), Ok(()));
    assert_eq!(with_body(&far, 76, u32::MAX), Ok(()));
    let acks = Message::Acks(list(vec![ack(5, AckState::Flushed { end: Offset(4) })]));
    let unknown = BodyError::UnknownChoice { field: "state", value: 9 };
    assert_eq!(with_body(&acks, 4, 9), field(Kind::Acks, unknown));
    let reserved = BodyError::Reserved { field: "end" };
    assert_eq!(with_body(&acks, 4, 3), field(Kind::Acks, reserved));
    // The root of a list: where its items are, and how many.
    for (at, value) in [(96, 1), (96, u32::MAX), (100, 2), (100, u32::MAX), (96, 0)] {
        let expected = Err(PeerError::Archive { kind: Kind::Acks });
        assert_eq!(with_body(&acks, at, value), expected, "at {at}: {value}");
    }
    assert!(matches!(with_body(&acks, 100, 0), Err(PeerError::Field { .. })));
}

#[test]
fn offsets_of_a_section_do_not_overflow() {
    let last = Offset(u64::MAX - 1);
    let mut output = output();
    for (count, fits) in [(1, true), (2, false)] {
        let section =
            ironring_net::peer::message::Replicate { first: last, ..section(5, count, b"entries") };
        let sent = output.send(&Message::Replicate(list(vec![section])));
        assert_eq!(sent.is_ok(), fits, "{sent:?}");
    }
}

#[test]
fn frames_come_in_sequence_and_an_error_is_the_last_word() {
    let mut output = output();
    for bytes in 1..=3 {
        output.send(&Message::Credits { bytes }).unwrap();
    }
    let bytes = output.bytes().to_vec();
    let len = bytes.len() / 3;
    for (order, expected) in [
        ([0, 2, 1], Some((2, 1))), // One is missing.
        ([0, 0, 1], Some((0, 1))), // One comes twice.
        ([0, 1, 2], None),
    ] {
        let mut input = Input::new();
        input.agree(1, u64::MAX);
        let stream: Vec<u8> = order
            .iter()
            .flat_map(|number| &bytes[number * len..(number + 1) * len])
            .copied()
            .collect();
        input.space(stream.len())[..stream.len()].copy_from_slice(&stream);
        input.filled(stream.len());
        let mut outcome = None;
        for _ in 0..3 {
            if let Err(error) = input.next_frame() {
                outcome = Some(error);
            }
        }
        let expected = expected.map(|(got, expected)| PeerError::OutOfSequence { got, expected });
        assert_eq!(outcome, expected);
        // What comes behind an error is not looked at.
        input.space(1)[0] = 0;
        input.filled(1);
        assert_eq!(input.next_frame().err(), expected, "{order:?}");
    }
}

/// Where elements of vectors inside items may lie: in front of the items, in their order.
#[test]
fn vectors_inside_items_lie_in_order() {
    let voters = |partition| Ask::Voters {
        partition: PartitionId(partition),
        term: Term(1),
        from: replica(1),
        base: 1,
        voters: list(vec![replica(1)]),
    };
    let asks = Message::Asks(list(vec![voters(1), voters(2)]));
    // Two replicas of 24 bytes, then two items whose vectors are their last 8 bytes.
    let (first, second) = (48 + 88, 48 + 96 + 88);
    let to = |at: usize, element: usize| (element as i32 - at as i32) as u32;
    assert_eq!(with_body(&asks, first, to(first, 0)), Ok(()));
    assert_eq!(with_body(&asks, second, to(second, 24)), Ok(()));
    let refused = Err(PeerError::Archive { kind: Kind::Asks });
    for (at, element) in [(first, 24), (second, 0), (second, 16), (first, 8), (first, 48)] {
        assert_eq!(with_body(&asks, at, to(at, element)), refused, "{at} to {element}");
    }
    assert_eq!(with_body(&asks, first + 4, 2), refused);
}
