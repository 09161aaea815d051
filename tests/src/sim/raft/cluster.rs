//! Members put together: nodes by number, each with its disk, its part of the group and a state
//! machine that remembers every command.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use ironring_core::prng::Prng;
use ironring_core::{ShardId, StorageUuid};
use ironring_log::Identity;
use ironring_node::raft::store::StoreConfig;
use ironring_node::raft::{
    GroupError, GroupStatus, MetaGroup, MetaMachine, RaftConfig, Role, StartError, Surroundings,
};

use super::disk::{DiskHandle, NodeDisk};
use super::network::{Link, Network};
use super::virtual_time::VirtualTime;

/// How often a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A state machine that keeps every command with its index, and answers with how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// Commands in the order they were applied.
    pub commands: Vec<(u64, Vec<u8>)>,
}

impl MetaMachine for Journal {
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Vec<u8>, String> {
        let last = self.commands.last().map(|(index, _)| *index);
        assert!(last < Some(index), "entry {index} is applied after {last:?}");
        self.commands.push((index, command.to_vec()));
        Ok((self.commands.len() as u64).to_le_bytes().to_vec())
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, command) in &self.commands {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&(command.len() as u64).to_le_bytes());
            bytes.extend_from_slice(command);
        }
        bytes
    }

    fn restore(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        let mut commands = Vec::new();
        let mut take = |len: usize| {
            let (taken, rest) = bytes.split_at_checked(len).ok_or("cut short")?;
            bytes = rest;
            Ok::<&[u8], String>(taken)
        };
        while let Ok(index) = take(8) {
            let number = |b: &[u8]| b.try_into().map(u64::from_le_bytes).map_err(|_| "no number");
            let index = number(index)?;
            let len = number(take(8)?)?;
            commands.push((index, take(len as usize)?.to_vec()));
        }
        self.commands = commands;
        Ok(())
    }
}

/// One node's part.
pub type Group = MetaGroup<Journal>;

/// A cluster in virtual time.
pub struct Cluster {
    /// Its time.
    pub time: VirtualTime,
    /// What is between the nodes.
    pub network: Rc<Network>,
    /// Settings of every node that is started.
    pub config: RaftConfig,
    disks: RefCell<BTreeMap<u64, Rc<NodeDisk>>>,
    groups: RefCell<BTreeMap<u64, Group>>,
    rng: RefCell<Prng>,
    /// Each term's leader, as far as anybody saw one.
    leaders: RefCell<BTreeMap<u64, u64>>,
    proposals: Cell<u64>,
}

impl Cluster {
    /// A cluster without nodes.
    #[must_use]
    pub fn new(seed: u64, config: RaftConfig) -> Cluster {
        let mut seeds = Prng::new(seed);
        let time = VirtualTime::new(seeds.next_u64());
        let network = Network::new(time.clone(), seeds.next_u64());
        Cluster {
            time,
            network,
            config,
            disks: RefCell::default(),
            groups: RefCell::default(),
            rng: RefCell::new(seeds),
            leaders: RefCell::default(),
            proposals: Cell::new(0),
        }
    }

    /// A number below `bound`, from the seed.
    pub fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    /// A node's directory.
    pub fn disk(&self, node: u64) -> Rc<NodeDisk> {
        let mut disks = self.disks.borrow_mut();
        let seed = node.wrapping_mul(0x1234_5678_9ABC_DEF1) ^ self.rng.borrow_mut().next_u64();
        let disk = disks.entry(node).or_insert_with(|| NodeDisk::new(self.time.clone(), seed));
        Rc::clone(disk)
    }

    /// Starts a node on its directory.
    ///
    /// # Errors
    /// Why it does not start; `None` when it was killed meanwhile.
    pub async fn try_start(&self, node: u64) -> Result<Group, Option<StartError>> {
        let identity =
            Identity { storage: StorageUuid(u128::from(node) + 1), shard: ShardId(0), salt: 7 };
        let mut store = StoreConfig::new(identity, true);
        store.log.segment_bytes = 1 << 20;
        store.log.checkpoint_interval_bytes = 1 << 20;
        let around = Surroundings {
            host: Rc::new(self.time.clone()),
            disk: Rc::new(DiskHandle(self.disk(node))),
            link: Rc::new(Link { network: Rc::clone(&self.network), from: node }),
        };
        let config = self.config.clone();
        let start =
            async move { MetaGroup::start(node, &config, store, around, Journal::default()).await };
        let group = self.time.run_in(node, start).await.ok_or(None)?.map_err(Some)?;
        let answering = group.clone();
        self.network.attach(
            node,
            Rc::new(move |request| {
                let group = answering.clone();
                Box::pin(async move { group.handle(&request).await })
            }),
        );
        self.groups.borrow_mut().insert(node, group.clone());
        Ok(group)
    }

