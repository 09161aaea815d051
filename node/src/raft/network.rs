//! openraft's requests to other members, over a [`RaftLink`].

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use ironring_core::checksum::crc32c;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{
    BasicNode, EntryPayload, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
};

use super::link::{LinkError, Peer, RaftLink};
use super::message::{self, Answer, Request};
use super::snapshot::SnapshotBytes;
use super::snapshot::transfer::Piece;
use super::types::{Blob, Entry, Types, Vote};

/// A transfer whose other end does not move for so many pieces is given up, and begins again.
const STALLED_MAX: u32 = 8;

/// Limits of messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of entries from which an append request takes no more.
    pub payload_bytes: usize,
    /// Bytes of a piece of a snapshot.
    pub chunk_bytes: usize,
    /// How long a piece may take.
    pub chunk_timeout: Duration,
}

/// Makes a client for each peer.
pub(super) struct Factory {
    pub id: u64,
    pub link: Rc<dyn RaftLink>,
    pub limits: Limits,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Client {
        Client {
            id: self.id,
            peer: Peer { id: target, address: node.addr.clone() },
            link: Rc::clone(&self.link),
            limits: self.limits,
        }
    }
}

/// Talks to one peer.
pub(super) struct Client {
    id: u64,
    peer: Peer,
    link: Rc<dyn RaftLink>,
    limits: Limits,
}

fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(command) => command.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

/// Leaves as many entries as fit into `bytes_max`, at least one.
fn bound(entries: &mut Vec<Entry>, bytes_max: usize) {
    let mut bytes = 0;
    let fit = entries.iter().take_while(|entry| {
        bytes += weight(entry);
        bytes <= bytes_max
    });
    let fit = fit.count().max(1);
    entries.truncate(fit);
}

impl Client {
    async fn ask(
        &self,
        action: RPCTypes,
        request: Request,
        timeout: Duration,
    ) -> Result<Answer, RPCError<Types>> {
        let bytes = self.link.call(&self.peer, message::pack(&request), timeout).await;
        let bytes = bytes.map_err(|error| match error {
            // Either way the connection is gone, and asking at once is of no use.
            LinkError::Unreachable(_) | LinkError::Lost(_) => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
            LinkError::Timeout => {
                let (id, target) = (self.id, self.peer.id);
                RPCError::Timeout(Timeout { action, id, target, timeout })
            }
        })?;
        match message::unpack(&bytes) {
            Ok(Answer::Refused(why)) => Err(unreachable(format!("refused: {why}"))),
            Ok(answer) => Ok(answer),
            Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        }
    }

    fn piece(&self, vote: Vote, snapshot: &Whole, offset: u64, len: usize) -> Piece {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(snapshot.body.len());
        let end = start.saturating_add(len).min(snapshot.body.len());
        let bytes = snapshot.body[start..end].to_vec();
        Piece {
            vote,
            meta: snapshot.meta.clone(),
            total_bytes: snapshot.body.len() as u64,
            total_crc: snapshot.crc,
            offset,
            crc: crc32c(&bytes),
            bytes: Blob(bytes),
        }
    }

    /// Sends a snapshot from where the peer is; returns the peer's vote when it is installed, or
    /// when it is a later one.
    async fn send(&self, vote: Vote, snapshot: Whole) -> Result<Vote, RPCError<Types>> {
        let (mut offset, mut len, mut stalled) = (0, 0, 0);
        loop {
            let piece = self.piece(vote, &snapshot, offset, len);
            let request = Request::Snapshot(piece);
            let timeout = self.limits.chunk_timeout;
            let answer = self.ask(RPCTypes::InstallSnapshot, request, timeout).await?;
            let Answer::Snapshot { vote: theirs, have } = answer else {
                return Err(mismatch());
            };
            let Some(have) = have else { return Ok(theirs) };
            if theirs > vote {
                return Ok(theirs);
            }
            // The first piece has no bytes: it asks.
            if len > 0 && have <= offset {
                stalled += 1;
                if stalled > STALLED_MAX {
                    return Err(unreachable("the peer does not take the snapshot"));
                }
            } else {
                stalled = 0;
            }
            (offset, len) = (have, self.limits.chunk_bytes);
        }
    }
}

struct Whole {
    meta: super::types::SnapshotMeta,
    body: SnapshotBytes,
    crc: u32,
}

fn mismatch() -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string("an answer to another question"))
}

fn unreachable(why: impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(why))
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotBytes;

    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let all = rpc.entries.len();
        bound(&mut rpc.entries, self.limits.payload_bytes);
        let cut = (rpc.entries.len() < all).then(|| rpc.entries.last().map(|last| last.log_id));
        let request = Request::Append(rpc);
        match self.ask(RPCTypes::AppendEntries, request, option.hard_ttl()).await? {
            // What was left out is sent next.
            Answer::Append(AppendEntriesResponse::Success) => Ok(match cut {
                Some(last) => AppendEntriesResponse::PartialSuccess(last),
                None => AppendEntriesResponse::Success,
            }),
            Answer::Append(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RPCTypes::Vote, Request::Vote(rpc), option.hard_ttl()).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RPCTypes::Vote, Request::PreVote(rpc), option.hard_ttl()).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotBytes>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let crc = crc32c(&snapshot.snapshot);
        let whole = Whole { meta: snapshot.meta, body: snapshot.snapshot, crc };
        let sent = async { Ok(SnapshotResponse::new(self.send(vote, whole).await?)) };
        let closed = async { Err(StreamingError::Closed(cancel.await)) };
        future::or(sent, closed).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = Request::Transfer(request);
        match self.ask(RPCTypes::TransferLeader, request, option.hard_ttl()).await? {
            Answer::Transfer(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Command, LogPoint};

    #[test]
    fn requests_are_bounded_by_bytes_and_hold_at_least_one_entry() {
        let entry = |index, len| Entry {
            log_id: LogPoint { term: 1, index }.into(),
            payload: EntryPayload::Normal(Command(vec![0; len])),
        };
        let fit = |lens: &[usize], max| {
            let mut entries = (0u64..).zip(lens).map(|(i, len)| entry(i, *len)).collect();
            bound(&mut entries, max);
            entries.len()
        };
        assert_eq!(fit(&[10, 10, 10], 30), 3);
        assert_eq!(fit(&[10, 10, 11], 30), 2);
        assert_eq!(fit(&[100, 1], 30), 1);
        assert_eq!(fit(&[], 30), 0);
    }
}
