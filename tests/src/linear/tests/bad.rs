//! Histories that violate one thing each, refused for the right reason.

use super::*;
use Kind::*;

#[test]
fn stale_read_after_an_acked_write() {
    let ops = vec![put((1, 0..1), "a", 1, 1), put((1, 2..3), "a", 2, 2), get((2, 4..5), "a", 1, 1)];
    refused_as(StaleRead, 4, ops);
}

#[test]
fn lost_acked_write() {
    refused_as(Missing, 4, vec![put((1, 0..1), "a", 1, 1), absent((2, 4..5), "a")]);
}

#[test]
fn value_never_written() {
    refused_as(NeverWritten, 4, vec![put((1, 0..1), "a", 1, 1), get((2, 4..5), "a", 7, 9)]);
    refused_as(WrongValue, 4, vec![put((1, 0..1), "a", 1, 1), get((2, 4..5), "a", 7, 1)]);
}

#[test]
fn value_of_a_write_that_failed() {
    let mut failed = put((1, 0..1), "a", 1, 0);
    failed.answer = Answer::Failed;
    refused_as(NeverWritten, 4, vec![failed, get((2, 4..5), "a", 1, 3)]);
}

#[test]
fn value_of_another_key() {
    let ops = vec![put((1, 0..1), "a", 1, 1), put((1, 2..3), "b", 2, 2), get((2, 4..5), "a", 2, 2)];
    refused_as(NeverWritten, 4, ops);
}

#[test]
fn read_from_the_future() {
    refused_as(FromTheFuture, 0, vec![get((2, 0..1), "a", 1, 1), put((1, 4..5), "a", 1, 1)]);
    let late = unknown(put((1, 4..5), "a", 1, 1));
    refused_as(FromTheFuture, 0, vec![get((2, 0..1), "a", 1, 1), late]);
}

#[test]
fn duplicated_success_of_a_compare_and_set() {
    let ops =
        vec![put((1, 0..1), "a", 1, 1), cas((1, 2..3), "a", 2, 1, 2), cas((1, 4..5), "a", 2, 1, 3)];
    refused_as(ConditionNotHeld, 4, ops);
}

#[test]
fn two_compare_and_set_winners() {
    let ops =
        vec![put((1, 0..1), "a", 1, 1), cas((1, 2..9), "a", 2, 1, 2), cas((2, 3..8), "a", 3, 1, 3)];
    refused_as(ConditionNotHeld, 3, ops);
}

#[test]
fn two_creators() {
    let ops = vec![create((1, 0..9), "a", 1, receipt(1)), create((2, 1..8), "a", 2, receipt(2))];
    refused_as(ConditionNotHeld, 1, ops);
}

#[test]
fn refusal_although_the_condition_holds() {
    refused_as(ConditionNotHeld, 4, vec![put((1, 0..1), "a", 1, 1), refused((1, 4..5), "a", 1, 1)]);
}

#[test]
fn refusal_for_a_version_long_gone() {
    let ops =
        vec![put((1, 0..1), "a", 1, 1), put((1, 2..3), "a", 2, 2), refused((1, 4..5), "a", 9, 1)];
    refused_as(StaleRead, 4, ops);
}

#[test]
fn resurrected_delete() {
    let ops = vec![
        put((1, 0..1), "a", 1, 1),
        delete((1, 2..3), "a", 2),
        absent((2, 4..5), "a"),
        get((2, 6..7), "a", 1, 1),
    ];
    refused_as(StaleRead, 6, ops);
}

#[test]
fn phantom_half_of_a_batch() {
    let both = || vec![to("a", 1), to("b", 2)];
    let halves = vec![cell(1, 1), None];
    refused_as(
        Torn,
        1,
        vec![write((1, 0..10), both(), receipt(2)), multi((2, 1..9), &["a", "b"], halves.clone())],
    );
    refused_as(
        Torn,
        1,
        vec![unknown(write((1, 0..10), both(), receipt(0))), multi((2, 1..9), &["a", "b"], halves)],
    );
    refused_as(
        WentBack,
        4,
        vec![
            unknown(write((1, 0..10), both(), receipt(0))),
            get((2, 1..3), "a", 1, 1),
            absent((2, 4..5), "b"),
        ],
    );
}

