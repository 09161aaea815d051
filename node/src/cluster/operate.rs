//! Carrying operators' orders out, on the node that leads the metadata group: one at a time, each
//! judged by [`super::operation`] on metadata behind everything that was decided.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use ironring_core::{Instant, NodeId, PartitionId, Term};
use ironring_ring::metadata::{Command, LeaderId, Metadata, Outcome, Refused, ReplicaId};

use super::catalog::{Catalog, decode_outcome};
use super::judge::{Step, judge};
use super::member::{Member, WITHIN};
use super::operation::{Operation, Refusal};
use super::plane::{Answer, Ask, Failure, Letter, Operated, Taken};
use crate::driver::clock;
use crate::driver::runtime::Runtime;
use crate::raft::{GroupError, LogPoint, MetaGroup};

/// How long a leader of a partition may take to hand over. With the commits before it this stays
/// below the time a request between nodes may take.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
/// How long a voter may take to say how far its log is: some elections, each begun anew after
/// `controller.election_patience_ms`.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How often it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Pause between two looks at what is waited for.
const NAP: Duration = Duration::from_millis(10);
/// Terms an unclean election is tried in: each may be ended by an ordinary one that begins meanwhile.
const TERMS_MAX: usize = 8;

/// The turn of one order; the next may come when it goes.
struct Turn<'a>(&'a Cell<bool>);

impl Turn<'_> {
    fn take(taken: &Cell<bool>) -> Option<Turn<'_>> {
        (!taken.replace(true)).then(|| Turn(taken))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

fn newest(group: &MetaGroup<Catalog>) -> Arc<Metadata> {
    group.read(|catalog| Arc::clone(catalog.newest()))
}

impl<R: Runtime> Member<R> {
    /// Carries an order out; this node leads.
    pub(super) async fn operate(
        &self,
        group: &MetaGroup<Catalog>,
        operation: &Operation,
    ) -> Answer {
        let Some(_turn) = Turn::take(&self.operating) else {
            let why = "another order is being carried out".to_owned();
            return Answer::Failed(Failure::Unavailable(why));
        };
        match self.carry_out(group, operation).await {
            Ok(operated) => {
                tracing::info!("ordered: {}", operated.done);
                self.place.board.count_order(true);
                Answer::Operated(operated)
            }
            Err(failure) => {
                let refused = matches!(failure, Failure::Denied(_) | Failure::Refused(_));
                if refused {
                    self.place.board.count_order(false);
                }
                tracing::info!("an order was not carried out: {operation:?}: {failure}");
                Answer::Failed(failure)
            }
        }
    }

    async fn carry_out(
        &self,
        group: &MetaGroup<Catalog>,
        operation: &Operation,
    ) -> Result<Operated, Failure> {
        group.read_barrier(WITHIN).await?;
        let metadata = newest(group);
        let verdict = judge(operation, &metadata, &group.status()).map_err(Failure::Denied)?;
        let (mut changed, mut done) = (verdict.changed, verdict.done);
        for (nth, step) in verdict.steps.into_iter().enumerate() {
            let failed = |failure: Failure| match nth {
                0 => failure,
                _ => failure.half_way(),
            };
            match step {
                Step::Propose(command) => {
                    let refused = committed(group, &command).await.map_err(failed)?;
                    let parts = match &*command {
                        Command::Replicas { changes } => changes.len(),
                        _ => usize::MAX,
                    };
                    match refused.first() {
                        Some((id, why)) if refused.len() >= parts => {
                            return Err(Failure::Refused(format!("partition {id}: {why}")));
                        }
                        // Some of many have ended by themselves.
                        _ => changed = changed.saturating_sub(refused.len() as u64),
                    }
                }
                Step::LeadGroup(to) => {
                    let led = group.transfer_leadership(to).await;
                    led.map_err(|error| failed(lead_failed(error, to)))?;
                }
                Step::HandOver { at, partition, to } => {
                    let led = self.hand_partition_over(group, at, partition, to).await;
                    led.map_err(failed)?;
                }
                Step::LeadUnclean { partition, leader, known } => {
                    let has = self.has(group, partition, leader.replica, known).await;
                    let has = has.map_err(failed)?;
                    lead_unclean(group, partition, leader).await.map_err(failed)?;
                    done = format!("{done}; it had {has}");
                    self.place.board.count_unclean_election();
                    tracing::warn!("{done}");
                }
            }
        }
        let warnings = verdict.warnings;
        Ok(Operated { done, changed, epoch: newest(group).epoch(), warnings })
    }

    /// What a replica that is to lead whatever it lacks has, for people. Voters are asked in each election,
    /// and elections that find no quorum follow each other.
    async fn has(
        &self,
        group: &MetaGroup<Catalog>,
        partition: PartitionId,
        replica: ReplicaId,
        known: bool,
    ) -> Result<String, Failure> {
        let by = clock::now().mono + ANSWER_MAX;
        loop {
            if let Some((term, end)) = self.control.answered(partition, replica) {
                return Ok(format!("entries before offset {end}, the last of term {term}"));
            }
            if !known {
                return Ok("what nobody knows".to_owned());
            }
            if clock::now().mono >= by {
                let metadata = newest(group);
                let record = metadata.partition(partition);
                let node = record.and_then(|r| r.replica(replica)).map(|r| r.node);
                let node = node.ok_or(Failure::Denied(Refusal::NoPartition(partition)))?;
                return Err(Failure::Denied(Refusal::UnknownCopy { partition, node }));
            }
            self.runtime.sleep(NAP).await;
        }
    }

