//! What a node tells the cluster of itself: what it is like in this run, and what is wrong with it.

use std::rc::Rc;
use std::time::Duration;

use ironring_core::Instant;
use ironring_ring::metadata::{
    Command, Condition, Facts, MemberState, Metadata, Outcome, Rejected,
};

use super::super::judge::Remaining;
use super::super::plane::{Answer, Ask, Failure, Letter};
use super::super::shortage::Shortage;
use super::{AGAIN_AFTER, ClusterError, Member, WITHIN};
use crate::driver::clock;
use crate::driver::runtime::Runtime;

/// How often a node that leaves asks whether it has been let go.
const LET_GO_AFTER: Duration = Duration::from_secs(1);

impl<R: Runtime> Member<R> {
    /// What is wrong with this node. Not told while there are members whose programs do not know of it.
    fn condition(&self, now: Instant, metadata: &Metadata) -> Condition {
        let Some(known) = metadata.member(self.place.identity.node) else {
            return Condition::default();
        };
        let said = || Shortage::new(known.facts.condition.short_of_space);
        let mut shortage = self.shortage.get().unwrap_or_else(said);
        let board = &self.place.board;
        let before = shortage.is_short();
        let short_of_space = shortage.look(now, board.room(self.place.facts.shards));
        match (before, short_of_space) {
            (false, true) => tracing::warn!(
                "this node is short of space, and others are to lead its partitions: delete data or add disk"
            ),
            (true, false) => tracing::info!("this node has room again"),
            _ => {}
        }
        self.shortage.set(Some(shortage));
        match metadata.all_know(Condition::FORMAT) {
            true => Condition { short_of_space, compare_undecided: board.undecided() },
            false => Condition::default(),
        }
    }

    /// Tells the cluster what this node is like in this run, until the metadata say the same.
    pub(super) fn tell_facts(self: &Rc<Self>, metadata: &Metadata) {
        let now = clock::now();
        let condition = self.condition(now.mono, metadata);
        let mine = &Facts { condition, ..self.place.facts.clone() };
        // Without metadata it is a member still, as its directory says, and may be an old copy.
        let known = metadata.member(self.place.identity.node);
        if let Some(known) = known.filter(|known| mine.is_superseded_by(&known.facts)) {
            // However old these metadata are: it is over, and the leader may not even listen.
            *self.refused.borrow_mut() = known.admits(mine).err().map(ClusterError::Rejected);
            return;
        }
        // One that leaves and holds nothing asks whether it has been let go: nobody sends it the change
        // that does it.
        let leaves = known.is_some_and(|member| {
            let holds_nothing = || Remaining::of(metadata, member.id).replicas == 0;
            member.state == MemberState::Leaving && holds_nothing()
        });
        let is_known = !leaves && known.is_some_and(|known| known.facts == *mine);
        if is_known || now.mono < self.tell_at.get() || self.telling.replace(true) {
            return;
        }
        let node = mine.clone();
        let command = Command::Join { node, token: None, at: now.wall };
        let me = Rc::clone(self);
        self.spawn(async move {
            let ask = Ask::Change(Box::new(command));
            let told = match me.ask(Letter { ask: ask.clone(), forwarded: false }).await {
                // A directory that is an old copy may never hear of a leader by itself: the group sends
                // nothing to a member that has lost entries.
                Answer::Failed(Failure::NoLeader) => me.ask_another(ask).await,
                told => told,
            };
            let again_after = match told {
                Answer::Applied(Outcome::Rejected(Rejected::Removed(_))) => {
                    me.leave();
                    AGAIN_AFTER
                }
                Answer::Applied(Outcome::Rejected(why)) => {
                    *me.refused.borrow_mut() = Some(ClusterError::Rejected(why));
                    AGAIN_AFTER
                }
                Answer::Applied(_) if leaves => LET_GO_AFTER,
                // The metadata will say it.
                Answer::Applied(_) => WITHIN,
                _ => AGAIN_AFTER,
            };
            me.telling.set(false);
            me.tell_at.set(clock::now().mono + again_after);
            me.poke.notify_one();
        });
    }

    /// Has another member send a request on to the leader: each in turn.
    async fn ask_another(&self, ask: Ask) -> Answer {
        let known = self.saver.newest().identity.known;
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        match known.get(turn % known.len().max(1)) {
            Some(other) => self.call_node(other.node, Letter { ask, forwarded: false }).await,
            None => Answer::Failed(Failure::NoLeader),
        }
    }
}