#[test]
fn scan_without_a_key_that_is_there() {
    let ops =
        vec![put((1, 0..1), "a", 1, 1), put((1, 2..3), "b", 2, 2), scan((2, 4..5), &[("a", 1, 1)])];
    refused_as(StaleRead, 4, ops);
}

#[test]
fn version_going_back() {
    refused_as(VersionOrder, 0, vec![put((1, 0..1), "a", 1, 5), put((1, 2..3), "a", 2, 4)]);
    // Of another key of the partition as well: versions are its offsets.
    refused_as(VersionOrder, 0, vec![put((1, 0..1), "a", 1, 5), put((1, 2..3), "b", 2, 4)]);
}

#[test]
fn reads_going_back() {
    let ops = vec![
        put((1, 0..1), "a", 1, 1),
        put((1, 2..20), "a", 2, 2),
        get((2, 3..4), "a", 2, 2),
        get((3, 5..6), "a", 1, 1),
    ];
    refused_as(WentBack, 5, ops);
}

#[test]
fn one_version_for_two_writes() {
    refused_as(VersionReused, 2, vec![put((1, 0..1), "a", 1, 1), put((1, 2..3), "b", 2, 1)]);
}

#[test]
fn one_write_applied_twice() {
    let ops = vec![
        unknown(put((1, 0..1), "a", 1, 0)),
        get((2, 2..3), "a", 1, 1),
        put((2, 4..5), "a", 2, 2),
        get((2, 6..7), "a", 1, 3),
    ];
    refused_as(VersionReused, 6, ops);
}

#[test]
fn unknown_write_seen_then_unseen() {
    let ops = vec![
        put((1, 0..1), "a", 1, 1),
        unknown(put((1, 2..3), "a", 2, 0)),
        get((2, 4..5), "a", 2, 2),
        get((2, 6..7), "a", 1, 1),
    ];
    refused_as(WentBack, 6, ops);
}

#[test]
fn unknown_delete_that_comes_and_goes() {
    let ops = vec![
        put((1, 0..1), "a", 1, 1),
        unknown(delete((1, 2..3), "a", 0)),
        absent((2, 4..5), "a"),
        get((2, 6..7), "a", 1, 1),
    ];
    refused_as(NoOrder, 6, ops);
}

#[test]
fn answers_that_contradict_themselves() {
    refused_as(Malformed, 0, vec![scan((1, 0..1), &[("b", 2, 2), ("a", 1, 1)])]);
    refused_as(Malformed, 0, vec![multi((1, 0..1), &["a", "b"], vec![None])]);
    refused_as(Malformed, 0, vec![put((1, 0..1), "a", 1, 0)]);
}

#[test]
fn reordered_topic_offsets() {
    refused_as(VersionOrder, 0, vec![append((1, 0..1), &[1], 1), append((1, 2..3), &[2], 0)]);
}

#[test]
fn hole_in_a_topic() {
    refused_as(Hole, 2, vec![append((1, 0..1), &[1], 0), append((1, 2..3), &[2], 2)]);
    let mut holed = read((2, 4..5), 0, &[1, 2], 0, 2);
    holed.answer = Answer::Records { records: vec![(0, 1), (2, 2)], start: 0, end: 3 };
    refused_as(Hole, 4, vec![append((1, 0..1), &[1], 0), append((1, 2..3), &[2], 2), holed]);
    // An append that was sent later cannot have filled it.
    refused_as(
        Hole,
        2,
        vec![
            append((1, 0..1), &[1], 0),
            append((1, 2..3), &[2], 2),
            unknown(append((1, 4..5), &[3], 0)),
        ],
    );
}

