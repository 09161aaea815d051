//! `docs/peer-protocol.md` names what the code names: kinds, refusals, limits.

use ironring_net::peer::frame::*;
use ironring_net::peer::hello::{REFUSAL_BYTES_MAX, TOKEN_BYTES_MAX};
use ironring_net::peer::message::*;
use ironring_net::peer::{Kind, PORT, Refusal, VERSIONS};

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/peer-protocol.md");
    std::fs::read_to_string(path).unwrap()
}

fn digits(number: usize) -> String {
    let text = number.to_string();
    let mut out = String::new();
    for (i, digit) in text.chars().enumerate() {
        if i > 0 && (text.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[test]
fn every_kind_has_its_row_and_its_section() {
    let document = document();
    for kind in Kind::ALL {
        let (body, payload) = (kind.body_bytes_max(), kind.payload_bytes_max());
        let row = format!(
            "| 0x{:02X} | {} | {} | {} |",
            *kind as u8,
            kind.name(),
            digits(body as usize),
            digits(payload as usize)
        );
        assert!(document.contains(&row), "no row has `{row}`");
        let in_title = |line: &str| line.starts_with("### ") && line.contains(kind.name());
        assert!(document.lines().any(in_title), "no section is titled `{}`", kind.name());
    }
}

#[test]
fn every_refusal_has_its_row() {
    let document = document();
    for refusal in Refusal::ALL {
        let retry = if refusal.retriable() { "yes" } else { "no" };
        let row = format!("| {} | {} | {retry} |", refusal.code(), refusal.name());
        assert!(document.contains(&row), "no row has `{row}`");
    }
}

#[test]
fn limits_are_those_of_the_code() {
    let document = document();
    for expected in [
        format!("Default port {PORT}."),
        format!("Versions {} to {} exist.", VERSIONS.0, VERSIONS.1),
        format!(
            "| sections of a `Replicate`; acks, fences, answers to fences in a frame | {} |",
            digits(SECTIONS_MAX)
        ),
        format!("| requests to the controller in a frame | {} |", digits(ASKS_MAX)),
        format!("| voters in a request | {VOTERS_MAX} |"),
        format!("| entries of a section | {} |", digits(SECTION_ENTRIES_MAX as usize)),
        format!("| token | {TOKEN_BYTES_MAX} bytes |"),
        format!("| message of a refusal | {} bytes |", digits(REFUSAL_BYTES_MAX)),
        format!("| frame | {} bytes |", digits(FRAME_BYTES_MAX)),
    ] {
        assert!(document.contains(&expected), "the document does not say `{expected}`");
    }
}
