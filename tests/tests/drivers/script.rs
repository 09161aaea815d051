//! What is asked, in order. Later requests use earlier answers: versions, sessions, topics.
//!
//! Nothing here depends on time: no value expires, no read waits, nothing is kept by age.

use ironring_core::prng::Prng;
use ironring_core::{Durability, ErrorCode, PartitionId, SessionId, Token, TopicId};
use ironring_tests::sim::op::{
    Change, Condition, Intent, Key, KeyOp, Op, Outcome, Receipt, WriteId,
};

use crate::{PARTITIONS, Target};

/// Requests of the part that is drawn.
const DRAWN: usize = 400;
/// Keys it uses.
const DRAWN_KEYS: u64 = 40;
const SEED: u64 = 11;

/// What was asked and answered.
pub type Answers = Vec<(String, Outcome)>;

pub struct Script<'a> {
    target: &'a mut dyn Target,
    shards: u16,
    writes: u64,
    /// Numbers of the sessions that were opened, in order.
    sessions: Vec<u64>,
    answers: Answers,
}

impl Script<'_> {
    /// Runs all of it.
    pub fn run(target: &mut dyn Target, shards: u16) -> Answers {
        let (sessions, answers) = (Vec::new(), Vec::new());
        let mut script = Script { target, shards, writes: 0, sessions, answers };
        script.keys();
        script.batches();
        let topic = script.topics();
        let session = script.sessions();
        script.drawn(Prng::new(SEED));
        script.everything(topic);
        script.target.restart();
        script.everything(topic);
        script.after_a_restart(topic, session);
        script.drawn(Prng::new(SEED + 1));
        script.target.restart();
        script.everything(topic);
        script.answers
    }

    /// Asks each shard in turn, so that most requests reach one that does not own the key.
    fn ask(&mut self, op: Op) -> Outcome {
        let shard = self.answers.len() % usize::from(self.shards);
        let outcome = self.target.ask(shard as u16, &op);
        let asked = format!("shard {shard} <- {op:?}");
        let answer = self.by_order(&outcome);
        let asked = self.sessions.iter().enumerate().fold(asked, |asked, (n, id)| {
            asked.replace(&format!("SessionId({id})"), &format!("session {n}"))
        });
        self.answers.push((asked, answer));
        outcome
    }

    /// Sessions by the order in which they were opened: which numbers they get is whoever's gives them,
    /// the metadata group or a shard that is alone. None is given twice.
    fn by_order(&mut self, outcome: &Outcome) -> Outcome {
        let Outcome::Session(id) = outcome else { return outcome.clone() };
        assert!(!self.sessions.contains(&id.0), "session {id} was given before");
        self.sessions.push(id.0);
        Outcome::Session(SessionId(self.sessions.len() as u64))
    }

    fn intent(&mut self, partition: PartitionId, level: Durability) -> Intent {
        self.writes += 1;
        Intent { id: WriteId(self.writes), partition, level, session: None }
    }

    fn write(&mut self, key: &Key, change: Change, condition: Condition) -> Outcome {
        let intent = self.intent(partition_of(key), Durability::Local);
        let ops = vec![KeyOp { key: key.clone(), change, condition }];
        self.ask(Op::Write { intent, ops, batch: false })
    }

    fn put(&mut self, key: &Key, len: u32) -> u64 {
        match self.write(key, Change::Put { len, ttl_ms: 0 }, Condition::None) {
            Outcome::Receipt(Receipt { offset, .. }) => offset,
            other => panic!("a plain put is not refused: {other:?}"),
        }
    }

    fn keys(&mut self) {
        let keys: Vec<Key> = (0..30).map(|n| key(&format!("k/{n:02}"))).collect();
        for (n, key) in keys.iter().enumerate() {
            self.put(key, 8 + 37 * n as u32);
        }
        for (n, len) in [4_088, 4_096, 70_000, 262_144, 262_145, 1_500_000].into_iter().enumerate()
        {
            let large = key(&format!("large/{n}"));
            self.put(&large, len);
            self.ask(Op::Get { key: large });
        }
        let (first, second, missing) = (&keys[0], &keys[1], &key("missing"));
        let version = self.put(first, 100);
        let change = Change::Put { len: 50, ttl_ms: 0 };
        self.write(first, change, Condition::Version(version));
        self.write(first, change, Condition::Version(version));
        self.write(first, change, Condition::Absent);
        self.write(missing, change, Condition::Version(1));
        self.write(first, Change::Delete, Condition::Version(version));
        self.write(first, Change::Delete, Condition::None);
        self.write(first, Change::Delete, Condition::None);
        self.write(first, change, Condition::Absent);
        self.write(second, Change::Delete, Condition::Absent);
        for level in [Durability::Async, Durability::Local, Durability::Quorum, Durability::All] {
            let intent = self.intent(partition_of(second), level);
            let ops = vec![KeyOp { key: second.clone(), change, condition: Condition::None }];
            self.ask(Op::Write { intent, ops, batch: false });
            self.ask(Op::Get { key: second.clone() });
        }
        self.ask(Op::Get { key: missing.clone() });
        let same = partition_of(first);
        let some: Vec<Key> = keys.iter().filter(|k| partition_of(k) == same).cloned().collect();
        self.ask(Op::MultiGet { partition: same, keys: some.clone() });
        let absent = (0..).map(|n| key(&format!("absent/{n}"))).find(|k| partition_of(k) == same);
        let asked = [&some[..], &[absent.expect("some key has the partition")]].concat();
        self.ask(Op::MultiGet { partition: same, keys: asked });
        let elsewhere = PartitionId((same.0 + 1) % PARTITIONS);
        self.ask(Op::MultiGet { partition: elsewhere, keys: some });
    }

    fn batches(&mut self) {
        let same = PartitionId(3);
        let keys: Vec<Key> = (0..)
            .map(|n| key(&format!("batch/{n}")))
            .filter(|k| partition_of(k) == same)
            .take(4)
            .collect();
        let put = |n: usize, condition| KeyOp {
            key: keys[n].clone(),
            change: Change::Put { len: 20 + n as u32, ttl_ms: 0 },
            condition,
        };
        let delete =
            |n: usize, condition| KeyOp { key: keys[n].clone(), change: Change::Delete, condition };
        let none = Condition::None;
        let all = [
            vec![put(0, none), put(1, none), put(2, Condition::Absent)],
            vec![put(0, none), put(3, none), put(2, Condition::Absent)],
            vec![delete(0, none), put(1, none), put(3, Condition::Absent)],
            vec![delete(0, none)],
            vec![],
            vec![put(3, none), delete(3, none), put(3, none)],
        ];
        for ops in all {
            let intent = self.intent(same, Durability::Local);
            self.ask(Op::Write { intent, ops, batch: true });
            self.ask(Op::MultiGet { partition: same, keys: keys.clone() });
        }
        let stranger = (0..).map(|n| key(&format!("s/{n}"))).find(|k| partition_of(k) != same);
        let stranger = stranger.expect("some key has another partition");
        let change = Change::Put { len: 8, ttl_ms: 0 };
        let intent = self.intent(same, Durability::Local);
        let ops = vec![put(1, none), KeyOp { key: stranger.clone(), change, condition: none }];
        self.ask(Op::Write { intent, ops, batch: true });
        self.ask(Op::Get { key: stranger });
    }

    fn create(&mut self, name: &str, partitions: u32) -> Outcome {
        self.ask(Op::TopicCreate { name: name.to_owned(), partitions, retain_bytes: 0 })
    }

    fn append(&mut self, topic: TopicId, index: u32, lens: &[u32]) -> Outcome {
        // A topic partition is placed by its name: the answer says where.
        let intent = self.intent(PartitionId(0), Durability::Local);
        self.ask(Op::Append { intent, topic, index, lens: lens.to_vec() })
    }

    fn topics(&mut self) -> TopicId {
        self.ask(Op::TopicList);
        let Outcome::Topic(topic) = self.create("orders", 3) else {
            panic!("the topic does not exist yet")
        };
        self.create("orders", 3);
        let Outcome::Topic(gone) = self.create("gone", 1) else {
            panic!("the topic does not exist yet")
        };
        self.append(gone, 0, &[100]);
        self.ask(Op::TopicList);
        self.ask(Op::TopicDelete { name: "gone".to_owned() });
        self.ask(Op::TopicDelete { name: "gone".to_owned() });
        self.append(gone, 0, &[100]);
        self.ask(Op::TopicRead { topic: gone, index: 0, from: Some(0), max_records: 0 });
        for n in 0..12 {
            let lens: Vec<u32> = (0..=n).map(|i| 8 + 100 * i).collect();
            self.append(topic, n % 3, &lens);
        }
        self.append(topic, 1, &[100_000, 200_000]);
        self.append(topic, 3, &[8]);
        for (index, from, max_records) in
            [(0, None, 0), (0, Some(0), 3), (1, Some(5), 0), (2, Some(1_000), 0), (3, Some(0), 0)]
        {
            self.ask(Op::TopicRead { topic, index, from, max_records });
        }
        for before in [4, 2, 1_000] {
            let intent = self.intent(PartitionId(0), Durability::Local);
            self.ask(Op::Trim { intent, topic, index: 0, before });
            self.ask(Op::TopicRead { topic, index: 0, from: None, max_records: 0 });
            self.ask(Op::TopicRead { topic, index: 0, from: Some(1), max_records: 0 });
        }
        self.ask(Op::TopicList);
        topic
    }

    /// Puts with a session: applied once, however often they are sent.
    fn in_session(
        &mut self,
        session: SessionId,
        write: u64,
        sequence: u64,
        at: Condition,
    ) -> Outcome {
        let key = key("in a session");
        let mut intent = self.intent(partition_of(&key), Durability::Local);
        (intent.id, intent.session) = (WriteId(write), Some((session, sequence)));
        let change = Change::Put { len: 64, ttl_ms: 0 };
        self.ask(Op::Write {
            intent,
            ops: vec![KeyOp { key, change, condition: at }],
            batch: false,
        })
    }

    fn sessions(&mut self) -> SessionId {
        let Outcome::Session(session) = self.ask(Op::OpenSession) else {
            panic!("sessions are to be had")
        };
        self.ask(Op::OpenSession);
        let none = Condition::None;
        self.in_session(session, 900, 1, none);
        self.in_session(session, 900, 1, none);
        self.in_session(session, 901, 2, Condition::Absent);
        self.in_session(session, 901, 2, Condition::Absent);
        self.in_session(session, 902, 4, none);
        self.in_session(session, 903, 3, none);
        self.in_session(session, 903, 3, none);
        self.in_session(session, 900, 1, none);
        for sequence in 4..80 {
            self.in_session(session, 900 + sequence, sequence, none);
        }
        self.in_session(session, 900, 1, none);
        self.in_session(SessionId(u64::MAX), 900, 1, none);
        session
    }

    fn after_a_restart(&mut self, topic: TopicId, session: SessionId) {
        let none = Condition::None;
        self.in_session(session, 979, 79, none);
        self.in_session(session, 900, 1, none);
        self.in_session(session, 981, 81, none);
        self.in_session(session, 980, 80, none);
        self.ask(Op::OpenSession);
        self.append(topic, 0, &[8, 9, 10]);
        self.append(topic, 2, &[11]);
        let first = key("k/00");
        let version = self.put(&first, 33);
        self.write(&first, Change::Delete, Condition::Version(version + 1));
        self.write(&first, Change::Delete, Condition::Version(version));
        self.create("orders", 3);
        self.create("gone", 2);
    }

    /// Requests about few keys, drawn.
    fn drawn(&mut self, mut rng: Prng) {
        let keys: Vec<Key> = (0..DRAWN_KEYS).map(|n| key(&format!("drawn/{n}"))).collect();
        let mut versions = vec![0; keys.len()];
        for _ in 0..DRAWN {
            let n = rng.below(DRAWN_KEYS) as usize;
            let key = &keys[n];
            let condition = match rng.below(4) {
                0 => Condition::Absent,
                1 => Condition::Version(versions[n] + rng.below(2)),
                _ => Condition::None,
            };
            let change = match rng.below(5) {
                0 => Change::Delete,
                1 => Change::Put { len: 8 + rng.below(20_000) as u32, ttl_ms: 0 },
                _ => Change::Put { len: 8 + rng.below(200) as u32, ttl_ms: 0 },
            };
            match rng.below(4) {
                0 => {
                    if let Outcome::Value(value) = self.ask(Op::Get { key: key.clone() }) {
                        versions[n] = value.version;
                    }
                }
                1 => self.scan(partition_of(key), b"drawn/", key, 1 + rng.below(6) as u32),
                _ => {
                    if let Outcome::Receipt(receipt) = self.write(key, change, condition) {
                        versions[n] = receipt.offset;
                    }
                }
            }
        }
    }

    fn scan(&mut self, partition: PartitionId, prefix: &[u8], after: &[u8], limit: u32) {
        let (prefix, after, values) = (prefix.to_vec(), after.to_vec(), limit.is_multiple_of(2));
        self.ask(Op::Scan { partition, prefix, after, limit, values });
    }

    /// Everything that is stored.
    fn everything(&mut self, topic: TopicId) {
        for partition in (0..PARTITIONS).map(PartitionId) {
            let mut after = Vec::new();
            loop {
                let (prefix, limit) = (Vec::new(), 16);
                let scan = Op::Scan { partition, prefix, after, limit, values: true };
                let Outcome::Page { entries, more } = self.ask(scan) else {
                    panic!("a partition can be scanned")
                };
                match entries.last() {
                    Some(last) if more => after = last.key.clone(),
                    _ => break,
                }
            }
        }
        for index in 0..3 {
            self.ask(Op::TopicRead { topic, index, from: None, max_records: 0 });
        }
        self.ask(Op::TopicList);
        self.ask(Op::Get { key: key("large/5") });
    }
}

