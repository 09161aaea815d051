//! `docs/protocol.md` names what the code names: opcodes, error codes, limits.

#![expect(clippy::unwrap_used, reason = "a test file: a panic is a failed test")]

use ironring_core::{ErrorCode, limits};
use ironring_net::Opcode;
use ironring_net::list::STORED_LIST_BYTES_MAX;

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_error_code_is_described_as_it_is() {
    let document = document();
    for code in ErrorCode::ALL {
        let retriable = if code.retriable() { "yes" } else { "no" };
        let begins = format!("| {} | {} | {retriable} | ", *code as u16, code.name());
        let ends = format!(" | {} |", code.hint());
        let line = document.lines().find(|line| line.starts_with(&begins));
        let line = line.unwrap_or_else(|| panic!("no row begins with `{begins}`"));
        assert!(line.ends_with(&ends), "{line}");
    }
}

#[test]
fn every_opcode_has_its_row_and_its_section() {
    let document = document();
    for opcode in Opcode::ALL {
        let (code, name) = (*opcode as u8, opcode.name());
        let row = format!("0x{code:02X} | {name} |");
        assert!(document.lines().any(|line| line.contains(&row)), "no row has `{row}`");
        let title = format!("0x{code:02X} {name}");
        let in_title = |line: &str| line.starts_with("### ") && line.contains(&title);
        assert!(document.lines().any(in_title), "no section is titled `{title}`");
    }
}

#[test]
fn limits_are_those_of_the_code() {
    let document = document();
    let digits = |number: usize| {
        let text = number.to_string();
        let mut out = String::new();
        for (i, digit) in text.chars().enumerate() {
            if i > 0 && (text.len() - i).is_multiple_of(3) {
                out.push(',');
            }
            out.push(digit);
        }
        out
    };
    for expected in [
        format!("| frame body | {} bytes", digits(limits::FRAME_BODY_BYTES_MAX)),
        format!("| key | 1 to {} bytes", limits::KEY_BYTES_MAX),
        format!("| value of a key | {} MiB", limits::VALUE_BYTES_MAX >> 20),
        format!("operations of a batch | {} |", limits::BATCH_OPS_MAX),
        format!("records of an append | {} bytes", digits(STORED_LIST_BYTES_MAX)),
        format!("records of a read | {} |", digits(limits::APPEND_RECORDS_MAX)),
        format!("| entries of a scan page | {} |", limits::SCAN_ENTRIES_MAX),
        format!("| topic name | 1 to {} of", limits::TOPIC_NAME_BYTES_MAX),
        format!("| partitions of a topic | 1 to {} |", limits::TOPIC_PARTITIONS_MAX),
        format!("per session and partition | {} |", limits::SESSION_WINDOW),
        format!("A partition remembers {};", limits::SESSIONS_PER_PARTITION_MAX),
    ] {
        assert!(document.contains(&expected), "the document does not say `{expected}`");
    }
}