    /// Starts a node that starts.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(&self, node: u64) -> Group {
        match self.try_start(node).await {
            Ok(group) => group,
            Err(error) => panic!("node {node} does not start: {error:?}"),
        }
    }

    /// Starts nodes and forms a group of them.
    pub async fn form(&self, nodes: &[u64]) {
        for node in nodes {
            self.start(*node).await;
        }
        let members = nodes.iter().map(|node| (*node, format!("node-{node}:1"))).collect();
        self.group(nodes[0]).bootstrap(members).await.expect("nobody has members yet");
    }

    /// A node that runs.
    ///
    /// # Panics
    /// When it does not.
    pub fn group(&self, node: u64) -> Group {
        self.groups.borrow().get(&node).cloned().expect("the test started it")
    }

    /// Nodes that run.
    pub fn running(&self) -> Vec<u64> {
        self.groups.borrow().keys().copied().collect()
    }

    /// The node's process ends, and its machine loses power.
    pub fn crash(&self, node: u64) {
        self.network.detach(node);
        let gone = self.groups.borrow_mut().remove(&node);
        drop(gone);
        self.time.kill(node);
        self.disk(node).power_loss();
        assert_eq!(self.disk(node).misuse(), Vec::<String>::new(), "node {node}");
    }

    /// The node stops in order.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn stop(&self, node: u64) {
        let group = self.group(node);
        self.network.detach(node);
        group.shutdown().await.expect("nothing is wrong with it");
        drop(group);
        let gone = self.groups.borrow_mut().remove(&node);
        drop(gone);
        self.time.kill(node);
    }

    /// How every running node is; notes who leads.
    ///
    /// # Panics
    /// When a term has two leaders.
    pub fn look(&self) -> BTreeMap<u64, GroupStatus> {
        let groups = self.groups.borrow();
        let all: BTreeMap<u64, GroupStatus> =
            groups.iter().map(|(id, group)| (*id, group.status())).collect();
        for status in all.values() {
            if matches!(status.role, Role::Leader | Role::LeaderWithoutQuorum) {
                let leader = *self.leaders.borrow_mut().entry(status.term).or_insert(status.id);
                assert_eq!(leader, status.id, "term {} has two leaders", status.term);
            }
        }
        all
    }

    /// The node that leads with a quorum, in the latest term.
    pub fn leader(&self) -> Option<u64> {
        let all = self.look();
        let leads = all.values().filter(|status| status.role == Role::Leader);
        leads.max_by_key(|status| status.term).map(|status| status.id)
    }

    /// Waits for something; false when it has not come by then.
    pub async fn until(&self, within: Duration, is: impl Fn(&Cluster) -> bool) -> bool {
        let by = self.time.elapsed() + within;
        while !is(self) {
            if self.time.elapsed() >= by {
                return false;
            }
            self.time.pass(LOOK_EVERY).await;
        }
        true
    }

    /// Waits for something that comes.
    ///
    /// # Panics
    /// When it does not come within a minute.
    pub async fn expect(&self, what: &str, is: impl Fn(&Cluster) -> bool) {
        if !self.until(Duration::from_secs(60), is).await {
            panic!("{what} does not come: {:#?}", self.look());
        }
    }

    /// Waits for a leader.
    pub async fn elected(&self) -> u64 {
        self.expect("a leader", |c| c.leader().is_some()).await;
        self.leader().expect("it was just there")
    }

    /// Proposes to whoever leads until it is taken; returns the command. One whose fate is not
    /// known is proposed again: the journal may hold it twice.
    pub async fn propose(&self, len: usize) -> Vec<u8> {
        let number = self.proposals.get();
        self.proposals.set(number + 1);
        let mut command = number.to_le_bytes().to_vec();
        command.resize(len.max(8), number as u8);
        loop {
            let leader = self.elected().await;
            let proposed =
                self.group(leader).propose(command.clone(), Duration::from_secs(5)).await;
            match proposed {
                Ok(_) => return command,
                Err(GroupError::NotLeader { .. } | GroupError::NoQuorum | GroupError::Unknown) => {
                    self.time.pass(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("a proposal fails: {error}"),
            }
        }
    }

    /// The commands a node has applied.
    pub fn journal(&self, node: u64) -> Vec<Vec<u8>> {
        self.group(node).read(|j| j.commands.iter().map(|(_, command)| command.clone()).collect())
    }

    /// Waits until all running nodes have applied the same, and `commands` are among it.
    ///
    /// # Panics
    /// When they do not come to agree.
    pub async fn agree(&self, commands: &[Vec<u8>]) {
        let same = |c: &Cluster| {
            let mut applied = BTreeSet::new();
            for (node, status) in c.look() {
                applied.insert(status.applied);
                let journal = c.journal(node);
                let have: BTreeSet<&Vec<u8>> = journal.iter().collect();
                if !commands.iter().all(|command| have.contains(command)) {
                    return false;
                }
            }
            applied.len() == 1
        };
        self.expect("agreement", same).await;
        let running = self.running();
        let first = self.group(running[0]).read(Journal::clone);
        for node in &running[1..] {
            self.group(*node).read(|other| assert_eq!(*other, first, "node {node} differs"));
        }
    }
}
