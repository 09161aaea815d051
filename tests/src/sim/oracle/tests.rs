//! Each rule of the oracle, by a history that breaks it, next to one that does not.

use ironring_core::{PartitionId, SessionId};

use super::*;
use crate::sim::op::{Change, Entry, Intent, KeyOp, TopicRecord, payload};

const P: PartitionId = PartitionId(3);
const TOPIC: TopicId = TopicId(1);

#[derive(Default)]
struct History {
    oracle: Oracle,
    requests: u64,
    writes: u64,
    wall: u64,
}

impl History {
    fn new() -> History {
        let mut h = History { wall: 1000, ..History::default() };
        let made = Op::TopicCreate { name: "t".to_owned(), partitions: 1, retain_bytes: 0 };
        h.ask(made, Outcome::Topic(TOPIC)).expect("a topic can be made");
        h
    }

    fn send(&mut self, op: &Op) -> RequestId {
        self.requests += 1;
        self.oracle.send(RequestId(self.requests), op, self.wall);
        RequestId(self.requests)
    }

    fn answer(&mut self, request: RequestId, outcome: &Outcome) -> Result<(), String> {
        self.oracle.answer(request, outcome, self.wall).map_err(|v| v.why)
    }

    fn ask(&mut self, op: Op, outcome: Outcome) -> Result<(), String> {
        let request = self.send(&op);
        self.answer(request, &outcome)
    }

    fn intent(&mut self, level: Durability) -> Intent {
        self.writes += 1;
        Intent { id: WriteId(self.writes), partition: P, level, session: None }
    }

    fn write(&mut self, level: Durability, change: Change, condition: Condition) -> Op {
        let intent = self.intent(level);
        Op::Write { intent, ops: vec![KeyOp { key: key(), change, condition }], batch: false }
    }

    fn put(&mut self) -> Op {
        self.write(Durability::Local, PUT, Condition::None)
    }

    fn put_at(&mut self, version: u64) -> WriteId {
        let op = self.put();
        let id = op.intent().expect("a put has one").id;
        self.ask(op, receipt(version)).expect("a fresh put is acked");
        id
    }

    fn delete(&mut self) -> Op {
        self.write(Durability::Local, Change::Delete, Condition::None)
    }

    fn get(&mut self, outcome: Outcome) -> Result<(), String> {
        self.ask(Op::Get { key: key() }, outcome)
    }

    fn power_loss(&mut self, open: &[RequestId]) {
        open.iter().for_each(|request| self.oracle.abandon(*request));
        self.oracle.crash();
    }
}

const PUT: Change = Change::Put { len: 20, ttl_ms: 0 };
const NOT_FOUND: Outcome = Outcome::Error { code: ErrorCode::NotFound, detail: 0 };

fn key() -> Key {
    b"k".as_slice().into()
}

fn receipt(offset: u64) -> Outcome {
    Outcome::Receipt(receipt_at(Durability::Local, offset))
}

fn receipt_at(level: Durability, offset: u64) -> Receipt {
    Receipt { level, partition: P, term: 1, offset, duplicate: false }
}

fn value(id: WriteId, version: u64) -> Outcome {
    Outcome::Value(Value { version, expires: 0, bytes: payload(id, 0, 20) })
}

fn id_of(op: &Op) -> WriteId {
    op.intent().expect("it is a write").id
}

fn breaks(result: Result<(), String>, why: &str) {
    let said = result.expect_err("a broken rule is noticed");
    assert!(said.contains(why), "`{said}` does not say `{why}`");
}

#[test]
fn an_acked_write_is_read_and_survives() {
    let mut h = History::new();
    let id = h.put_at(5);
    assert_eq!(h.get(value(id, 5)), Ok(()));
    h.power_loss(&[]);
    assert_eq!(h.get(value(id, 5)), Ok(()));
}

#[test]
fn an_acked_write_that_is_gone_after_a_crash_is_noticed() {
    let mut h = History::new();
    h.put_at(5);
    h.power_loss(&[]);
    breaks(h.get(NOT_FOUND), "no value was read");
}

