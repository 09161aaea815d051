//! Histories that a correct cluster can give, the tricky ones among them.

use super::*;

#[test]
fn one_client_after_the_other() {
    accepted(vec![
        absent((1, 0..1), "a"),
        put((1, 2..3), "a", 10, 5),
        get((2, 4..5), "a", 10, 5),
        cas((2, 6..7), "a", 11, 5, 6),
        refused((1, 8..9), "a", 5, 6),
        delete((1, 10..11), "a", 8),
        absent((2, 12..13), "a"),
        delete((2, 14..15), "a", 0),
        create((1, 16..17), "a", 12, receipt(9)),
        create((2, 18..19), "a", 13, Answer::ConditionFailed { found: 9 }),
    ]);
}

#[test]
fn a_read_that_overlaps_a_write_may_see_it_or_not() {
    accepted(vec![
        put((1, 0..1), "a", 1, 1),
        put((1, 10..20), "a", 2, 2),
        get((2, 11..12), "a", 1, 1),
        get((2, 13..14), "a", 2, 2),
        get((3, 11..15), "a", 1, 1),
    ]);
}

#[test]
fn an_unknown_write_may_appear_late() {
    accepted(vec![
        put((1, 0..1), "a", 1, 1),
        unknown(put((2, 2..3), "a", 2, 0)),
        get((1, 10..11), "a", 1, 1),
        get((1, 100..101), "a", 2, 7),
        get((3, 110..111), "a", 2, 7),
    ]);
}

#[test]
fn an_unknown_write_may_never_appear() {
    accepted(vec![
        put((1, 0..1), "a", 1, 1),
        unknown(put((2, 2..3), "a", 2, 0)),
        put((1, 20..21), "a", 3, 5),
        get((1, 30..31), "a", 3, 5),
    ]);
}

#[test]
fn an_unknown_delete_may_explain_that_a_key_is_gone() {
    accepted(vec![
        put((1, 0..1), "a", 1, 1),
        unknown(delete((2, 2..3), "a", 0)),
        get((1, 10..11), "a", 1, 1),
        absent((1, 20..21), "a"),
        create((1, 30..31), "a", 4, receipt(9)),
        get((1, 40..41), "a", 4, 9),
    ]);
}

#[test]
fn what_touches_overlaps() {
    accepted(vec![put((1, 0..10), "a", 1, 2), put((2, 10..20), "a", 2, 1)]);
}

#[test]
fn writes_that_overlap_take_any_order() {
    accepted(vec![
        put((1, 0..100), "a", 1, 7),
        put((2, 0..100), "a", 2, 3),
        put((3, 0..100), "b", 3, 5),
        get((4, 101..102), "a", 1, 7),
        get((5, 50..60), "a", 2, 3),
    ]);
}

#[test]
fn a_key_may_be_absent_at_several_times() {
    accepted(vec![
        put((1, 0..5), "a", 1, 1),
        delete((1, 10..30), "a", 2),
        put((1, 40..60), "a", 3, 3),
        absent((2, 20..25), "a"),
        absent((3, 26..50), "a"),
        absent((4, 0..3), "a"),
        get((5, 24..45), "a", 3, 3),
    ]);
}

#[test]
fn a_batch_is_seen_whole() {
    let both = vec![to("a", 1), to("b", 2)];
    accepted(vec![
        write((1, 0..10), both, receipt(8)),
        multi((2, 1..2), &["a", "b"], vec![None, None]),
        multi((2, 3..4), &["b", "a"], vec![cell(2, 8), cell(1, 7)]),
        scan((3, 11..12), &[("a", 1, 7), ("b", 2, 8)]),
    ]);
}

#[test]
fn a_later_change_of_a_batch_hides_an_earlier_one() {
    accepted(vec![
        write((1, 0..10), vec![to("a", 1), to("a", 2)], receipt(8)),
        get((2, 11..12), "a", 2, 8),
    ]);
}

#[test]
fn a_batch_may_be_refused_for_any_of_its_conditions() {
    let batch = |a: u64, b: u64| {
        let change = |key, v| conditional(to(key, 5), Condition::Version(v));
        vec![change("a", a), change("b", b)]
    };
    accepted(vec![
        put((1, 0..1), "a", 1, 1),
        put((1, 2..3), "b", 2, 2),
        write((1, 4..5), batch(1, 9), Answer::ConditionFailed { found: 2 }),
        write((1, 6..7), batch(9, 2), Answer::ConditionFailed { found: 1 }),
        write((1, 8..9), batch(1, 2), receipt(4)),
    ]);
}