/// That the script reaches what it is meant to compare.
pub fn says_much(answers: &Answers) {
    let count =
        |wanted: &dyn Fn(&Outcome) -> bool| answers.iter().filter(|(_, o)| wanted(o)).count();
    let refused = |wanted| count(&|o| matches!(o, Outcome::Error { code, .. } if *code == wanted));
    assert!(count(&|o| matches!(o, Outcome::Receipt(r) if r.offset > 0)) > 200);
    assert!(count(&|o| matches!(o, Outcome::Receipt(r) if r.duplicate)) >= 4);
    assert!(count(&|o| matches!(o, Outcome::Receipt(r) if r.term == 2)) >= 5);
    assert!(count(&|o| matches!(o, Outcome::Value(_))) > 50);
    assert!(count(&|o| matches!(o, Outcome::Page { entries, .. } if !entries.is_empty())) > 50);
    assert!(count(&|o| matches!(o, Outcome::Appended { .. })) >= 14);
    assert!(count(&|o| matches!(o, Outcome::Records { records, .. } if !records.is_empty())) > 10);
    for code in [
        ErrorCode::InvalidArgument,
        ErrorCode::WrongPartition,
        ErrorCode::NotFound,
        ErrorCode::ConditionFailed,
        ErrorCode::SessionExpired,
        ErrorCode::SequenceGap,
        ErrorCode::SequenceTooOld,
        ErrorCode::UnknownTopic,
        ErrorCode::TopicExists,
        ErrorCode::UnknownPartition,
        ErrorCode::OffsetOutOfRange,
    ] {
        assert!(refused(code) > 0, "nothing is refused with {code:?}");
    }
}

fn key(name: &str) -> Key {
    Key::from(name.as_bytes())
}

fn partition_of(key: &Key) -> PartitionId {
    Token::of_key(key).partition(PARTITIONS)
}
