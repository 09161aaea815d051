//! What a client may hear about its session: requests are numbered per session and partition, and
//! what was answered durably is never forgotten while the session lives.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::{PartitionId, SessionId};

#[derive(Debug, Default)]
struct Lane {
    answered: BTreeSet<u64>,
    /// Every sequence up to this was answered at a level that survives.
    durable: u64,
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    opened: BTreeSet<SessionId>,
    lanes: BTreeMap<(SessionId, PartitionId), Lane>,
}

impl Sessions {
    /// A session was opened.
    ///
    /// # Errors
    /// When another client has one of that number.
    pub fn opened(&mut self, id: SessionId) -> Result<(), String> {
        if id == SessionId::NONE || !self.opened.insert(id) {
            return Err(format!("session {id} was given twice"));
        }
        Ok(())
    }

    /// A request of a session was answered for good.
    pub fn answered(
        &mut self,
        session: SessionId,
        partition: PartitionId,
        seq: u64,
        durable: bool,
    ) {
        let lane = self.lanes.entry((session, partition)).or_default();
        if durable {
            lane.answered.insert(seq);
            while lane.answered.remove(&(lane.durable + 1)) {
                lane.durable += 1;
            }
        }
    }

    /// A request of this session heard that the session is not known.
    ///
    /// # Errors
    /// When it was opened: nothing in a simulation lets a session expire.
    pub fn expired(&self, session: SessionId) -> Result<(), String> {
        if self.opened.contains(&session) {
            return Err(format!("session {session} was opened, and is forgotten"));
        }
        Ok(())
    }

    /// A request heard that `expected` comes first.
    ///
    /// # Errors
    /// When that one was answered for good, or is not before the request.
    pub fn gap(
        &self,
        session: SessionId,
        partition: PartitionId,
        seq: u64,
        expected: u64,
    ) -> Result<(), String> {
        let durable = self.lanes.get(&(session, partition)).map_or(0, |lane| lane.durable);
        if expected <= durable {
            return Err(format!("sequence {expected} is asked for; {durable} were answered"));
        }
        if expected >= seq {
            return Err(format!("sequence {expected} is asked for by the answer to {seq}"));
        }
        Ok(())
    }
}