#[test]
fn an_older_value_after_a_crash_is_noticed() {
    let mut h = History::new();
    let old = h.put_at(5);
    h.put_at(6);
    h.power_loss(&[]);
    breaks(h.get(value(old, 5)), "6 was there before");
}

#[test]
fn a_stale_read_is_noticed_and_a_concurrent_one_is_not() {
    let mut h = History::new();
    let old = h.put_at(5);
    let early = h.send(&Op::Get { key: key() });
    h.put_at(6);
    assert_eq!(h.answer(early, &value(old, 5)), Ok(()), "it began before the second put");
    breaks(h.get(value(old, 5)), "6 was there before");
}

#[test]
fn an_unanswered_write_is_there_or_not_and_stays_so() {
    let mut h = History::new();
    let old = h.put_at(5);
    let op = h.put();
    let id = id_of(&op);
    let open = h.send(&op);
    h.power_loss(&[open]);
    assert_eq!(h.get(value(id, 6)), Ok(()), "it may have been applied");
    breaks(h.get(value(old, 5)), "6 was there before");

    let mut h = History::new();
    let old = h.put_at(5);
    let op = h.put();
    let id = id_of(&op);
    let open = h.send(&op);
    h.power_loss(&[open]);
    assert_eq!(h.get(value(old, 5)), Ok(()), "it may not have been applied");
    breaks(h.get(value(id, 6)), "a read had seen 5");
}

#[test]
fn a_dirty_read_is_noticed() {
    let mut h = History::new();
    let old = h.put_at(5);
    let op = h.put();
    let open = h.send(&op);
    assert_eq!(h.get(value(id_of(&op), 6)), Ok(()), "it is visible before its ack");
    h.power_loss(&[open]);
    breaks(h.get(value(old, 5)), "6 was there before");
}

#[test]
fn a_dirty_read_of_a_removal_is_noticed() {
    let mut h = History::new();
    let old = h.put_at(5);
    let op = h.delete();
    let open = h.send(&op);
    assert_eq!(h.get(NOT_FOUND), Ok(()), "the removal may be visible before its ack");
    h.power_loss(&[open]);
    breaks(h.get(value(old, 5)), "6 was there before");
}

#[test]
fn async_writes_may_be_lost_and_then_stay_lost() {
    let mut h = History::new();
    let old = h.put_at(5);
    let op = h.write(Durability::Async, PUT, Condition::None);
    let id = id_of(&op);
    let ack = Outcome::Receipt(receipt_at(Durability::Async, 6));
    h.ask(op, ack).expect("an async put is acked");
    breaks(h.get(value(old, 5)), "6 was there before");
    h.power_loss(&[]);
    assert_eq!(h.get(value(old, 5)), Ok(()));
    breaks(h.get(value(id, 6)), "is back");
}

#[test]
fn a_missing_key_says_nothing_about_older_writes_when_an_open_removal_explains_it() {
    let mut h = History::new();
    let op = h.write(Durability::Async, PUT, Condition::None);
    h.ask(op, Outcome::Receipt(receipt_at(Durability::Async, 5))).expect("acked");
    let other = h.intent(Durability::Async);
    let key: Key = b"other".as_slice().into();
    let ops = vec![KeyOp { key: key.clone(), change: PUT, condition: Condition::None }];
    let ack = Outcome::Receipt(receipt_at(Durability::Async, 6));
    h.ask(Op::Write { intent: other, ops, batch: false }, ack).expect("acked");
    let op = h.write(Durability::Async, Change::Delete, Condition::None);
    let open = h.send(&op);
    h.power_loss(&[open]);
    assert_eq!(h.get(NOT_FOUND), Ok(()), "the removal was applied, so all before it was");
    assert_eq!(h.ask(Op::Get { key }, value(other.id, 6)), Ok(()));
}

