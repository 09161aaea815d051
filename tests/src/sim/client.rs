//! A simulated client: pipelines requests over one connection, and with a session retries what it
//! did not hear the end of, in order, as `docs/protocol.md` tells clients to.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::limits::SESSION_WINDOW;
use ironring_core::{ErrorCode, PartitionId, SessionId};

use crate::sim::op::{Op, Outcome, RequestId};
use crate::sim::subject::Conn;
use crate::sim::workload::{Workload, with_session};

/// Refusals of one write after which a client gives its session up and goes on with another.
const REFUSALS_MAX: u32 = 20;

/// Place of a request in a session: the partition, then the sequence.
type Place = (PartitionId, u64);

/// What a client did with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing special.
    Done,
    /// It will send the request again, after a while.
    Retry,
    /// It gave its session up.
    NewSession,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its connection; another one after each life of the node and each broken connection.
    pub conn: Conn,
    /// The shard it is connected to.
    pub shard: u16,
    wants_session: bool,
    session: Option<SessionId>,
    asked_session: bool,
    next: BTreeMap<PartitionId, u64>,
    /// Requests of the session that were not answered for good.
    open: BTreeMap<Place, Op>,
    /// Those of them to send again.
    again: BTreeSet<Place>,
    refusals: u32,
    outstanding: BTreeMap<RequestId, Op>,
}

impl Client {
    /// A client that has sent nothing.
    #[must_use]
    pub fn new(conn: Conn, shard: u16, wants_session: bool) -> Client {
        Client {
            conn,
            shard,
            wants_session,
            session: None,
            asked_session: false,
            next: BTreeMap::new(),
            open: BTreeMap::new(),
            again: BTreeSet::new(),
            refusals: 0,
            outstanding: BTreeMap::new(),
        }
    }

    /// Requests without an answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// True when it has retries to send whatever else there is to do.
    #[must_use]
    pub fn has_retries(&self) -> bool {
        !self.again.is_empty()
    }

    /// The next request to send; with `fresh` false only retries.
    pub fn next(&mut self, workload: &mut Workload, fresh: bool) -> Option<Op> {
        if let Some(place) = self.again.pop_first() {
            return Some(self.open[&place].clone());
        }
        if !fresh {
            return None;
        }
        if self.wants_session && self.session.is_none() {
            if self.asked_session {
                return Some(workload.draw());
            }
            self.asked_session = true;
            return Some(Op::OpenSession);
        }
        let mut op = workload.draw();
        if let (Some(session), Some(intent)) = (self.session, op.intent()) {
            let partition = intent.partition;
            let sequence = self.next.entry(partition).or_insert(0);
            // What is further ahead of the oldest open number would make that one too old; the
            // protocol tells clients to wait, and this one writes outside its session.
            let oldest = self.open.range((partition, 0)..=(partition, u64::MAX)).next();
            let full = oldest
                .is_some_and(|((_, oldest), _)| *sequence + 1 - oldest >= SESSION_WINDOW as u64);
            if full {
                return Some(op);
            }
            *sequence += 1;
            with_session(&mut op, session, *sequence);
            self.open.insert((partition, *sequence), op.clone());
        }
        Some(op)
    }

    /// A request was sent.
    pub fn sent(&mut self, request: RequestId, op: Op) {
        self.outstanding.insert(request, op);
    }

    /// Its answer arrived; `None` when the client had given up on it.
    pub fn answered(&mut self, request: RequestId, outcome: &Outcome) -> Option<(Op, Reaction)> {
        let op = self.outstanding.remove(&request)?;
        let reaction = self.react(&op, outcome);
        Some((op, reaction))
    }

    fn react(&mut self, op: &Op, outcome: &Outcome) -> Reaction {
        if let Op::OpenSession = op {
            match outcome {
                Outcome::Session(id) => self.session = Some(*id),
                _ => self.asked_session = false,
            }
            return Reaction::Done;
        }
        let Some(intent) = op.intent() else { return Reaction::Done };
        let Some((session, sequence)) = intent.session else { return Reaction::Done };
        if self.session != Some(session) {
            return Reaction::Done;
        }
        let place = (intent.partition, sequence);
        match outcome {
            Outcome::Error { code, detail } => self.refused(place, *code, *detail),
            _ => {
                self.open.remove(&place);
                self.refusals = 0;
                Reaction::Done
            }
        }
    }

    fn refused(&mut self, place: Place, code: ErrorCode, detail: u64) -> Reaction {
        self.refusals += 1;
        let gone = matches!(code, ErrorCode::SessionExpired | ErrorCode::SequenceTooOld);
        // What is asked for was answered, at a level that did not survive: the session's numbers
        // cannot be continued.
        let forgotten = code == ErrorCode::SequenceGap
            && !self.open.range((place.0, detail)..=(place.0, detail)).any(|_| true);
        if gone || forgotten || self.refusals > REFUSALS_MAX {
            self.session = None;
            self.asked_session = false;
            self.next.clear();
            self.open.clear();
            self.again.clear();
            self.refusals = 0;
            return Reaction::NewSession;
        }
        if code == ErrorCode::SequenceGap || code.retriable() {
            self.again.insert(place);
            return Reaction::Retry;
        }
        self.open.remove(&place);
        Reaction::Done
    }

    /// The connection broke: nothing more is heard on it. Returns the requests whose outcome is
    /// not known; those of the session will be sent again over the next connection.
    pub fn disconnected(&mut self, next: Conn) -> Vec<RequestId> {
        self.conn = next;
        if self.session.is_none() {
            self.asked_session = false;
        }
        self.again.extend(self.open.keys().copied());
        std::mem::take(&mut self.outstanding).into_keys().collect()
    }
}
