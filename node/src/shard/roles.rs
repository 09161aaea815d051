//! Which partitions this shard's replicas lead: the replication engine, and what it asks of the log.
//!
//! A node that is alone is the only replica and voter of every partition: it names itself as the
//! leader of a new term when it starts, promises it durably, and serves when the entry that begins
//! the term is committed, as any other leader does.

use ironring_core::{
    Incarnation, Instant, NodeId, Now, Offset, PartitionId, SessionId, Term, WallTime,
};
use ironring_log::{AppendError, Appended, Priority, Record, RecordKind};
use ironring_ring::metadata::{LeaderId, PartitionRecord, Replica, ReplicaId, Wish};
use ironring_ring::replication::{Effect, Recovered, Replicator, Run, Settings, TermStarts};

use super::Shard;
use super::partition::Partition;

/// The node of a replica that has no others.
const ALONE: NodeId = NodeId(1);

/// The engine of a shard, from the end of recovery on.
#[derive(Debug)]
pub(super) struct Roles {
    pub engine: Replicator,
    /// Partitions that serve.
    serving: usize,
    /// What the log did not take yet.
    retry: Vec<Effect>,
    /// It had no space for something of it.
    no_space: bool,
}

impl Roles {
    fn new(now: Instant, run: Run, partitions: &[&Partition]) -> Roles {
        let first = partitions.first().map_or(PartitionId(0), |p| p.id);
        let end = PartitionId(first.0 + partitions.len() as u32);
        let mut engine = Replicator::new(run, Settings::default(), now, first, end);
        for p in partitions {
            engine.recovered(p.id, recovered(p));
            engine.record(now, p.id, &alone(run, Term(p.term.0 + 1)));
        }
        Roles { engine, serving: 0, retry: Vec::new(), no_space: false }
    }
}

/// What a partition's log holds: of a replica that is alone, everything it has is committed.
fn recovered(p: &Partition) -> Recovered {
    let last = (p.log_end > Offset::FIRST).then(|| (p.term, Offset(p.log_end.0 - 1)));
    Recovered {
        life: Some(0),
        start: p.log_end,
        end: p.log_end,
        terms: TermStarts::from_pairs(last.into_iter().collect()),
        promised: p.term,
        high_watermark: p.log_end,
        damaged_below: None,
    }
}

/// What metadata say of a partition on a node that is alone.
fn alone(run: Run, term: Term) -> PartitionRecord {
    let id = ReplicaId { storage: run.storage, life: 0 };
    PartitionRecord {
        replicas: vec![Replica { node: ALONE, id, wish: Wish::Voter }],
        voters: vec![id],
        term,
        leader: Some(LeaderId { replica: id, incarnation: run.incarnation }),
        last_leader: Some(id),
        version: 0,
    }
}

impl Shard {
    /// Recovery is over: leads every partition.
    pub(super) fn begin_roles(&mut self, now: Now) {
        let run = Run {
            storage: self.config.identity.storage,
            incarnation: Incarnation(u64::from(self.log.run())),
        };
        let partitions: Vec<&Partition> =
            self.models.iter().filter(|p| p.id != PartitionId::META).collect();
        self.roles = Some(Roles::new(now.mono, run, &partitions));
        self.models.all().for_each(|p| p.commits_alone = true);
        self.follow_roles(now);
    }

    /// Whether every partition of this shard is served, or only space is missing for that: then
    /// reads are answered, because nobody else can have written, and writes are refused.
    pub(super) fn may_serve(&self) -> bool {
        let range = self.config.slices.range(self.id());
        let ready = |roles: &Roles| roles.serving == range.len() || roles.no_space;
        self.roles.as_ref().is_some_and(ready)
    }

    /// Does what the engine asks for. What the log does not take is tried again with the next turn.
    pub(super) fn follow_roles(&mut self, now: Now) {
        let Some(roles) = &mut self.roles else { return };
        roles.no_space = false;
        let mut effects = std::mem::take(&mut roles.retry);
        effects.extend(roles.engine.effects());
        for effect in effects {
            match effect {
                Effect::Promise { partition, term } => {
                    match self.append_own(now, partition, RecordKind::Promise, term, Offset::NONE) {
                        Ok(appended) => {
                            let engine = &mut self.engine();
                            engine.promise_staged(partition, term, appended.group);
                        }
                        Err(error) => self.try_again(effect, error),
                    }
                }
                Effect::StartTerm { partition, term, offset } => {
                    match self.append_own(now, partition, RecordKind::TermStart, term, offset) {
                        Ok(appended) => {
                            self.engine().appended(partition, offset.next(), appended.group);
                        }
                        Err(error) => self.try_again(effect, error),
                    }
                }
                Effect::Serving { .. } => {
                    if let Some(roles) = &mut self.roles {
                        roles.serving += 1;
                    }
                }
                other => panic!("a replica that is alone asks nobody: {other:?}"),
            }
        }
    }

    fn try_again(&mut self, effect: Effect, error: AppendError) {
        if let Some(roles) = &mut self.roles {
            roles.no_space |= error == AppendError::NoSpace;
            roles.retry.push(effect);
        }
    }

    /// Why a partition takes no records although the shard serves.
    pub(super) fn not_led(&self) -> AppendError {
        let full = self.roles.as_ref().is_some_and(|roles| roles.no_space);
        if full { AppendError::NoSpace } else { AppendError::Closed }
    }

    /// The engine of a shard that has one.
    pub(super) fn engine(&mut self) -> &mut Replicator {
        let roles = self.roles.as_mut().expect("records are appended after recovery");
        &mut roles.engine
    }

    /// Appends a record of the engine's own, which no user wrote.
    fn append_own(
        &mut self,
        now: Now,
        partition: PartitionId,
        kind: RecordKind,
        term: Term,
        offset: Offset,
    ) -> Result<Appended, AppendError> {
        let record = Record {
            kind,
            flags: 0,
            partition,
            term,
            offset,
            session: SessionId::NONE,
            sequence: 0,
            time: now.wall,
            expires: WallTime(0),
            key: &[],
            body: &[],
        };
        let appended = self.log.append(&record, Priority::Reserve)?;
        self.models.appended(appended.location, &record);
        Ok(appended)
    }
}