#[test]
fn an_offset_lost_in_one_crash_may_be_taken_by_a_write_of_the_next_life() {
    let mut h = History::new();
    let op = h.write(Durability::Async, PUT, Condition::None);
    h.ask(op, Outcome::Receipt(receipt_at(Durability::Async, 5))).expect("acked");
    h.power_loss(&[]);
    let op = h.put();
    let id = id_of(&op);
    let open = h.send(&op);
    let other = h.intent(Durability::Local);
    let ops =
        vec![KeyOp { key: b"other".as_slice().into(), change: PUT, condition: Condition::None }];
    h.ask(Op::Write { intent: other, ops, batch: false }, receipt(6)).expect("acked");
    h.power_loss(&[open]);
    assert_eq!(h.get(value(id, 5)), Ok(()));
}

#[test]
fn what_precedes_a_durable_record_of_the_partition_survives_too() {
    let mut h = History::new();
    let op = h.write(Durability::Async, PUT, Condition::None);
    h.ask(op, Outcome::Receipt(receipt_at(Durability::Async, 5))).expect("acked");
    let other = h.intent(Durability::Local);
    let ops =
        vec![KeyOp { key: b"other".as_slice().into(), change: PUT, condition: Condition::None }];
    h.ask(Op::Write { intent: other, ops, batch: false }, receipt(6)).expect("acked");
    h.power_loss(&[]);
    breaks(h.get(NOT_FOUND), "no value was read");
}

#[test]
fn a_refused_write_must_not_be_applied() {
    let mut h = History::new();
    h.oracle.tolerated.insert(ErrorCode::Overloaded);
    let op = h.put();
    let id = id_of(&op);
    let no = Outcome::Error { code: ErrorCode::Overloaded, detail: 1 };
    h.ask(op, no).expect("a node may refuse");
    breaks(h.get(value(id, 5)), "was refused");
}

#[test]
fn an_unexplained_refusal_is_noticed() {
    let mut h = History::new();
    let op = h.put();
    let no = Outcome::Error { code: ErrorCode::NoSpace, detail: 0 };
    breaks(h.ask(op, no), "nothing explains");
}

#[test]
fn a_retry_that_is_applied_twice_is_noticed() {
    let mut h = History::new();
    let Op::Write { mut intent, ops, .. } = h.put() else { unreachable!("a put is a write") };
    intent.session = Some((SessionId(9), 1));
    let op = Op::Write { intent, ops, batch: false };
    h.ask(op.clone(), receipt(5)).expect("acked");
    h.power_loss(&[]);
    breaks(h.ask(op, receipt(6)), "applied at 5 and again at 6");
}

#[test]
fn a_forgotten_session_is_noticed() {
    let mut h = History::new();
    h.ask(Op::OpenSession, Outcome::Session(SessionId(9))).expect("opened");
    let Op::Write { mut intent, ops, .. } = h.put() else { unreachable!("a put is a write") };
    intent.session = Some((SessionId(9), 1));
    h.ask(Op::Write { intent, ops, batch: false }, receipt(5)).expect("acked");
    h.power_loss(&[]);
    let Op::Write { mut intent, ops, .. } = h.put() else { unreachable!("a put is a write") };
    intent.session = Some((SessionId(9), 2));
    let op = Op::Write { intent, ops, batch: false };
    let expired = Outcome::Error { code: ErrorCode::SessionExpired, detail: 0 };
    breaks(h.ask(op.clone(), expired), "is forgotten");
    let gap = Outcome::Error { code: ErrorCode::SequenceGap, detail: 1 };
    breaks(h.ask(op, gap), "1 were answered");
}

#[test]
fn conditions_exclude_what_lies_between() {
    let mut h = History::new();
    h.put_at(5);
    h.put_at(6);
    let op = h.write(Durability::Local, PUT, Condition::Version(5));
    breaks(h.ask(op, receipt(7)), "expected 5");
    let op = h.write(Durability::Local, PUT, Condition::Absent);
    breaks(h.ask(op, receipt(8)), "found no key");
    let op = h.write(Durability::Local, PUT, Condition::Version(7));
    let failed = Outcome::Error { code: ErrorCode::ConditionFailed, detail: 7 };
    breaks(h.ask(op, failed), "although 7 was found");
}

