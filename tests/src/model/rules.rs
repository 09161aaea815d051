//! The rules of the protocol, each of which the model can run without.

macro_rules! rules {
    ($($name:ident: $section:literal, $says:literal;)*) => {
        /// One rule of replication.md. The model with all of them holds; what breaks without one is
        /// found by the scenario of [`super::scenarios`] that carries its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $says] $name,)*
        }

        impl Rule {
            /// Every rule, in the order of the document.
            pub const ALL: &'static [Rule] = &[$(Rule::$name,)*];

            /// The name, as in the source.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$name => stringify!($name),)* }
            }

            /// The section and number in replication.md.
            pub fn section(self) -> &'static str {
                match self { $(Rule::$name => $section,)* }
            }

            /// What the rule says.
            pub fn says(self) -> &'static str {
                match self { $(Rule::$name => $says,)* }
            }
        }
    };
}

rules! {
    LeadNotBelowPromise: "Append 1", "A replica leads term t only when its promised term is not above t.";
    RestartedLeaderAsks: "Append 1", "A replica never leads a term that is not above the promise it read at start.";
    LeadOnce: "Append 1", "A replica never leads a term it has already led or handed over.";
    PromiseDurable: "Append 1 and 4", "A promise is durable before it has an effect.";
    ReadsAfterTermStart: "Append 2", "A leader serves reads once its term-start entry is committed.";
    WritesAfterTermStart: "Append 2", "A leader serves writes once its term-start entry is committed.";
    ProposeAfterTermStart: "Append 2, Voters 1", "A leader proposes voters once its term-start entry is committed.";
    RefuseOldTerm: "Append 4", "A replica refuses a message of a term below its promise.";
    PrevMatches: "Append 4", "A Replicate whose prev does not match changes nothing.";
    CutOnlyAtConflict: "Append 4", "A follower truncates only at an entry whose term differs from the leader's.";
    RestartKeepsLog: "Append 4", "A restart truncates nothing that the disk holds.";
    AckFlushed: "Append 4", "An ack carries no more than flushed_end.";
    AckVerified: "Append 4", "An ack carries no more than verified.";
    VerifiedOfTerm: "Append 4", "verified is reset when the term changes.";
    HwWithinVerified: "Append 4", "A follower's high watermark follows the leader's no further than verified.";
    HwNeverBack: "Append 4", "A follower's high watermark never goes back.";
    FlushedEndDropsAtCut: "Append 4", "After a cut flushed_end is at most the cut until the next fsync.";
    CutBeforeReplacement: "Append 4", "A cut is durable before, or atomic with, what replaces it.";
    CommitOwnTerm: "Append 5", "The entry that raises the high watermark is of the leader's own term.";
    AckOfTerm: "Append 5", "The leader ignores acks of another term.";
    CountByUuid: "Append 5", "The leader counts acks by storage uuid, not by node.";
    LeaderCountsFlushed: "Append 5", "The leader counts itself only up to its own flushed_end.";
    CommitQuorum: "State", "An entry is committed on W(V) voters.";
    NewTermPerElection: "Leader 1", "Every election, after a failed one too, takes a new term.";
    VotersOfCommit: "Leader 1", "The voters an election counts are those its commit returned.";
    FenceFlushes: "Leader 2", "A voter fsyncs everything it has written before it answers Fence.";
    LateFsyncAcksNothing: "Leader 2", "An fsync that completes after a promise acks nothing of an earlier term.";
    FenceAnswerOfTerm: "Leader 2", "Answers of other terms do not count.";
    FenceVotersOnly: "Leader 2", "Answers of learners and of uuids outside V do not count.";
    FenceQuorum: "Leader 3", "An election needs the answers of F(V) voters.";
    LongestLogWins: "Leader 3", "The largest (last_term, log_end) wins.";
    LastTermFirst: "Leader 3", "Logs are compared by last_term before log_end.";
    WaitOutLeases: "Leader 4", "The controller waits out the largest lease_left.";
    WaitFromReceipt: "Leader 4", "Each lease_left is waited out from the receipt of its answer.";
    OnlyLastLeaderEndsWait: "Leader 4", "Only an answer of the last leader itself ends the wait, not one of an earlier leader.";
    LastLeaderIsKept: "Leader 4", "Metadata knows the last leader through terms that had none.";
    FencedLeaderDropsLease: "Leader 4, Leases 1", "A leader that answers Fence drops its lease first.";
    ElectInTerm: "Leader 5", "A leader is committed only while the term is still that of its election.";
    ElectOnce: "Leader 5", "A leader is committed only while there is none.";
    TransferToVoter: "Transfer", "Metadata accepts a transfer only to a voter.";
    TransferToCaughtUp: "Transfer", "The target's acked end in this term is log_end.";
    TransferStepsDown: "Transfer", "The leader stops admitting, drops its lease and steps down before it names a target.";
    TransferOfTerm: "Transfer", "Metadata accepts a transfer only if term and leader still match.";
    ProposeWithSelf: "Voters 1", "A leader never proposes voters without itself.";
    VotersHoldCommitted: "Voters 1", "Every entry below the high watermark is flushed on W(V') of V' before V' is proposed.";
    OneProposal: "Voters 2", "One proposal at a time.";
    JointCommit: "Voters 2", "While a proposal is open an entry commits on W(V) of V and W(V') of V'.";
    JointUntilSeen: "Voters 2", "A timeout teaches nothing: the joint quorum stays until a newer version is seen.";
    ProposalOfTerm: "Voters 3", "Metadata accepts a proposal only of the present term and leader.";
    ProposalOfVersion: "Voters 3", "Metadata accepts a proposal only if its base is the present version.";
    RefusalRaisesVersion: "Voters 3", "A refusal for another reason raises the version too.";
    NewUuidAfterLoss: "Voters 5", "A replica that lost its log has a new storage uuid.";
    CorruptDoesNotAnswer: "Voters 5", "A voter with unrepaired corruption does not answer Fence.";
    RepairedWhenFsynced: "Voters 5", "Corruption is repaired when what refilled the log is fsynced.";
    DamageIsRemembered: "Voters 5", "A restart does not forget that the log is damaged.";
    LeaseFromQuorum: "Leases 1", "A lease needs probes acked by W(V) voters.";
    JointLease: "Leases 1", "From a proposal until its outcome a lease needs W(V') of V' too.";
    LeaseFromSend: "Leases 1", "A lease counts from when the probe was sent.";
    DriftMargin: "Leases 1", "A leader counts its lease shorter by the drift.";
    FenceKeepsGrants: "Leases 2", "Promising or answering Fence clears no grant.";
    GrantsAfterStart: "Leases 2", "For one lease after its start a replica reports what is left of one.";
    ReadChecksLease: "Leases 3", "A read is answered under a lease, or after a round of probes.";
    RoundAfterRead: "Leases 3", "A read's round of probes is sent after the read came.";
    ProposalOfReplicas: "Voters 3, Movement", "Metadata refuses voters of which one is dropped.";
    DropOnlyOutsideVoters: "Movement", "A replica is dropped only after it left V.";
    DeleteAfterDrop: "Movement", "A replica's files go only after a committed drop.";
    SnapshotOfCommitted: "Movement", "A snapshot is of what lies below the leader's high watermark.";
    SnapshotNotBehind: "Movement", "A snapshot that ends at or below the own high watermark changes nothing.";
    RestartKnowsBase: "Movement", "A restart begins with the high watermark at the end of what is compacted.";
    SnapshotKeepsSuffix: "Movement", "A snapshot whose end the own log matches replaces nothing.";
    SnapshotAtomic: "Movement", "An install is marked on disk from before its first write until it is whole and fsynced; meanwhile the log counts as empty.";
    SnapshotHasSessions: "Movement, Retries", "A snapshot and a checkpoint carry the table of sequences.";
    SessionsToLogEnd: "Retries", "The table of sequences is a fold of the log to log_end, not to the high watermark.";
    SessionsRolledBack: "Retries", "A truncation rolls the table of sequences back.";
    GapIsRefused: "Retries", "A sequence that leaves a gap is refused.";
    SequencesPerSession: "Retries", "Each session has sequences of its own.";
    ExpiredIsRefused: "Retries", "A session that expired is refused for ever, its first sequence too.";
}

/// Which rules a run follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules(u128);

impl Rules {
    /// The protocol as written.
    pub fn all() -> Self {
        Rules(u128::MAX)
    }

    /// The same without `rule`.
    pub fn without(self, rule: Rule) -> Self {
        Rules(self.0 & !(1 << rule as u128))
    }

    /// Whether `rule` is followed.
    pub fn has(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u128) != 0
    }
}

const _: () = assert!(Rule::ALL.len() <= u128::BITS as usize, "a set of rules is one word");
