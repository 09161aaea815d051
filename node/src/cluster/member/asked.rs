//! What a member is asked, by its own shards and operators and by other nodes, and sends on to whoever
//! leads the metadata group.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use ironring_core::NodeId;
use ironring_net::peer::message::{Half, Raft};
use ironring_ring::metadata::{Command, Outcome, Rejected};

use super::super::catalog::{Catalog, decode_outcome};
use super::super::identity::is_provisional;
use super::super::plane::{self, Admitted, Answer, Ask, Failure, Letter};
use super::super::{judge, roster, token};
use super::{Member, WITHIN};
use crate::driver::clock;
use crate::driver::peers::{LinkId, Remote};
use crate::driver::runtime::Runtime;
use crate::raft::{LinkError, MetaGroup, Peer, RaftLink};
use crate::shard::{MetaAsk, MetaFailure, MoveProgress};

/// How long the other nodes may take to say how far moves are, all together.
const MOVES_WITHIN: Duration = Duration::from_secs(2);

impl<R: Runtime> Member<R> {
    /// A request of this node or another; the leader takes it, and who does not lead sends it on to
    /// the leader, once.
    pub async fn ask(&self, letter: Letter) -> Answer {
        if let Ask::HandOver { partition, to } = letter.ask {
            self.shards.hand_over(partition, to);
            return Answer::PassedOn;
        }
        let Some(group) = self.group.borrow().clone() else {
            return Answer::Failed(Failure::Unavailable("it is not running here".to_owned()));
        };
        if letter.ask == Ask::Snapshot {
            return self.snapshot(&group).await;
        }
        if letter.ask == Ask::Moves {
            return Answer::Moves(self.moves(letter.forwarded).await);
        }
        let status = group.status();
        if status.leader != Some(status.id) {
            let leader = status.leader.filter(|_| !letter.forwarded);
            return match leader {
                Some(leader) => self.send_on(leader, letter.ask).await,
                None => Answer::Failed(Failure::NoLeader),
            };
        }
        if let Ask::Operate(operation) = &letter.ask {
            return self.operate(&group, operation).await;
        }
        let command = match self.command(&group, &letter.ask) {
            Ok(command) => command,
            Err(failure) => return Answer::Failed(failure),
        };
        let metadata = group.read(|catalog| Arc::clone(catalog.newest()));
        if let Some(why) = judge::unreadable(&metadata, &command) {
            // In words that every program can read.
            return Answer::Applied(Outcome::Rejected(Rejected::Invalid(why)));
        }
        match group.propose(command.encode(), WITHIN).await {
            Ok(outcome) => self.answer(&group, &letter.ask, &outcome),
            Err(error) => Answer::Failed(error.into()),
        }
    }

    /// How far moves are of partitions that are led here, and, of all, those that are led elsewhere. What
    /// a node does not say in time is left out.
    async fn moves(&self, only_here: bool) -> Vec<MoveProgress> {
        let mut moves = self.place.board.moves();
        if only_here {
            return moves;
        }
        let metadata = self.place.board.metadata();
        let leader = |id| {
            let record = metadata.partition(id)?;
            record.leader.and_then(|l| record.replica(l.replica)).map(|r| r.node)
        };
        let me = self.place.identity.node;
        let leaders: BTreeSet<NodeId> =
            metadata.moves().keys().filter_map(|id| leader(*id)).collect();
        let by = clock::now().mono + MOVES_WITHIN;
        for node in leaders.into_iter().filter(|node| *node != me) {
            let left = by.since(clock::now().mono);
            let asked = self.call_node(node, Letter { ask: Ask::Moves, forwarded: true });
            let late = async {
                self.runtime.sleep(left).await;
                Answer::Failed(Failure::Unknown)
            };
            if let Answer::Moves(theirs) = future::or(asked, late).await {
                moves.extend(theirs);
            }
        }
        moves
    }

    /// A shard of this node wants a change of the metadata.
    pub fn change(self: &Rc<Self>, MetaAsk { ticket, command }: MetaAsk) {
        let me = Rc::clone(self);
        self.spawn(async move {
            let ask = Ask::Change(Box::new(command));
            let result = match me.ask(Letter { ask, forwarded: false }).await {
                Answer::Applied(outcome) => Ok(outcome),
                Answer::Failed(Failure::Unknown) => Err(MetaFailure::Unknown),
                Answer::Failed(failure) => Err(MetaFailure::Unavailable(failure.to_string())),
                _ => Err(MetaFailure::Unknown),
            };
            me.shards.decided(ticket, result);
        });
    }