#[test]
fn foreign_bytes_and_foreign_keys_are_noticed() {
    let mut h = History::new();
    let id = h.put_at(5);
    let mut bytes = payload(id, 0, 20);
    bytes[15] ^= 1;
    let flipped = Outcome::Value(Value { version: 5, expires: 0, bytes });
    breaks(h.get(flipped), "not what");
    breaks(h.ask(Op::Get { key: b"x".as_slice().into() }, value(id, 5)), "nobody ever wrote");
    breaks(h.get(value(WriteId(99), 6)), "nobody ever sent");
}

#[test]
fn an_expired_value_may_be_gone_and_must_not_be_read() {
    let mut h = History::new();
    let op = h.write(Durability::Local, Change::Put { len: 20, ttl_ms: 50 }, Condition::None);
    let id = id_of(&op);
    h.ask(op, receipt(5)).expect("acked");
    breaks(h.get(NOT_FOUND), "no value was read");
    h.wall += 100;
    assert_eq!(h.get(NOT_FOUND), Ok(()));
    let bytes = payload(id, 0, 20);
    let late = Outcome::Value(Value { version: 5, expires: 1050, bytes });
    breaks(h.get(late), "expired at 1050");
}

#[test]
fn a_batch_is_applied_whole() {
    let mut h = History::new();
    let intent = h.intent(Durability::Local);
    let op = |key: &[u8]| KeyOp { key: key.into(), change: PUT, condition: Condition::None };
    let batch = Op::Write { intent, ops: vec![op(b"k"), op(b"other")], batch: true };
    let open = h.send(&batch);
    assert_eq!(h.get(value(intent.id, 5)), Ok(()), "the second operation is at 6");
    breaks(h.ask(Op::Get { key: b"other".as_slice().into() }, NOT_FOUND), "no value was read");
    h.power_loss(&[open]);
}

#[test]
fn a_scan_misses_nothing_and_keeps_its_order() {
    let mut h = History::new();
    let id = h.put_at(5);
    let scan = |limit| Op::Scan {
        partition: P,
        prefix: Vec::new(),
        after: Vec::new(),
        limit,
        values: false,
    };
    let entry = |key: &[u8], version| Entry { key: key.to_vec(), version, value: None };
    let page = |entries| Outcome::Page { entries, more: false };
    assert_eq!(h.ask(scan(0), page(vec![entry(b"k", 5)])), Ok(()));
    breaks(h.ask(scan(0), page(vec![])), "no value was read");
    breaks(h.ask(scan(0), page(vec![entry(b"k", 5), entry(b"a", 4)])), "order of key");
    assert_eq!(h.get(value(id, 5)), Ok(()));
}

fn append(h: &mut History, lens: Vec<u32>) -> Op {
    let intent = h.intent(Durability::Local);
    Op::Append { intent, topic: TOPIC, index: 0, lens }
}

fn read(from: u64) -> Op {
    Op::TopicRead { topic: TOPIC, index: 0, from: Some(from), max_records: 0 }
}

fn records(id: WriteId, offsets: &[u64], first: u64, (start, end): (u64, u64)) -> Outcome {
    let record = |offset: &u64| TopicRecord {
        offset: *offset,
        bytes: payload(id, (*offset - first) as usize, 20),
    };
    Outcome::Records { records: offsets.iter().map(record).collect(), start, end }
}

fn appended(offset: u64, first: u64, count: u32) -> Outcome {
    Outcome::Appended { receipt: receipt_at(Durability::Local, offset), first, count }
}

#[test]
fn topic_records_have_their_place_for_ever() {
    let mut h = History::new();
    let op = append(&mut h, vec![20, 20]);
    let id = id_of(&op);
    h.ask(op, appended(5, 0, 2)).expect("acked");
    assert_eq!(h.ask(read(0), records(id, &[0, 1], 0, (0, 2))), Ok(()));
    assert_eq!(h.ask(read(1), records(id, &[1], 0, (0, 2))), Ok(()));
    breaks(h.ask(read(0), records(id, &[1], 0, (0, 2))), "not 0");
    breaks(h.ask(read(0), records(id, &[], 0, (0, 2))), "nothing was read");
    h.power_loss(&[]);
    breaks(h.ask(read(0), records(id, &[0], 0, (0, 1))), "the end is 1");
    let op = append(&mut h, vec![20]);
    breaks(h.ask(op, appended(6, 1, 1)), "offset 1");
}

