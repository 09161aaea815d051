//! A log that cannot be used: its shard is out until it is rebuilt from other replicas.
//!
//! A shard without others to ask refuses, as it always did: its node ends and says why. With others
//! the rest of the node goes on, and the shard is silent: it takes no requests, acks nothing and
//! answers no Fence, so each partition's other replicas go on without it and its leaders leave it out
//! of the voters. Then it asks for a new life of each of its replicas. When metadata say that all of
//! them have one, nothing the old log promised counts any more: its files are set aside, a new log
//! is made, and the new lives begin empty, as learners do. A replica that votes is never renewed, so
//! a log that others still count on is never given up.
//!
//! What is remembered is in the metadata. A process that ends in the middle finds the old files and
//! begins again, or the new ones, which are those of lives that counted for nothing when they were
//! made.

use std::sync::Arc;
use std::time::Duration;

use ironring_core::io::IoError;
use ironring_core::{ErrorCode, Instant, Now, PartitionId};
use ironring_log::LogFailure;
use ironring_ring::metadata::{LeaderId, Metadata};
use ironring_ring::replication::Request;

use super::acks::Acks;
use super::event::{Effects, ToController};
use super::models::Models;
use super::{Phase, Shard};

/// A shard is rebuilt so often in one run of its process; then the disk is taken for broken.
const REBUILDS_MAX: u64 = 3;
/// What metadata have not decided is asked for again after so long.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How the rebuilding of a shard's log stands.
#[derive(Debug, Default)]
pub(super) struct Rebuild {
    /// How often this run has begun it.
    attempts: u64,
    /// The shard was serving when its log failed.
    had_served: bool,
    ask_at: Instant,
    /// The driver is setting the files aside.
    aside: bool,
    /// A new log was made and is being filled.
    filling: bool,
}

impl Rebuild {
    /// When [`Shard::ask_for_lives`] is due.
    pub(super) fn deadline(&self) -> Instant {
        self.ask_at
    }
}

impl Shard {
    /// Whether other replicas can give back what the log has lost.
    pub(super) fn can_be_rebuilt(&self) -> bool {
        let of_replicas = self.replicas.as_ref().and_then(|r| r.metadata.as_ref());
        let known = of_replicas.or(self.pending_metadata.as_ref());
        let others = self.config.has_others || known.is_some_and(|m| m.members().count() > 1);
        let damaged = self.failure().is_some_and(is_damage);
        let may = self.config.incarnation.is_some() && self.rebuild.attempts < REBUILDS_MAX;
        others && damaged && may && !self.config.alone
    }

    /// The log has failed: nobody hears of this shard until it has another.
    pub(super) fn begin_rebuild(&mut self, now: Now, fx: &mut Effects) {
        self.rebuild.had_served |= self.replicas.is_some();
        self.rebuild.attempts += 1;
        (self.rebuild.ask_at, self.rebuild.filling) = (now.mono, false);
        self.counters.repair.logs_lost += 1;
        let why = "the disk failed under this shard, which is rebuilt from other replicas";
        let mut waiting = self.leases.take_all();
        self.gathers.expire(Instant(u64::MAX), |origin| waiting.push(origin));
        waiting.extend(self.polls.take_all());
        for origin in waiting {
            self.refuse(origin, ErrorCode::ShardFenced, 0, why, fx);
        }
        for id in self.config.slices.range(self.id()).map(PartitionId) {
            self.abandon_uploads(id, fx);
        }
        if let Some(metadata) = self.replicas.take().and_then(|replicas| replicas.metadata) {
            self.pending_metadata = Some(metadata);
        }
        self.chunks = super::Chunks::default();
        self.transfers = super::Transfers::default();
        self.repair = super::Repair::default();
        self.fetches = super::Fetches::default();
        self.comparing.reset();
        self.probe = None;
    }

    /// Names this rebuilding among all of this storage.
    fn renewal(&self) -> u64 {
        let run = self.config.incarnation.map_or(0, |incarnation| incarnation.0);
        (run << 16) | self.rebuild.attempts
    }