#[test]
fn a_record_that_changes() {
    refused_as(
        WrongValue,
        4,
        vec![
            append((1, 0..1), &[1], 0),
            unknown(append((1, 2..3), &[2], 0)),
            read((2, 4..5), 0, &[2], 0, 1),
        ],
    );
    refused_as(
        WrongValue,
        6,
        vec![
            unknown(append((1, 0..1), &[1], 0)),
            unknown(append((1, 2..3), &[2], 0)),
            read((2, 4..5), 0, &[2], 0, 1),
            read((2, 6..7), 0, &[1], 0, 1),
        ],
    );
}

#[test]
fn a_record_nobody_appended_or_at_two_offsets() {
    refused_as(
        NeverWritten,
        4,
        vec![append((1, 0..1), &[1], 0), read((2, 4..5), 0, &[1, 9], 0, 2)],
    );
    refused_as(
        VersionReused,
        4,
        vec![append((1, 0..1), &[1], 0), read((2, 4..5), 0, &[1, 1], 0, 2)],
    );
    refused_as(VersionReused, 2, vec![append((1, 0..1), &[1], 0), append((1, 2..3), &[2], 0)]);
}

#[test]
fn an_acked_append_that_is_not_read() {
    refused_as(Missing, 4, vec![append((1, 0..1), &[1], 0), read((2, 4..5), 0, &[], 0, 0)]);
}

#[test]
fn a_read_beyond_what_was_appended() {
    refused_as(
        FromTheFuture,
        2,
        vec![
            append((1, 0..1), &[1], 0),
            read((2, 2..3), 0, &[1, 2], 0, 2),
            append((1, 4..5), &[2], 1),
        ],
    );
}

#[test]
fn the_end_of_a_topic_goes_back() {
    refused_as(
        WentBack,
        4,
        vec![
            append((1, 0..90), &[1], 0),
            read((2, 2..3), 0, &[1], 0, 1),
            read((2, 4..5), 0, &[], 0, 0),
        ],
    );
}

#[test]
fn half_of_an_append() {
    let ops = vec![append((1, 0..90), &[1, 2], 0), read((2, 2..3), 0, &[1], 0, 1)];
    refused_as(Torn, 2, ops);
}

#[test]
fn the_start_of_a_topic_goes_back_or_rises_by_itself() {
    let log = || append((1, 0..1), &[1, 2, 3], 0);
    refused_as(
        StaleRead,
        4,
        vec![log(), trim((1, 2..3), 2), read((2, 4..5), 1, &[2, 3], 1, 3)]
            .into_iter()
            .chain([trim((3, 0..1), 1)])
            .collect(),
    );
    refused_as(NeverWritten, 4, vec![log(), read((2, 4..5), 1, &[2, 3], 1, 3)]);
    refused_as(
        WentBack,
        6,
        vec![
            log(),
            unknown(trim((1, 2..3), 2)),
            read((2, 4..5), 2, &[3], 2, 3),
            read((2, 6..7), 0, &[1, 2, 3], 0, 3),
        ],
    );
}

#[test]
fn the_end_and_the_start_never_were_so_together() {
    // The trim came after the second append, so nobody saw its start with the end before that.
    refused_as(
        Torn,
        10,
        vec![
            append((1, 0..1), &[1, 2], 0),
            append((1, 2..100), &[3], 2),
            trim((2, 3..100), 1),
            read((3, 4..90), 0, &[1, 2, 3], 0, 3),
            read((4, 10..90), 1, &[2], 1, 2),
        ],
    );
}

#[test]
fn a_trim_of_what_is_not_there() {
    let mut beyond = trim((3, 50..60), 2);
    beyond.answer = Answer::OutOfRange { start: 0 };
    let ops = vec![
        append((1, 0..100), &[1, 2], 0),
        trim((2, 10..90), 2),
        out_of_range((3, 30..40), 1, 2),
        beyond,
    ];
    refused_as(WentBack, 50, ops);
    refused_as(VersionOrder, 0, vec![trim((2, 0..1), 2), append((1, 5..6), &[1, 2], 0)]);
}