#[test]
fn an_append_applied_twice_is_noticed() {
    let mut h = History::new();
    let op = append(&mut h, vec![20]);
    let id = id_of(&op);
    h.ask(op, appended(5, 0, 1)).expect("acked");
    let twice = vec![
        TopicRecord { offset: 0, bytes: payload(id, 0, 20) },
        TopicRecord { offset: 1, bytes: payload(id, 0, 20) },
    ];
    let outcome = Outcome::Records { records: twice, start: 0, end: 2 };
    breaks(h.ask(read(0), outcome), "appended at 0 and again at 1");
}

#[test]
fn a_topic_starts_where_it_was_trimmed() {
    let mut h = History::new();
    let op = append(&mut h, vec![20, 20, 20]);
    let id = id_of(&op);
    h.ask(op, appended(5, 0, 3)).expect("acked");
    breaks(h.ask(read(2), records(id, &[2], 0, (2, 3))), "nobody trimmed");
    let intent = h.intent(Durability::Local);
    h.ask(Op::Trim { intent, topic: TOPIC, index: 0, before: 2 }, receipt(6)).expect("acked");
    breaks(h.ask(read(0), records(id, &[0, 1, 2], 0, (0, 3))), "it was 2 before");
    h.power_loss(&[]);
    breaks(h.ask(read(0), records(id, &[0, 1, 2], 0, (0, 3))), "it was 2 before");
    let out = Outcome::Error { code: ErrorCode::OffsetOutOfRange, detail: 2 };
    assert_eq!(h.ask(read(0), out.clone()), Ok(()));
    breaks(h.ask(read(2), out), "is within");
}

#[test]
fn a_trim_that_was_read_survives_a_crash() {
    let mut h = History::new();
    let op = append(&mut h, vec![20, 20, 20]);
    let id = id_of(&op);
    h.ask(op, appended(5, 0, 3)).expect("acked");
    let intent = h.intent(Durability::Async);
    let trim = Op::Trim { intent, topic: TOPIC, index: 0, before: 2 };
    h.ask(trim, receipt(6)).expect("acked");
    assert_eq!(h.ask(read(2), records(id, &[2], 0, (2, 3))), Ok(()));
    h.power_loss(&[]);
    breaks(h.ask(read(0), records(id, &[0, 1, 2], 0, (0, 3))), "it was 2 before");
}

#[test]
fn topics_are_listed_until_they_are_deleted() {
    let mut h = History::new();
    breaks(h.ask(Op::TopicList, Outcome::Topics(vec![])), "is not listed");
    h.ask(Op::TopicDelete { name: "t".to_owned() }, Outcome::Topic(TOPIC)).expect("deleted");
    assert_eq!(h.ask(Op::TopicList, Outcome::Topics(vec![])), Ok(()));
    let listed = Outcome::Topics(vec![("t".to_owned(), TOPIC)]);
    breaks(h.ask(Op::TopicList, listed), "was deleted");
}

#[test]
fn a_topic_whose_creation_is_forgiven_may_be_there_or_not() {
    for there in [true, false] {
        let mut h = History::new();
        let bounds = h.oracle.bounds();
        let made = Op::TopicCreate { name: "u".to_owned(), partitions: 1, retain_bytes: 0 };
        h.ask(made, Outcome::Topic(TopicId(2))).expect("a topic can be made");
        h.oracle.forgive(&bounds, |_| true);
        h.power_loss(&[]);
        let mut listed = vec![("t".to_owned(), TOPIC)];
        if there {
            listed.push(("u".to_owned(), TopicId(2)));
        }
        assert_eq!(h.ask(Op::TopicList, Outcome::Topics(listed)), Ok(()));
        breaks(h.ask(Op::TopicList, Outcome::Topics(vec![])), "topic t was made");
    }
}