#[test]
fn values_expire_when_their_time_is_over() {
    let mortal = Change { ttl_ms: 1, ..to("a", 1) };
    let ms = 1_000_000;
    let rules = Rules { clock_slack: ms / 10, ..Rules::default() };
    let history = |end| {
        History::new(vec![
            write((1, 0..1), vec![mortal.clone()], receipt(1)),
            get((1, 100..200), "a", 1, 1),
            absent((1, end - 10..end), "a"),
        ])
    };
    assert_eq!(check(&history(ms), &rules).verdict, Verdict::Linearizable);
    assert!(matches!(check(&history(ms / 2), &rules).verdict, Verdict::Refused(_)));
    let kept = History::new(vec![
        write((1, 0..1), vec![mortal.clone()], receipt(1)),
        get((1, 2 * ms..2 * ms + 1), "a", 1, 1),
    ]);
    assert!(matches!(check(&kept, &rules).verdict, Verdict::Refused(_)));
}

#[test]
fn a_weakly_acked_write_may_be_lost_and_its_version_given_again() {
    let weak = Answer::Receipt { level: Level::Async, version: Some(2) };
    accepted(vec![
        put((1, 0..1), "a", 1, 1),
        write((1, 2..3), vec![to("a", 2)], weak),
        get((1, 4..5), "a", 1, 1),
        put((1, 6..7), "a", 3, 2),
        get((1, 8..9), "a", 3, 2),
    ]);
}

#[test]
fn a_stale_read_may_be_as_old_as_it_says() {
    let stale = |age| {
        let mut read = get((2, 50..51), "a", 1, 1);
        read.age = Some(age);
        vec![put((1, 0..1), "a", 1, 1), put((1, 10..20), "a", 2, 2), read]
    };
    accepted(stale(30));
    refused_as(Kind::StaleRead, 50, stale(29));
}

#[test]
fn answers_without_versions_are_searched() {
    let plain = |value| vec![Some(Cell { version: None, value: Some(value) })];
    let ack = || Answer::Receipt { level: Level::Quorum, version: None };
    accepted(vec![
        write((1, 0..10), vec![to("a", 1)], ack()),
        write((2, 0..10), vec![to("a", 2)], ack()),
        multi((3, 11..12), &["a"], plain(1)),
        multi((3, 13..14), &["a"], plain(1)),
    ]);
    refused_as(
        Kind::NoOrder,
        13,
        vec![
            write((1, 0..10), vec![to("a", 1)], ack()),
            write((2, 0..10), vec![to("a", 2)], ack()),
            multi((3, 11..12), &["a"], plain(1)),
            multi((3, 13..14), &["a"], plain(2)),
        ],
    );
}

#[test]
fn a_topic_grows_and_is_trimmed() {
    accepted(vec![
        read((1, 0..1), 0, &[], 0, 0),
        append((1, 2..3), &[10, 11], 0),
        append((2, 4..9), &[12], 2),
        read((3, 5..6), 0, &[10, 11], 0, 2),
        read((3, 7..8), 1, &[11, 12], 0, 3),
        trim((1, 10..20), 2),
        read((3, 11..12), 0, &[10, 11, 12], 0, 3),
        read((3, 13..14), 2, &[12], 2, 3),
        out_of_range((3, 15..16), 1, 2),
        trim((2, 21..22), 1),
        out_of_range((2, 23..24), 9, 2),
    ]);
}

#[test]
fn unknown_appends_fill_gaps_or_never_appear() {
    accepted(vec![
        unknown(append((1, 0..1), &[1, 2], 0)),
        unknown(append((2, 0..1), &[3], 0)),
        append((3, 10..11), &[4], 2),
        read((3, 12..13), 2, &[4], 0, 3),
        read((3, 100..101), 3, &[3], 0, 4),
        read((3, 102..103), 0, &[1, 2, 4, 3], 0, 4),
    ]);
    accepted(vec![
        unknown(append((1, 0..1), &[1, 2], 0)),
        unknown(append((2, 0..1), &[3], 0)),
        append((3, 10..11), &[4], 3),
    ]);
}