    /// The command a request comes to, by the clock of this node, which leads.
    fn command(&self, group: &MetaGroup<Catalog>, ask: &Ask) -> Result<Command, Failure> {
        let command = self.command_of(group, ask)?;
        let metadata = group.read(|catalog| Arc::clone(catalog.newest()));
        judge::understood(&metadata, &command).map_err(Failure::Denied)?;
        Ok(command)
    }

    fn command_of(&self, group: &MetaGroup<Catalog>, ask: &Ask) -> Result<Command, Failure> {
        let now = clock::now().wall;
        match ask {
            Ask::HandOver { .. } | Ask::Operate(_) | Ask::Snapshot | Ask::Moves => {
                Err(Failure::Refused("it is no command".to_owned()))
            }
            Ask::Change(command) => {
                let mut command = (**command).clone();
                command.stamp(now);
                Ok(command)
            }
            Ask::Join { facts, secret, replace } => {
                let metadata = group.read(|catalog| Arc::clone(catalog.newest()));
                let node = (**facts).clone();
                if metadata.member_on(node.storage).is_some() {
                    return Ok(Command::Join { node, token: None, at: now });
                }
                let token = token::shown(&metadata, secret.as_bytes(), now)
                    .map_err(|why| Failure::Refused(why.to_string()))?;
                let token = token.id.clone();
                // Mostly there is nobody to replace any more.
                if *replace && metadata.members().any(|m| m.facts.name == node.name) {
                    return Ok(Command::Replace { node, token, at: now });
                }
                Ok(Command::Join { node, token: Some(token), at: now })
            }
        }
    }

    fn answer(&self, group: &MetaGroup<Catalog>, ask: &Ask, outcome: &[u8]) -> Answer {
        match (decode_outcome(outcome), ask) {
            (Ok(Outcome::Joined { node, .. }), Ask::Join { .. }) => {
                let metadata = group.read(|catalog| Arc::clone(catalog.newest()));
                Answer::Joined(Admitted {
                    node,
                    cluster: self.place.identity.uuid,
                    partitions: metadata.partitions().len() as u32,
                    members: roster::known(&metadata, node),
                })
            }
            (Ok(outcome), _) => Answer::Applied(outcome),
            (Err(error), _) => Answer::Failed(Failure::Refused(error)),
        }
    }

    async fn send_on(&self, leader: u64, ask: Ask) -> Answer {
        self.call_node(NodeId(leader), Letter { ask, forwarded: true }).await
    }

    /// Asks another node, and waits for its answer.
    pub(in crate::cluster) async fn call_node(&self, node: NodeId, letter: Letter) -> Answer {
        let peer = Peer { id: node.0, address: String::new() };
        match self.calls.call(&peer, plane::request(&letter), WITHIN).await {
            Ok(answer) => plane::read_answer(&answer)
                .unwrap_or_else(|error| Answer::Failed(Failure::Refused(error))),
            Err(LinkError::Timeout | LinkError::Lost(_)) => Answer::Failed(Failure::Unknown),
            Err(LinkError::Unreachable(why)) => {
                Answer::Failed(Failure::Unavailable(format!("node {node}: {why}")))
            }
        }
    }

    /// A call of another node, or the answer to one of this.
    pub fn call(self: &Rc<Self>, link: LinkId, remote: &Remote, raft: &Raft<'_>) {
        self.heard(remote);
        if raft.half == Half::Answer {
            return self.calls.answered(link, raft);
        }
        // Who is no member may ask to be one, and nothing else.
        let (stranger, storage) = (is_provisional(remote.peer.node), remote.storage);
        let me = Rc::clone(self);
        self.calls.requested(link, raft, |request| async move {
            match plane::Message::of(&request) {
                Some(plane::Message::Group(message)) if !stranger => {
                    let group = me.group.borrow().clone();
                    match group {
                        Some(group) => group.handle(message).await,
                        // The group's protocol takes no answer for one that never comes.
                        None => Vec::new(),
                    }
                }
                Some(plane::Message::Request(body)) => {
                    let answer = match plane::read_request(body) {
                        Ok(letter) => {
                            let Letter { ask, forwarded } = &letter;
                            match ask.check_sender(storage, stranger, *forwarded) {
                                Ok(()) => me.ask(letter).await,
                                Err(why) => Answer::Failed(Failure::Refused(why)),
                            }
                        }
                        Err(error) => Answer::Failed(Failure::Refused(error)),
                    };
                    plane::answer(&answer)
                }
                _ => plane::answer(&Answer::Failed(Failure::Refused(
                    "a message of another version".to_owned(),
                ))),
            }
        });
    }
}