#[test]
fn forgiven_promises_do_not_hold_and_older_ones_do() {
    let mut h = History::new();
    let old = h.put_at(5);
    let bounds = h.oracle.bounds();
    h.put_at(6);
    h.oracle.forgive(&bounds, |_| true);
    h.power_loss(&[]);
    assert_eq!(h.get(value(old, 5)), Ok(()));
    breaks(h.get(NOT_FOUND), "no value was read");
}

#[test]
fn offsets_are_not_given_twice() {
    let mut h = History::new();
    h.put_at(5);
    let op = h.put();
    breaks(h.ask(op, receipt(5)), "sent after 5 was acked");
    h.power_loss(&[]);
    let op = h.put();
    breaks(h.ask(op, receipt(4)), "4");
}

#[test]
fn a_version_alone_does_not_bring_a_lost_write_back() {
    for lost_put in [true, false] {
        let mut h = History::new();
        let op = if lost_put {
            h.write(Durability::Async, PUT, Condition::None)
        } else {
            let intent = h.intent(Durability::Async);
            Op::Trim { intent, topic: TOPIC, index: 0, before: 0 }
        };
        let told = Outcome::Receipt(receipt_at(Durability::Async, 5));
        h.ask(op, told).expect("acked");
        h.power_loss(&[]);
        let new = h.put();
        let request = h.send(&new);
        let op = h.write(Durability::Local, PUT, Condition::Absent);
        let found = Outcome::Error { code: ErrorCode::ConditionFailed, detail: 5 };
        assert_eq!(h.ask(op, found), Ok(()), "the new put may have got the place");
        assert_eq!(h.answer(request, &receipt(5)), Ok(()));
        assert_eq!(h.get(value(id_of(&new), 5)), Ok(()));
    }
}

#[test]
fn a_version_that_only_a_lost_write_can_have_brings_it_back() {
    let mut h = History::new();
    let op = h.write(Durability::Async, PUT, Condition::None);
    h.ask(op, Outcome::Receipt(receipt_at(Durability::Async, 5))).expect("acked");
    h.power_loss(&[]);
    let op = h.write(Durability::Local, PUT, Condition::Absent);
    let found = Outcome::Error { code: ErrorCode::ConditionFailed, detail: 5 };
    assert_eq!(h.ask(op, found), Ok(()));
    breaks(h.get(NOT_FOUND), "no value was read");
}

#[test]
fn after_a_forgiven_removal_the_value_before_it_may_be_read() {
    let mut h = History::new();
    let old = h.put_at(5);
    let intent = h.intent(Durability::Local);
    let ops = vec![KeyOp { key: b"j".as_slice().into(), change: PUT, condition: Condition::None }];
    h.ask(Op::Write { intent, ops, batch: false }, receipt(7)).expect("acked");
    let bounds = h.oracle.bounds();
    let op = h.delete();
    h.ask(op, receipt(9)).expect("acked");
    h.oracle.forgive(&bounds, |_| true);
    h.power_loss(&[]);
    assert_eq!(h.get(value(old, 5)), Ok(()));
}

#[test]
fn a_session_repeats_what_was_forgiven_and_nothing_else() {
    for forgiven in [true, false] {
        let mut h = History::new();
        let session = SessionId(4);
        h.ask(Op::OpenSession, Outcome::Session(session)).expect("opened");
        let put = |h: &mut History, seq| {
            let op = h.put();
            let Op::Write { mut intent, ops, batch } = op else { unreachable!("a put is a write") };
            intent.session = Some((session, seq));
            Op::Write { intent, ops, batch }
        };
        let first = put(&mut h, 1);
        h.ask(first, receipt(5)).expect("acked");
        let bounds = h.oracle.bounds();
        let second = put(&mut h, 2);
        h.ask(second, receipt(6)).expect("acked");
        if forgiven {
            h.oracle.forgive(&bounds, |_| true);
        }
        h.power_loss(&[]);
        let gap = |detail| Outcome::Error { code: ErrorCode::SequenceGap, detail };
        let third = put(&mut h, 3);
        breaks(h.ask(third.clone(), gap(1)), "were answered");
        let told = h.ask(third, gap(2));
        if forgiven {
            assert_eq!(told, Ok(()));
        } else {
            breaks(told, "2 were answered");
        }
    }
}