    /// Asks the leader of a partition to hand over until it has.
    async fn hand_partition_over(
        &self,
        group: &MetaGroup<Catalog>,
        at: NodeId,
        partition: PartitionId,
        to: ReplicaId,
    ) -> Result<(), Failure> {
        let leader = |metadata: &Metadata| {
            metadata.partition(partition).and_then(|record| record.leader).map(|l| l.replica)
        };
        let before = leader(&newest(group));
        let now = || clock::now().mono;
        let by = now() + HAND_OVER_MAX;
        let mut ask_at = Instant(0);
        loop {
            match leader(&newest(group)) {
                led if led == Some(to) => return Ok(()),
                led if led != before => {
                    let why = format!("partition {partition}: another election came first");
                    return Err(Failure::Begun(why));
                }
                _ if now() >= by => {
                    let why = format!(
                        "the leader of partition {partition} did not hand over in {} s; it may yet",
                        HAND_OVER_MAX.as_secs()
                    );
                    return Err(Failure::Begun(why));
                }
                _ => {}
            }
            if now() >= ask_at {
                ask_at = now() + ASK_AGAIN;
                if at == self.me().0 {
                    self.shards.hand_over(partition, to);
                } else {
                    let ask = Ask::HandOver { partition, to };
                    let asked = self.call_node(at, Letter { ask, forwarded: true }).await;
                    if let Answer::Failed(failure) = asked {
                        return Err(failure);
                    }
                }
            }
            self.runtime.sleep(NAP).await;
        }
    }

    /// Takes a snapshot of the metadata group on this node, of all it has applied by now.
    pub(super) async fn snapshot(&self, group: &MetaGroup<Catalog>) -> Answer {
        let wanted = group.status().applied;
        if let Err(error) = group.take_snapshot().await {
            return Answer::Failed(error.into());
        }
        let by = clock::now().mono + WITHIN;
        let reflects = |at: &LogPoint| wanted.is_none_or(|wanted| at.index >= wanted.index);
        loop {
            let kept = group.snapshots();
            if let Some(at) = kept.last().copied().filter(reflects) {
                let (node, kept) = (self.me().0, kept.len());
                return Answer::Snapshot(Taken { node, index: at.index, term: at.term, kept });
            }
            if clock::now().mono >= by {
                let in_memory = group.status().snapshot.as_ref().is_some_and(reflects);
                let why = if in_memory {
                    "the disk has no room for the snapshot: the log keeps the changes".to_owned()
                } else {
                    format!("there is no snapshot after {} s; it may come yet", WITHIN.as_secs())
                };
                return Answer::Failed(Failure::Begun(why));
            }
            self.runtime.sleep(NAP).await;
        }
    }
}

/// What a leadership of the group that was not handed on means to who ordered it.
fn lead_failed(error: GroupError, to: u64) -> Failure {
    match error {
        GroupError::Unknown => Failure::Begun(format!(
            "node {to} was asked to lead the metadata group and did not in time; it may yet"
        )),
        error => error.into(),
    }
}

/// Has the group commit a command; what it refused of it.
async fn committed(
    group: &MetaGroup<Catalog>,
    command: &Command,
) -> Result<Vec<(PartitionId, Refused)>, Failure> {
    let outcome = group.propose(command.encode(), WITHIN).await?;
    match decode_outcome(&outcome).map_err(Failure::Refused)? {
        Outcome::Rejected(why) => Err(Failure::Refused(why.to_string())),
        Outcome::Done { refused, .. } => Ok(refused),
        _ => Ok(Vec::new()),
    }
}

/// Ends the election of a partition with a replica that may lack what is committed, in whichever term
/// there is.
async fn lead_unclean(
    group: &MetaGroup<Catalog>,
    partition: PartitionId,
    leader: LeaderId,
) -> Result<(), Failure> {
    for _ in 0..TERMS_MAX {
        let metadata = newest(group);
        let record = metadata.partition(partition);
        let record = record.ok_or(Failure::Denied(Refusal::NoPartition(partition)))?;
        if record.leader.is_some() {
            return Err(Failure::Denied(Refusal::Led(partition)));
        }
        let term: Term = record.term;
        let command = Command::LeadWithLoss { partition, term, leader };
        match committed(group, &command).await?.first() {
            None => return Ok(()),
            Some((_, Refused::Term(_))) => {}
            Some((_, why)) => {
                return Err(Failure::Refused(format!("partition {partition}: {why}")));
            }
        }
    }
    Err(Failure::Unavailable(format!("elections of partition {partition} come too fast")))
}
