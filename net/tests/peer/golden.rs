//! Exact bytes of every message: `golden/peer_frames.json`. A change of these is a change of the
//! protocol, and needs a version of its own.
//!
//! `IRONRING_BLESS=1 cargo test -p ironring-net --test peer` writes the file anew.

use std::fmt::Write as _;
use std::path::PathBuf;

use ironring_core::Instant;
use ironring_net::peer::message::{AGE_UNKNOWN, Message, Replicate};
use ironring_net::peer::{Frame, Kind};

use super::examples::{aligned, frames, handshakes, list, messages, output_of, section};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn golden() -> Vec<(String, Vec<u8>)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peer_frames.json");
    if std::env::var_os("IRONRING_BLESS").is_some() {
        let lines: Vec<String> = frames()
            .iter()
            .map(|(name, _, frame)| {
                format!("  {{\"name\": \"{name}\", \"frame\": \"{}\"}}", hex(frame))
            })
            .collect();
        std::fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let text = |entry: &serde_json::Value, field: &str| entry[field].as_str().unwrap().to_owned();
    let entries = file.as_array().unwrap().iter();
    entries.map(|entry| (text(entry, "name"), unhex(&text(entry, "frame")))).collect()
}

#[test]
fn messages_have_the_golden_bytes() {
    let (golden, frames) = (golden(), frames());
    assert_eq!(golden.len(), frames.len());
    for ((golden_name, expected), (name, _, frame)) in golden.iter().zip(&frames) {
        assert_eq!(golden_name, name);
        assert_eq!(hex(frame), hex(expected), "{name}");
    }
}

#[test]
fn golden_bytes_decode_to_the_messages() {
    let golden = golden();
    let (handshakes, messages) = (handshakes(), messages());
    let (before, after) = golden.split_at(handshakes.len());
    for ((name, bytes), (_, handshake)) in before.iter().zip(handshakes) {
        let bytes = aligned(bytes);
        let frame = Frame::parse(&bytes, 0).unwrap();
        assert_eq!(frame.handshake(), Ok(handshake), "{name}");
    }
    assert_eq!(after.len(), messages.len());
    for ((name, bytes), (_, message)) in after.iter().zip(messages) {
        let bytes = aligned(bytes);
        let frame = Frame::parse(&bytes, message.kind().since()).unwrap();
        assert_eq!(frame.header.kind, message.kind(), "{name}");
        assert_eq!(frame.message(), Ok(message), "{name}");
    }
}

#[test]
fn every_kind_has_an_example() {
    let frames = frames();
    for kind in Kind::ALL {
        assert!(frames.iter().any(|(_, _, frame)| frame[6] == *kind as u8), "{}", kind.name());
        assert_eq!(Kind::from_u8(*kind as u8), Some(*kind));
    }
}

/// Rows of the document's header table, by hand.
#[test]
fn a_header_has_these_bytes() {
    let frames = frames();
    let (_, _, frame) = frames.iter().find(|(name, _, _)| *name == "snapshot_piece").unwrap();
    assert_eq!(&frame[..8], b"IRNP\x01\x00\x41\x00");
    assert_eq!(&frame[8..16], &[16, 0, 0, 0, 12, 0, 0, 0]);
    assert_eq!(&frame[16..24], &[0; 8]);
    assert_eq!(&frame[32..48], b"live records\0\0\0\0");
    assert_eq!(&frame[48..], &[9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(frame[24..28], ironring_core::checksum::crc32c(&frame[32..]).to_le_bytes());
    assert_eq!(frame[28..32], ironring_core::checksum::crc32c(&frame[..28]).to_le_bytes());
}

/// Reads sections with nothing but what `docs/peer-protocol.md` says of archives.
#[test]
fn an_archive_is_read_by_the_document_alone() {
    let frames = frames();
    let (_, _, frame) = frames.iter().find(|(name, _, _)| *name == "replicate").unwrap();
    let u32_at =
        |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (body_len, payload_len) = (u32_at(frame, 8) as usize, u32_at(frame, 12) as usize);
    let payload = &frame[32..32 + payload_len];
    let body_at = 32 + payload_len.next_multiple_of(16);
    let body = &frame[body_at..body_at + body_len];
    let root = body.len() - 8;
    let first = root.checked_add_signed(u32_at(body, root) as i32 as isize).unwrap();
    assert_eq!((first, u32_at(body, root + 4)), (0, 3));
    let second = &body[first + 112..first + 224];
    assert_eq!((u32_at(second, 0), u32_at(second, 4)), (6, 0));
    assert_eq!((&second[8..24], u64_at(second, 24)), (&[2; 16][..], 0x102));
    assert_eq!((&second[32..48], u64_at(second, 48)), (&[1; 16][..], 0x101));
    assert_eq!((u64_at(second, 56), u64_at(second, 64)), (0x201, 3));
    assert_eq!([72, 80, 88].map(|at| u64_at(second, at)), [40, 2, 39]);
    assert_eq!(u64_at(second, 96), 0x1122_3344_5566_7788);
    let third = &body[first + 224..first + 336];
    let (start, len) = (u32_at(third, 104) as usize, u32_at(third, 108) as usize);
    assert_eq!(&payload[start..start + len], b"and a third");
}

/// Version 2's sections have more, behind what version 1's have.
#[test]
fn sections_say_how_old_they_are_from_version_2_on() {
    let told = Replicate { answered: Instant(0x99), age_ms: 1234, ..section(5, 1, b"first") };
    let message = Message::Replicate(list(vec![told, section(6, 0, b"")]));
    for version in [1, 2] {
        let mut output = output_of(version);
        output.send(&message).unwrap();
        let bytes = aligned(output.bytes());
        let frame = Frame::parse(&bytes, version).unwrap();
        let Ok(Message::Replicate(sections)) = frame.message() else { panic!("no sections") };
        let found = sections.get(0).map(|section| (section.answered, section.age_ms));
        match version {
            1 => assert_eq!(found, Some((Instant(0), AGE_UNKNOWN))),
            _ => assert_eq!(Message::Replicate(sections), message),
        }
        assert_eq!(sections.get(1).map(|section| section.age_ms), Some(AGE_UNKNOWN));
        let size = [112, 128][usize::from(version) - 1];
        assert_eq!(frame.body.len(), 2 * size + 8);
        if version == 2 {
            let number = |at: usize| u64::from_le_bytes(frame.body[at..at + 8].try_into().unwrap());
            assert_eq!((number(96), number(112)), (0x1122_3344_5566_7788, 0x99));
            assert_eq!((number(120), number(128 + 120)), (1234, u64::from(AGE_UNKNOWN)));
        }
    }
}
