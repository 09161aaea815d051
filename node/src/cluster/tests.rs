//! What the tests of this folder share, and a member's life in a real directory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use ironring_core::{Incarnation, NodeId, PartitionId, StorageUuid, WallTime};
use ironring_net::peer::hello::ClusterUuid;
use ironring_ring::metadata::{
    Addresses, COMMAND_FORMAT, Command, Condition, Facts, Lineage, Metadata, Outcome, ReplicaId,
};
use ironring_ring::replication::Fence;

use super::*;
use crate::driver::data_dir;
use crate::driver::glommio::Glommio;
use crate::driver::monoio::Monoio;
use crate::driver::peers::{Handover, Local, PeerSettings, Peers};
use crate::driver::runtime::{Runtime, Seat};
use crate::raft::{GroupStatus, RaftCalls, RaftConfig, Role};
use crate::shard::MetaFailure;

/// What a node says of itself.
pub fn facts(name: &str, incarnation: u64) -> Facts {
    Facts {
        name: name.to_owned(),
        storage: StorageUuid(0x77),
        incarnation: Incarnation(incarnation),
        addresses: Addresses { node: "127.0.0.1:1".to_owned(), ..Addresses::default() },
        rack: String::new(),
        region: String::new(),
        weight: 100,
        shards: 2,
        format: COMMAND_FORMAT,
        lineage: Lineage::default(),
        observer: false,
        condition: Condition::default(),
    }
}

/// A cluster of so many nodes, founded by the first.
pub fn cluster_of(nodes: u64) -> Metadata {
    let now = WallTime(1);
    let mut metadata = Metadata::default();
    metadata.apply(&Command::Found {
        name: "c".to_owned(),
        uuid: StorageUuid(1),
        partitions: 8,
        rf: 1,
        node: facts("n1", 1),
        at: now,
    });
    let (_, shown) = token::draw(now, 1000, false);
    let token = Some(shown.id.clone());
    metadata.apply(&Command::AddToken(shown));
    for n in 2..=nodes {
        let name = format!("n{n}");
        let node = Facts { storage: StorageUuid(n.into()), ..facts(&name, 1) };
        metadata.apply(&Command::Join { node, token: token.clone(), at: now });
    }
    metadata
}

/// The metadata group as node 1 has it, which leads.
pub fn group_status(voters: &[u64], learners: &[u64]) -> GroupStatus {
    let all = voters.iter().chain(learners);
    GroupStatus {
        id: 1,
        role: Role::Leader,
        term: 1,
        leader: Some(1),
        silent_leader: None,
        last_log: Some(100),
        committed: None,
        applied: None,
        snapshot: None,
        purged: None,
        voters: voters.iter().copied().collect(),
        learners: learners.iter().copied().collect(),
        addresses: BTreeMap::new(),
        changing: false,
        joint: false,
        millis_since_quorum_ack: None,
        matched: all.map(|id| (*id, Some(99))).collect(),
        damaged_snapshots: 0,
        failure: None,
    }
}

/// What its directory says of itself.
pub fn directory() -> data_dir::Identity {
    data_dir::Identity {
        format: 1,
        storage_uuid: format!("{:032x}", 0x77),
        cluster: "c".to_owned(),
        node: "a".to_owned(),
        partitions: 8,
        shards: 2,
        segment_bytes: 1 << 22,
    }
}

/// The place of a node in `dir`, which is founded there when it says nothing yet.
fn place(dir: &Path, incarnation: u64) -> Place {
    let identity = ClusterIdentity::load(dir, &directory()).unwrap();
    let found = || {
        let uuid = identity::draw_uuid();
        let mine = ClusterIdentity::new(&directory(), uuid, NodeId(1), Stage::Founding, vec![]);
        mine.save(dir).unwrap();
        mine
    };
    Place {
        identity: identity.unwrap_or_else(found),
        data_dir: dir.to_owned(),
        meta_dir: dir.join("meta"),
        facts: facts("a", incarnation),
        partitions: 8,
        raft: RaftConfig::default(),
        controller: ironring_ring::controller::Settings::default(),
        board: Arc::default(),
    }
}

/// A node without shards, which calls somebody with the metadata.
struct NoShards(Box<dyn Fn(&Metadata)>);

