//! The last resort of a group that has lost its majority for good: on one member that is stopped, an
//! entry is written by which that member is the only voter. When it starts, it leads, and what it has
//! is the group's; the others are to join it again, empty.
//!
//! Raft gives no such step: entries that a majority had and this member lacks are lost, and entries
//! only it has are committed. Two members on which this is done, or old voters that come back
//! together without hearing of it, are two groups. So operators decide, and the entry is of a term
//! far ahead of all that were heard of: no other leader can have written one of the same name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use ironring_log::Identity;
use openraft::BasicNode;

use super::disk::{DriverDisk, RaftDisk};
use super::host::{self, Host, OnDriver};
use super::message;
use super::snapshot::Snapshots;
use super::store::change::{Change, ChangeError, Payload, StoredEntry};
use super::store::{RaftLogState, Store, StoreConfig, StoreError};
use super::types::{Ballot, LogPoint, Membership};
use crate::driver::runtime::Runtime;

/// How far the entry's term is ahead.
const TERMS_AHEAD: u64 = 1024;
/// Snapshots kept, as far as this is concerned: none is written.
const RETAIN: usize = 2;

/// What a stopped member has of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Its last entry.
    pub last: Option<LogPoint>,
    /// The newest term it has heard of.
    pub term: u64,
    /// The voters, as far as it knows; while they change, those of both configurations.
    pub voters: BTreeSet<u64>,
    /// Where all members are.
    pub addresses: BTreeMap<u64, String>,
    /// The last entry of a snapshot that has more than the log: the member stopped between keeping
    /// the snapshot and letting go of the entries that it took the place of.
    pub ahead: Option<LogPoint>,
}

impl Remains {
    fn of(state: &RaftLogState, snapshots: &Snapshots) -> Result<Remains, StoreError> {
        let newest = snapshots.newest().map(|(meta, _)| meta);
        let in_log = state.range(..).filter_map(|entry| match &entry.payload {
            Payload::Membership(bytes) => Some((entry.at, bytes)),
            _ => None,
        });
        let membership: Membership = match (in_log.last(), &newest) {
            (Some((at, bytes)), _) => message::decode(bytes).map_err(|error| {
                StoreError::Damaged(ChangeError(format!("membership of {at}: {error}")))
            })?,
            (None, Some(meta)) => meta.last_membership.membership().clone(),
            (None, None) => return Ok(Remains::default()),
        };
        let reflected = newest.and_then(|meta| meta.last_log_id).map(LogPoint::from);
        let ahead = reflected.filter(|at| state.last() < Some(*at));
        let last = ahead.or(state.last());
        let heard = state.vote().map_or(0, |ballot| ballot.term);
        Ok(Remains {
            last,
            term: heard.max(last.map_or(0, |at| at.term)),
            voters: membership.voter_ids().collect(),
            addresses: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
            ahead,
        })
    }

    /// The changes by which a member is the only voter and has led; nothing when it is no member.
    fn alone(&self, me: u64) -> Option<Vec<Change>> {
        let (last, address) = (self.last?, self.addresses.get(&me)?);
        let nodes = BTreeMap::from([(me, BasicNode::new(address))]);
        let membership = Membership::new(vec![BTreeSet::from([me])], nodes).ok()?;
        let term = self.term + TERMS_AHEAD;
        let at = LogPoint { term, index: last.index + 1 };
        let payload = Payload::Membership(Rc::from(message::encode(&membership)));
        // The log has no gap: entries the snapshot took the place of go first.
        let mut changes = Vec::from_iter(self.ahead.map(Change::Purge));
        changes.push(Change::Vote(Ballot { term, node: me, elected: true }));
        changes.push(Change::Entry(StoredEntry { at, payload }));
        Some(changes)
    }
}

/// Opens a stopped member's part of the group in `dir`, an absolute path, and says what it has; with
/// `force` it is the only voter afterwards, durably.
///
/// # Errors
/// What is wrong with the directory, or that the member is none.
pub async fn remains<R: Runtime>(
    runtime: Rc<R>,
    dir: &Path,
    identity: Identity,
    force: Option<u64>,
) -> Result<Remains, String> {
    let disk = DriverDisk::new(Rc::clone(&runtime), dir).map_err(|error| error.to_string())?;
    let disk: Rc<dyn RaftDisk> = Rc::new(disk);
    let host: Rc<dyn Host> = Rc::new(OnDriver::new(runtime, identity.storage.0 as u64));
    host::install(Rc::clone(&host));
    let text = |error: StoreError| error.to_string();
    let snapshots = Snapshots::open(Rc::clone(&disk), RETAIN).await.map_err(text)?;
    let config = StoreConfig::new(identity, false);
    let store = Store::open(disk, host, config).await.map_err(text)?;
    let found = store.with(|state| Remains::of(state, &snapshots)).map_err(text);
    let done = match (&found, force) {
        (Ok(remains), Some(me)) => match remains.alone(me) {
            Some(changes) => store.append_durable(changes).await.map_err(text),
            None => Err(format!("node {me} was no member of the metadata group")),
        },
        _ => Ok(()),
    };
    let stopped = store.stop().await.map_err(text);
    done.and(stopped).and(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_ahead_of_everything_heard_of_and_names_one_voter() {
        let remains = Remains {
            last: Some(LogPoint { term: 3, index: 41 }),
            term: 7,
            voters: [1, 2, 3].into(),
            addresses: [(1, "a:1".to_owned()), (2, "b:1".to_owned())].into(),
            ahead: None,
        };
        let changes = remains.alone(2).expect("it is a member");
        let [Change::Vote(ballot), Change::Entry(entry)] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!(*ballot, Ballot { term: 1031, node: 2, elected: true });
        assert_eq!(entry.at, LogPoint { term: 1031, index: 42 });
        let Payload::Membership(bytes) = &entry.payload else { panic!("{entry:?}") };
        let membership: Membership = message::decode(bytes).unwrap();
        assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [2]);
        assert_eq!(membership.nodes().count(), 1);
        assert_eq!(remains.alone(3), None, "nobody knows where it is");
        assert_eq!(Remains::default().alone(1), None);
    }

    #[test]
    fn a_snapshot_that_has_more_than_the_log_leaves_no_gap_in_it() {
        let mut state = RaftLogState::default();
        let payload = Payload::Blank;
        state.apply(Change::Entry(StoredEntry { at: LogPoint { term: 1, index: 3 }, payload }));
        let remains = Remains {
            last: Some(LogPoint { term: 2, index: 9 }),
            term: 2,
            voters: [1, 2].into(),
            addresses: [(1, "a:1".to_owned())].into(),
            ahead: Some(LogPoint { term: 2, index: 9 }),
        };
        remains.alone(1).expect("it is a member").into_iter().for_each(|c| state.apply(c));
        assert_eq!(state.check(), Ok(()));
        assert_eq!(state.last(), Some(LogPoint { term: 1026, index: 10 }));
    }
}
