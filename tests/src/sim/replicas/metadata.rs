//! The metadata group as one place that never fails, with the shipped state, and shipped
//! controllers that do: a new one takes over now and then, and the one before goes on for a moment.

use ironring_core::prng::Prng;
use ironring_core::{Incarnation, Instant, NodeId, PartitionId, StorageUuid, WallTime};
use ironring_ring::controller::{Controller, Effect, Planned, Settings, Ticket};
use ironring_ring::metadata::{
    Addresses, COMMAND_FORMAT, Command, Condition, Facts, JoinToken, Lineage, Metadata, Outcome,
    PartitionRecord,
};
use ironring_ring::placement::Weight;
use ironring_ring::replication::{FenceAnswer, Request};

/// Two controllers at most: one that was replaced and goes on, and the present one.
const CONTROLLERS_MAX: usize = 2;
/// The token every simulated node shows.
const TOKEN: &str = "token";

/// Which controller, of all there ever were.
pub type ControllerNumber = u64;

/// Committed metadata, and who works on them.
#[derive(Debug)]
pub struct Group {
    /// What is committed.
    pub state: Metadata,
    controllers: Vec<(ControllerNumber, Controller)>,
    /// Plans that were made, and come back at the next step, when the metadata may be others.
    plans: Vec<(ControllerNumber, Planned)>,
    settings: Settings,
    last: ControllerNumber,
}

/// What a node says of itself.
pub fn facts(index: usize, storage: StorageUuid, incarnation: Incarnation) -> Facts {
    Facts {
        // A node whose disk was replaced is another one.
        name: format!("node-{index}-{}", storage.0),
        storage,
        incarnation,
        addresses: Addresses::default(),
        rack: String::new(),
        region: String::new(),
        weight: Weight::ONE.hundredths(),
        shards: 1,
        format: COMMAND_FORMAT,
        lineage: Lineage::default(),
        observer: false,
        condition: Condition::default(),
    }
}

/// How a node joins, or says that it is back.
pub fn join(facts: Facts) -> Command {
    Command::Join { node: facts, token: Some(TOKEN.to_owned()), at: WallTime(0) }
}

impl Group {
    /// A cluster of one node, whom others may join.
    pub fn new(partitions: u32, rf: u8, first: Facts, settings: Settings) -> Group {
        let mut state = Metadata::default();
        let (name, uuid, at) = ("simulated".to_owned(), StorageUuid(0xC1), WallTime(0));
        state.apply(&Command::Found { name, uuid, partitions, rf, node: first, at });
        state.apply(&Command::AddToken(JoinToken {
            id: TOKEN.to_owned(),
            hash: String::new(),
            created: at,
            expires: WallTime(u64::MAX),
            single_use: false,
            used_by: None,
        }));
        Group { state, controllers: Vec::new(), plans: Vec::new(), settings, last: 0 }
    }

    /// Another controller takes over; the one before it may go on for a while.
    pub fn new_controller(&mut self, now: Instant) {
        self.last += 1;
        let controller = Controller::new(now, self.settings, &self.state);
        self.controllers.push((self.last, controller));
        if self.controllers.len() > CONTROLLERS_MAX {
            self.controllers.remove(0);
        }
    }

    /// Those that were replaced learn it: nothing they propose is committed any more.
    pub fn retire_old(&mut self) {
        let old = self.controllers.len().saturating_sub(1);
        self.controllers.drain(..old);
    }

    /// Every controller works out what is to be done. Plans are made here, and are not among it.
    pub fn step(&mut self, now: Instant) -> Vec<(ControllerNumber, Effect)> {
        let mut effects = Vec::new();
        let plans = std::mem::take(&mut self.plans);
        for (number, controller) in &mut self.controllers {
            for (_, plan) in plans.iter().filter(|(of, _)| of == number) {
                controller.planned(now, &self.state, plan);
            }
            controller.step(now, WallTime(0), &self.state);
            for effect in controller.effects() {
                match effect {
                    Effect::Plan(planning) => {
                        self.plans.push((*number, planning.make(&self.state)));
                    }
                    effect => effects.push((*number, effect)),
                }
            }
        }
        effects
    }

    /// A command is committed. Returns the partitions whose records changed.
    pub fn commit(
        &mut self,
        now: Instant,
        command: &Command,
        by: Option<(ControllerNumber, Ticket)>,
        heard_back: bool,
    ) -> (Outcome, Vec<PartitionId>) {
        let before: Vec<PartitionRecord> = self.state.partitions().to_vec();
        let outcome = self.state.apply(command);
        let known = self.controllers.iter_mut().find(|(n, _)| by.is_some_and(|(by, _)| by == *n));
        if let (Some((_, controller)), Some((_, ticket))) = (known, by) {
            let told = heard_back.then_some(&outcome);
            controller.decided(now, &self.state, ticket, told);
        }
        let differs = |(i, record): (usize, &PartitionRecord)| before.get(i) != Some(record);
        let changed = self.state.partitions().iter().enumerate().filter(|pair| differs(*pair));
        let changed = changed.map(|(i, _)| PartitionId(i as u32)).collect();
        (outcome, changed)
    }

    /// Whether a controller is the present one. Of one before it nothing new is committed.
    pub fn is_present(&self, number: ControllerNumber) -> bool {
        number == self.last
    }

    /// A command is not committed, and its author does not learn that.
    pub fn lose(&mut self, now: Instant, (by, ticket): (ControllerNumber, Ticket)) {
        if let Some((_, controller)) = self.controllers.iter_mut().find(|(n, _)| *n == by) {
            controller.decided(now, &self.state, ticket, None);
        }
    }

    /// A node is heard by every controller.
    pub fn heard(&mut self, now: Instant, node: NodeId, incarnation: Incarnation) {
        self.controllers.iter_mut().for_each(|(_, c)| c.heard(now, node, incarnation));
    }

    /// A node's process ended, and every controller notices.
    pub fn gone(&mut self, node: NodeId) {
        self.controllers.iter_mut().for_each(|(_, c)| c.gone(node));
    }

    /// A voter's answer reaches every controller.
    pub fn answer(&mut self, now: Instant, answer: &FenceAnswer) {
        self.controllers.iter_mut().for_each(|(_, c)| c.answer(now, *answer));
    }

    /// A leader's request reaches one of the controllers.
    pub fn request(&mut self, now: Instant, request: &Request, rng: &mut Prng) {
        let i = rng.below(self.controllers.len() as u64) as usize;
        self.controllers[i].1.request(now, &self.state, request);
    }
}