impl Shards for NoShards {
    fn publish(&self, metadata: &Arc<Metadata>) {
        (self.0)(metadata);
    }

    fn fence(&self, _fences: Vec<Fence>) {}

    fn fence_at(&self, _node: NodeId, _fences: &[Fence]) {}

    fn decided(&self, _ticket: u64, _result: Result<Outcome, MetaFailure>) {}

    fn hand_over(&self, _partition: PartitionId, _to: ReplicaId) {}
}

/// The way to nobody.
fn calls<R: Runtime>(runtime: Rc<R>) -> Rc<RaftCalls<R>> {
    let local = Local {
        cluster_name: "c".to_owned(),
        cluster: ClusterUuid::NONE,
        node: NodeId(1),
        node_name: "a".to_owned(),
        storage: StorageUuid(0x77),
        incarnation: Incarnation(1),
        shard_count: 1,
        token: Vec::new(),
        mark: 0,
    };
    let handover = Handover::all(1).unwrap().pop().unwrap();
    let peers = Peers::new(local, PeerSettings::default(), handover, 1).unwrap();
    RaftCalls::new(runtime, peers)
}

/// Runs a member until the metadata it publishes are as wanted, and stops it.
async fn run_until<R: Runtime>(
    runtime: Rc<R>,
    place: Place,
    wanted: fn(&Metadata) -> bool,
) -> Result<(), String> {
    let board = Arc::clone(&place.board);
    let slot: Rc<RefCell<Option<Rc<Member<R>>>>> = Rc::default();
    let mine = Rc::clone(&slot);
    let shards = Box::new(NoShards(Box::new(move |metadata| {
        if wanted(metadata)
            && let Some(member) = &*mine.borrow()
        {
            member.stop();
        }
    })));
    let member = Member::new(Rc::clone(&runtime), calls(runtime), place, shards);
    *slot.borrow_mut() = Some(Rc::clone(&member));
    let ended = member.live().await.map_err(|error| error.to_string());
    slot.borrow_mut().take();
    ended?;
    assert!(wanted(&board.metadata()), "the board has what was published");
    Ok(())
}

fn founds_once<R: Runtime>() {
    let tmp = tempfile::tempdir().expect("there is room");
    let dir = tmp.path().to_owned();
    std::fs::create_dir(dir.join("meta")).expect("there is room");
    let run = |incarnation: u64, wanted: fn(&Metadata) -> bool| {
        let dir: PathBuf = dir.clone();
        let seat = Seat::in_test(&dir);
        let life = move |runtime: Rc<R>| run_until(runtime, place(&dir, incarnation), wanted);
        R::start(seat, life).expect("it starts")().expect("the thread ends").expect("it lives");
    };
    run(1, |metadata| metadata.identity().is_some());
    let founded = ClusterIdentity::load(&dir, &directory()).unwrap().unwrap();
    assert_eq!(founded.stage, Stage::Member);
    // The next run says that it is another one.
    run(2, |metadata| {
        let member = metadata.member(NodeId(1));
        member.is_some_and(|member| member.facts.incarnation == Incarnation(2))
    });
    assert_eq!(ClusterIdentity::load(&dir, &directory()).unwrap().unwrap(), founded);
    // A member whose metadata are gone does not make new ones.
    std::fs::remove_dir_all(dir.join("meta")).unwrap();
    std::fs::create_dir(dir.join("meta")).unwrap();
    let path = dir.clone();
    let seat = Seat::in_test(&dir);
    let life = move |runtime: Rc<R>| async move {
        let calls = calls(Rc::clone(&runtime));
        let shards = Box::new(NoShards(Box::new(|_| ())));
        let member = Member::new(runtime, calls, place(&path, 3), shards);
        let error = member.live().await.expect_err("the log is gone");
        assert!(matches!(error, ClusterError::Start(_)), "{error}");
        Ok(())
    };
    R::start(seat, life).expect("it starts")().expect("the thread ends").expect("it lives");
}

#[test]
fn a_cluster_is_founded_once_on_glommio() {
    founds_once::<Glommio>();
}

#[test]
fn a_cluster_is_founded_once_on_monoio() {
    founds_once::<Monoio>();
}