    /// Asks for new lives, and for elections of what this shard led; when everything has a new life,
    /// has the files set aside.
    pub(super) fn ask_for_lives(&mut self, now: Now, fx: &mut Effects) {
        if self.phase != Phase::Damaged || self.rebuild.aside {
            return;
        }
        let Some(metadata) = self.pending_metadata.clone() else { return };
        let due = now.mono >= self.rebuild.ask_at;
        if due {
            self.rebuild.ask_at = now.mono + ASK_EVERY;
        }
        let (storage, renewal) = (self.config.identity.storage, self.renewal());
        let incarnation = self.config.incarnation.unwrap_or_default();
        let mut fresh = self.heard_of_this_run(&metadata);
        let mut renewed = true;
        for id in self.config.slices.range(self.id()).map(PartitionId) {
            let Some(record) = metadata.partition(id) else { continue };
            let Some(mine) = record.replica_on(storage).copied() else { continue };
            let votes = record.is_voter(mine.id);
            if mine.renewal == renewal && !votes {
                fresh = true;
                continue;
            }
            renewed = false;
            if !due {
                continue;
            }
            let leads = record.leader.is_some_and(|l| l.replica == mine.id);
            self.note_leaderless(now, id, votes && record.leader.is_none());
            let request = match (leads, votes) {
                (true, _) => {
                    let from = LeaderId { replica: mine.id, incarnation };
                    Request::Election { partition: id, term: record.term, from }
                }
                // While it votes this only says that it has nothing: its leader leaves it out of the
                // voters first.
                (false, _) => Request::Renew { partition: id, replica: mine.id, renewal },
            };
            fx.controller.push(ToController::Ask(request));
        }
        if fresh && renewed && self.log.is_quiet() {
            self.rebuild.aside = true;
            fx.set_aside = true;
        }
    }

    /// Whether metadata are newer than the log's failure: older ones may lack a replica that has
    /// acked since. A shard that never served has acked nothing since its process began.
    fn heard_of_this_run(&self, metadata: &Metadata) -> bool {
        let me = metadata.member_on(self.config.identity.storage);
        let run = me.map(|member| member.facts.incarnation);
        run.is_some() && run == self.config.incarnation && !self.rebuild.had_served
    }

    /// The files were set aside: begins with a new log.
    pub(super) fn begin_anew(&mut self) {
        let range = self.config.slices.range(self.id());
        let cache = self.config.cache_bytes.min(self.config.memory_bytes_max);
        let identity = &mut self.config.identity;
        identity.salt = identity.salt.wrapping_add(1).max(1);
        self.log.renew(*identity);
        self.models = Models::new(range.start, range.end, cache);
        self.acks = Acks::new(range.start, range.end);
        self.expiry = super::expiry::Expiry::default();
        (self.rebuild.aside, self.rebuild.filling) = (false, true);
        self.phase = Phase::Opening;
    }

    /// The files cannot be set aside: the shard has failed for good.
    pub(super) fn cannot_begin_anew(&mut self) {
        self.phase = Phase::Failed;
    }

    /// Metadata are here: a log that was made anew is whole when all its replicas vote that are meant
    /// to. The files of the old one are not needed any more then.
    pub(super) fn look_at_filling(&mut self, metadata: &Arc<Metadata>, fx: &mut Effects) {
        if !self.rebuild.filling || self.phase != Phase::Serving {
            return;
        }
        let storage = self.config.identity.storage;
        let whole = |id: PartitionId| {
            let Some(record) = metadata.partition(id) else { return true };
            record.replica_on(storage).is_none_or(|mine| {
                record.is_voter(mine.id) || mine.wish != ironring_ring::metadata::Wish::Voter
            })
        };
        if self.config.slices.range(self.id()).map(PartitionId).all(whole) {
            self.rebuild.filling = false;
            self.counters.repair.logs_rebuilt += 1;
            fx.drop_aside = true;
        }
    }

    /// Refuses what waits for too long while the shard is out.
    pub(super) fn sweep_damaged(&mut self, now: Now, fx: &mut Effects) {
        self.sweep_at = now.mono + super::SWEEP_EVERY;
        self.ask_for_lives(now, fx);
    }
}

/// Whether a log that failed so has lost what it held, so that only others have it. What is not is
/// an operator's to correct: files in the wrong place, wrong settings, other versions, a full disk.
fn is_damage(failure: &LogFailure) -> bool {
    match failure {
        LogFailure::Io { error, .. } => !matches!(error, IoError::NoSpace),
        LogFailure::Absent
        | LogFailure::SuperblockMissing(_)
        | LogFailure::SuperblockUntrusted(_)
        | LogFailure::SegmentMissing { .. }
        | LogFailure::SegmentLength { .. }
        | LogFailure::SegmentHeader { .. }
        | LogFailure::Checkpoints(_)
        | LogFailure::Corruption { .. } => true,
        LogFailure::WrongStorage { .. }
        | LogFailure::WrongShard { .. }
        | LogFailure::WrongLog { .. }
        | LogFailure::Newer { .. }
        | LogFailure::Setting { .. }
        | LogFailure::SuperblockStale { .. }
        | LogFailure::Restore(_) => false,
    }
}
