//! What a record of the group's log says.
//!
//! One record kind, `RecordKind::Raft`; the record's flags name the change. The body (integers are
//! little endian; a *point* is a term u64 and an index u64):
//!
//! | flags | change | body |
//! |---|---|---|
//! | 1 | vote | term u64, node u64, elected u8 (0 or 1) |
//! | 2 | entry without payload | point |
//! | 3 | entry with a command | point, command |
//! | 4 | entry with a membership | point, membership (`message::encode`) |
//! | 5 | truncate: entries from this index on are gone | index u64 |
//! | 6 | purge: entries up to this point are gone | point |
//! | 7 | committed up to this point | point |
//!
//! The record's own term and offset repeat an entry's term and its index plus one, for people who
//! look at the file. A piece of a checkpoint is a list of changes, each a length u32 of what
//! follows, the flags u8 and the body.

use std::rc::Rc;

use ironring_core::{Offset, PartitionId, SessionId, Term, WallTime};
use ironring_log::{Record, RecordKind};

use crate::raft::types::{Ballot, LogPoint};

const VOTE: u8 = 1;
const BLANK: u8 = 2;
const COMMAND: u8 = 3;
const MEMBERSHIP: u8 = 4;
const TRUNCATE: u8 = 5;
const PURGE: u8 = 6;
const COMMITTED: u8 = 7;

/// What an entry carries. Its bytes are shared between the log in memory and those who read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a leader's first entry.
    Blank,
    /// A command of the state machine.
    Command(Rc<[u8]>),
    /// Voters and learners, encoded.
    Membership(Rc<[u8]>),
}

/// An entry as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its place.
    pub at: LogPoint,
    /// What it carries.
    pub payload: Payload,
}

/// One change of the log's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This node votes.
    Vote(Ballot),
    /// An entry, in the place of any other of its index.
    Entry(StoredEntry),
    /// Entries from this index on are gone.
    Truncate(u64),
    /// Entries up to and including this one are gone: a snapshot reflects them.
    Purge(LogPoint),
    /// Entries up to and including this one are committed.
    Committed(LogPoint),
}

/// A record whose checksum held and that still makes no sense: a bug, or a newer format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of the metadata group does not parse: {0}")]
pub struct ChangeError(pub String);

fn put_point(out: &mut Vec<u8>, point: LogPoint) {
    out.extend_from_slice(&point.term.to_le_bytes());
    out.extend_from_slice(&point.index.to_le_bytes());
}

/// Takes integers from the front of bytes.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ChangeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| {
            ChangeError(format!("{len} bytes are wanted, {} there", self.0.len()))
        })?;
        self.0 = rest;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, ChangeError> {
        let bytes = self.take(8)?.try_into().expect("eight bytes were taken");
        Ok(u64::from_le_bytes(bytes))
    }

    fn point(&mut self) -> Result<LogPoint, ChangeError> {
        Ok(LogPoint { term: self.u64()?, index: self.u64()? })
    }

    fn end<T>(self, value: T) -> Result<T, ChangeError> {
        if self.0.is_empty() {
            return Ok(value);
        }
        Err(ChangeError(format!("{} bytes too many", self.0.len())))
    }
}

impl Change {
    /// Flags and body of the record that says this.
    #[must_use]
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let mut body = Vec::new();
        let flags = match self {
            Change::Vote(ballot) => {
                body.extend_from_slice(&ballot.term.to_le_bytes());
                body.extend_from_slice(&ballot.node.to_le_bytes());
                body.push(u8::from(ballot.elected));
                VOTE
            }
            Change::Entry(entry) => {
                put_point(&mut body, entry.at);
                match &entry.payload {
                    Payload::Blank => BLANK,
                    Payload::Command(bytes) => {
                        body.extend_from_slice(bytes);
                        COMMAND
                    }
                    Payload::Membership(bytes) => {
                        body.extend_from_slice(bytes);
                        MEMBERSHIP
                    }
                }
            }
            Change::Truncate(since) => {
                body.extend_from_slice(&since.to_le_bytes());
                TRUNCATE
            }
            Change::Purge(upto) => {
                put_point(&mut body, *upto);
                PURGE
            }
            Change::Committed(upto) => {
                put_point(&mut body, *upto);
                COMMITTED
            }
        };
        (flags, body)
    }

    /// What a record with these flags and this body says.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn decode(flags: u8, body: &[u8]) -> Result<Change, ChangeError> {
        let mut cursor = Cursor(body);
        let entry = |mut cursor: Cursor<'_>, payload: fn(Rc<[u8]>) -> Payload| {
            let at = cursor.point()?;
            Ok(Change::Entry(StoredEntry { at, payload: payload(Rc::from(cursor.0)) }))
        };
        match flags {
            VOTE => {
                let (term, node) = (cursor.u64()?, cursor.u64()?);
                let elected = match cursor.take(1)?[0] {
                    0 => false,
                    1 => true,
                    other => return Err(ChangeError(format!("elected is {other}"))),
                };
                cursor.end(Change::Vote(Ballot { term, node, elected }))
            }
            BLANK => {
                let at = cursor.point()?;
                cursor.end(Change::Entry(StoredEntry { at, payload: Payload::Blank }))
            }
            COMMAND => entry(cursor, Payload::Command),
            MEMBERSHIP => entry(cursor, Payload::Membership),
            TRUNCATE => {
                let since = cursor.u64()?;
                cursor.end(Change::Truncate(since))
            }
            PURGE => {
                let upto = cursor.point()?;
                cursor.end(Change::Purge(upto))
            }
            COMMITTED => {
                let upto = cursor.point()?;
                cursor.end(Change::Committed(upto))
            }
            other => Err(ChangeError(format!("flags {other}"))),
        }
    }

    /// Appends this to a piece of a checkpoint.
    pub fn put_piece(&self, out: &mut Vec<u8>) {
        let (flags, body) = self.encode();
        let len = u32::try_from(body.len() + 1).expect("records are short");
        out.extend_from_slice(&len.to_le_bytes());
        out.push(flags);
        out.extend_from_slice(&body);
    }

    /// The changes of a piece.
    ///
    /// # Errors
    /// When it is no list of changes.
    pub fn list(piece: &[u8]) -> Result<Vec<Change>, ChangeError> {
        let mut cursor = Cursor(piece);
        let mut changes = Vec::new();
        while !cursor.0.is_empty() {
            let bytes = cursor.take(4)?.try_into().expect("four bytes were taken");
            let one = cursor.take(u32::from_le_bytes(bytes) as usize)?;
            let (flags, body) = one.split_first().ok_or_else(|| ChangeError("empty".to_owned()))?;
            changes.push(Change::decode(*flags, body)?);
        }
        Ok(changes)
    }

    /// The record that says this; `flags` and `body` are [`Change::encode`]'s.
    pub(super) fn record<'a>(&self, flags: u8, body: &'a [u8]) -> Record<'a> {
        let point = match self {
            Change::Entry(entry) => entry.at,
            Change::Purge(at) | Change::Committed(at) => *at,
            Change::Vote(ballot) => LogPoint { term: ballot.term, index: 0 },
            Change::Truncate(since) => LogPoint { term: 0, index: *since },
        };
        Record {
            kind: RecordKind::Raft,
            flags,
            partition: PartitionId::RAFT,
            term: Term(point.term),
            offset: Offset(point.index + 1),
            session: SessionId::NONE,
            sequence: 0,
            time: WallTime(0),
            expires: WallTime(0),
            key: &[],
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(Change, u8, Vec<u8>)> {
        let at = LogPoint { term: 2, index: 7 };
        let point = [2u64.to_le_bytes(), 7u64.to_le_bytes()].concat();
        let entry = |payload| Change::Entry(StoredEntry { at, payload });
        let with = |tail: &[u8]| [&point[..], tail].concat();
        vec![
            (Change::Vote(Ballot { term: 2, node: 7, elected: true }), 1, with(&[1])),
            (entry(Payload::Blank), 2, point.clone()),
            (entry(Payload::Command(Rc::from(*b"cmd"))), 3, with(b"cmd")),
            (entry(Payload::Membership(Rc::from(*b"m"))), 4, with(b"m")),
            (Change::Truncate(9), 5, 9u64.to_le_bytes().to_vec()),
            (Change::Purge(at), 6, point.clone()),
            (Change::Committed(at), 7, point.clone()),
        ]
    }

    #[test]
    fn every_change_has_its_bytes() {
        let mut piece = Vec::new();
        for (change, flags, body) in all() {
            assert_eq!(change.encode(), (flags, body.clone()), "{change:?}");
            assert_eq!(Change::decode(flags, &body), Ok(change.clone()));
            change.put_piece(&mut piece);
        }
        let listed = Change::list(&piece).expect("it was just made");
        assert_eq!(listed, all().into_iter().map(|(change, _, _)| change).collect::<Vec<_>>());
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for (change, flags, body) in all() {
            let short = &body[..body.len().min(7)];
            assert!(Change::decode(flags, short).is_err(), "{change:?} cut short");
            if !matches!(flags, COMMAND | MEMBERSHIP) {
                let long = [&body[..], b"x"].concat();
                assert!(Change::decode(flags, &long).is_err(), "{change:?} with a tail");
            }
        }
        assert!(Change::decode(VOTE, &[2; 17]).is_err(), "elected is neither 0 nor 1");
        assert!(Change::decode(0, &[]).is_err() && Change::decode(8, &[]).is_err());
        assert!(Change::list(&[1, 0, 0]).is_err() && Change::list(&[0, 0, 0, 0]).is_err());
    }
}
