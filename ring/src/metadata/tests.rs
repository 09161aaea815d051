//! Membership, tokens and moves, as commands change them.

use ironring_core::{Incarnation, Term};

use super::*;

fn facts(name: &str, storage: u128) -> Facts {
    Facts {
        name: name.to_owned(),
        storage: StorageUuid(storage),
        incarnation: Incarnation(1),
        addresses: Addresses::default(),
        rack: String::new(),
        region: String::new(),
        weight: 100,
        shards: 1,
        format: COMMAND_FORMAT,
        lineage: Lineage::default(),
        observer: false,
        condition: Condition::default(),
    }
}

/// Run `run` of node a, with these marks.
fn run(run: u64, mark: u64, previous: u64) -> Facts {
    let lineage = Lineage { mark, previous };
    Facts { incarnation: Incarnation(run), lineage, ..facts("a", 1) }
}

fn founded() -> Metadata {
    let mut m = Metadata::default();
    let found = Command::Found {
        name: "blue".to_owned(),
        uuid: StorageUuid(99),
        partitions: 4,
        rf: 3,
        node: facts("a", 1),
        at: WallTime(1000),
    };
    assert_eq!(m.apply(&found), Outcome::Joined { node: NodeId(1), epoch: 1 });
    assert_eq!(m.apply(&found), Outcome::Rejected(Rejected::Founded));
    m
}

fn token(m: &mut Metadata, id: &str, expires: u64, single_use: bool) {
    let token = JoinToken {
        id: id.to_owned(),
        hash: "00".to_owned(),
        created: WallTime(1000),
        expires: WallTime(expires),
        single_use,
        used_by: None,
    };
    m.apply(&Command::AddToken(token));
}

fn join(m: &mut Metadata, node: Facts, token: Option<&str>, at: u64) -> Result<NodeId, Rejected> {
    let token = token.map(str::to_owned);
    match m.apply(&Command::Join { node, token, at: WallTime(at) }) {
        Outcome::Joined { node, .. } => Ok(node),
        Outcome::Rejected(why) => Err(why),
        other => panic!("a join says which node joined: {other:?}"),
    }
}

/// A cluster of a, b and c, whose first replica of each partition leads term 1.
fn three() -> Metadata {
    let mut m = founded();
    token(&mut m, "t", 5000, false);
    join(&mut m, facts("b", 2), Some("t"), 2000).unwrap();
    join(&mut m, facts("c", 3), Some("t"), 2000).unwrap();
    let all: Vec<_> = (0..4).map(PartitionId).collect();
    m.apply(&Command::Elect { partitions: all.iter().map(|p| (*p, Term(0))).collect() });
    let leader = LeaderId { replica: a(), incarnation: Incarnation(1) };
    m.apply(&Command::Lead { partitions: all.iter().map(|p| (*p, Term(1), leader)).collect() });
    m
}

fn a() -> ReplicaId {
    ReplicaId { storage: StorageUuid(1), life: 0 }
}

const P: PartitionId = PartitionId(2);

fn change(m: &mut Metadata, change: ReplicaChange) -> Result<(), Refused> {
    match m.apply(&Command::Replicas { changes: vec![(P, change)] }) {
        Outcome::Done { refused, .. } => refused.first().map_or(Ok(()), |(_, why)| Err(*why)),
        other => panic!("{other:?}"),
    }
}

fn vote(m: &mut Metadata, voters: &[ReplicaId]) {
    let base = m.partition(P).unwrap().version;
    let voters = voters.to_vec();
    let command = Command::Voters { partition: P, term: Term(1), from: a(), base, voters };
    assert!(matches!(m.apply(&command), Outcome::Done { refused, .. } if refused.is_empty()));
}

#[test]
fn nothing_happens_before_the_cluster_is_founded() {
    let mut m = Metadata::default();
    let refused = m.apply(&Command::SetBalancing(false));
    assert_eq!(refused, Outcome::Rejected(Rejected::NotFounded));
    assert_eq!(m, Metadata::default());
}

#[test]
fn a_new_node_needs_a_token_that_holds() {
    let mut m = founded();
    assert_eq!(join(&mut m, facts("b", 2), None, 2000), Err(Rejected::NeedsToken));
    let unknown = Err(Rejected::Token(TokenRefused::Unknown));
    assert_eq!(join(&mut m, facts("b", 2), Some("t"), 2000), unknown);
    token(&mut m, "t", 3000, true);
    let expired = Err(Rejected::Token(TokenRefused::Expired));
    assert_eq!(join(&mut m, facts("b", 2), Some("t"), 3000), expired);
    assert_eq!(join(&mut m, facts("b", 2), Some("t"), 2999), Ok(NodeId(2)));
    let used = Err(Rejected::Token(TokenRefused::Used));
    assert_eq!(join(&mut m, facts("c", 3), Some("t"), 2000), used);
    m.apply(&Command::RevokeToken { id: "t".to_owned() });
    assert_eq!(join(&mut m, facts("c", 3), Some("t"), 2000), unknown);
}

#[test]
fn a_member_that_restarts_keeps_its_number() {
    let mut m = three();
    let mut again = facts("b", 2);
    again.incarnation = Incarnation(4);
    again.addresses.client = "10.0.0.2:7411".to_owned();
    assert_eq!(join(&mut m, again.clone(), None, 9000), Ok(NodeId(2)));
    assert_eq!(m.member(NodeId(2)).unwrap().facts, again);
    assert!(join(&mut m, facts("b", 2), None, 9000).is_err());
    assert_eq!(m.member(NodeId(2)).unwrap().facts, again, "older words came late");
    let taken = join(&mut m, facts("b", 7), Some("t"), 2000);
    assert!(matches!(taken, Err(Rejected::NameTaken { id: NodeId(2), .. })), "{taken:?}");
    let nameless = join(&mut m, facts("no good", 8), Some("t"), 2000);
    assert!(matches!(nameless, Err(Rejected::Invalid(_))), "{nameless:?}");
}

#[test]
fn a_node_is_removed_when_it_holds_nothing_and_never_comes_back() {
    let mut m = three();
    let holds = m.apply(&Command::Remove { node: NodeId(1) });
    assert_eq!(holds, Outcome::Rejected(Rejected::HoldsReplicas(NodeId(1))));
    assert!(matches!(m.apply(&Command::Remove { node: NodeId(3) }), Outcome::Done { .. }));
    let back = join(&mut m, facts("c", 3), Some("t"), 2000);
    assert_eq!(back, Err(Rejected::Removed(StorageUuid(3))));
    assert_eq!(join(&mut m, facts("c", 9), Some("t"), 2000), Ok(NodeId(4)), "a new number");
}

#[test]
fn a_dead_node_is_replaced_by_one_of_its_name_under_a_new_number() {
    let mut m = three();
    let replace = |m: &mut Metadata, node: Facts, token: &str| match m.apply(&Command::Replace {
        node,
        token: token.to_owned(),
        at: WallTime(2000),
    }) {
        Outcome::Joined { node, .. } => Ok(node),
        Outcome::Rejected(why) => Err(why),
        other => panic!("a join says which node joined: {other:?}"),
    };
    let set = |m: &mut Metadata, status| {
        m.apply(&Command::Status { nodes: vec![(NodeId(2), status)], at: WallTime(1500) });
    };
    for status in [Status::Alive, Status::Suspect] {
        set(&mut m, status);
        let refused = Rejected::NotDead { name: "b".to_owned(), id: NodeId(2), status };
        assert_eq!(replace(&mut m, facts("b", 9), "t"), Err(refused));
    }
    set(&mut m, Status::Dead);
    let before = m.clone();
    let unknown = Err(Rejected::Token(TokenRefused::Unknown));
    assert_eq!(replace(&mut m, facts("b", 9), "u"), unknown);
    assert_eq!(m, before, "what is refused changes nothing");
    assert_eq!(replace(&mut m, facts("b", 9), "t"), Ok(NodeId(4)));
    let old = m.member(NodeId(2)).unwrap();
    assert_eq!((old.state, old.facts.name.as_str()), (MemberState::Lost, "b~2"));
    assert_eq!(replace(&mut m, facts("b", 9), "t"), Ok(NodeId(4)), "it asks again");
    let back = join(&mut m, facts("b", 2), None, 2000);
    assert!(matches!(back, Err(Rejected::NameTaken { id: NodeId(4), .. })), "{back:?}");
    assert_eq!(replace(&mut m, facts("d", 10), "t"), Ok(NodeId(5)), "nobody had the name");
}

#[test]
fn what_an_older_program_does_not_know_makes_the_snapshot_newer() {
    let mut m = three();
    let format = |m: &Metadata| {
        let bytes = m.encode();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(&Metadata::decode(&bytes).unwrap(), m);
        value["format"].as_u64().unwrap()
    };
    assert_eq!(format(&m), 1);
    let set = |vote| Command::SetVote { node: NodeId(2), vote };
    assert!(matches!(m.apply(&set(VoteWish::Learner)), Outcome::Done { .. }));
    assert_eq!((m.member(NodeId(2)).unwrap().vote, format(&m)), (VoteWish::Learner, 2));
    m.apply(&Command::SetPace(Some(PaceMode::Progressive)));
    assert_eq!((Metadata::decode(&m.encode()).unwrap().pace(), format(&m)), (m.pace(), 3));
    let says = |short_of_space| {
        let condition = Condition { short_of_space, ..Condition::default() };
        let node = Facts { condition, ..m.member(NodeId(3)).unwrap().facts.clone() };
        Command::Join { node, token: None, at: WallTime(9) }
    };
    let (short, sound) = (says(true), says(false));
    assert_eq!((short.format(), sound.format()), (4, 1));
    m.apply(&short);
    assert_eq!((m.is_short_of_space(NodeId(3)), format(&m)), (true, 4));
    assert!(!m.is_short_of_space(NodeId(2)) && m.all_know(4) && !m.all_know(5));
    m.apply(&sound);
    assert_eq!((m.is_short_of_space(NodeId(3)), format(&m)), (false, 3));
    let mut given_up = m.clone();
    let facts = Facts { format: 3, ..m.member(NodeId(3)).unwrap().facts.clone() };
    given_up.apply(&Command::Join { node: facts, token: None, at: WallTime(9) });
    assert!(!given_up.all_know(4));
    given_up.apply(&Command::SetMember { node: NodeId(3), state: MemberState::Lost });
    assert!(given_up.all_know(4), "who was given up reads nothing more");
    m.apply(&Command::SetPace(None));
    assert_eq!((m.pace(), format(&m)), (None, 2));
    m.apply(&set(VoteWish::Auto));
    assert_eq!(format(&m), 1);
    let none = m.apply(&Command::SetVote { node: NodeId(9), vote: VoteWish::Voter });
    assert_eq!(none, Outcome::Rejected(Rejected::NoNode(NodeId(9))));
}

#[test]
fn a_move_ends_when_the_new_replica_votes_and_the_old_one_is_gone() {
    let mut m = three();
    let add = |node| ReplicaChange::Add { node, wish: Wish::Voter, replaces: None };
    change(&mut m, add(NodeId(2))).unwrap();
    let b = m.moves()[&P].to;
    assert_eq!(change(&mut m, add(NodeId(3))), Err(Refused::Exists), "one move at a time");
    vote(&mut m, &[a(), b]);
    let voter = ReplicaChange::Wish { replica: b, wish: Wish::Voter };
    change(&mut m, voter).unwrap();
    assert!(m.moves().is_empty());

    let replaces = Some(b);
    change(&mut m, ReplicaChange::Add { node: NodeId(3), wish: Wish::Voter, replaces }).unwrap();
    let c = m.moves()[&P].to;
    vote(&mut m, &[a(), b, c]);
    change(&mut m, ReplicaChange::Wish { replica: b, wish: Wish::Leaving }).unwrap();
    assert_eq!(m.moves()[&P], Move { to: c, from: Some(b) });
    assert_eq!(change(&mut m, ReplicaChange::Drop { replica: b }), Err(Refused::Votes));
    vote(&mut m, &[a(), c]);
    change(&mut m, ReplicaChange::Drop { replica: b }).unwrap();
    assert!(m.moves().is_empty());
}

#[test]
fn a_move_that_is_cancelled_leaves_again() {
    let mut m = three();
    let add = ReplicaChange::Add { node: NodeId(2), wish: Wish::Voter, replaces: None };
    change(&mut m, add).unwrap();
    let b = m.moves()[&P].to;
    change(&mut m, ReplicaChange::Cancel).unwrap();
    assert!(m.moves().is_empty());
    assert_eq!(m.partition(P).unwrap().replica(b).unwrap().wish, Wish::Leaving);
    change(&mut m, ReplicaChange::Drop { replica: b }).unwrap();
    assert_eq!(m.partition(P).unwrap().replicas.len(), 1);
}

#[test]
fn one_partitions_refusal_does_not_stop_the_others() {
    let mut m = three();
    let epoch = m.epoch();
    let elect = Command::Elect {
        partitions: vec![(P, Term(0)), (PartitionId(3), Term(1)), (PartitionId(77), Term(0))],
    };
    let refused = vec![(P, Refused::Term(Term(1))), (PartitionId(77), Refused::Replica)];
    assert_eq!(m.apply(&elect), Outcome::Done { epoch: epoch + 1, refused });
    assert_eq!(m.partition(PartitionId(3)).unwrap().term, Term(2));
    let nothing = Command::Elect { partitions: vec![(P, Term(0))] };
    let Outcome::Done { epoch: same, .. } = m.apply(&nothing) else { panic!() };
    assert_eq!(same, epoch + 1, "what changes nothing is no new epoch");
}

#[test]
fn a_snapshot_gives_the_state_back() {
    let mut m = three();
    let add = ReplicaChange::Add { node: NodeId(2), wish: Wish::Voter, replaces: None };
    change(&mut m, add).unwrap();
    m.apply(&Command::Remove { node: NodeId(3) });
    let bytes = m.encode();
    assert_eq!(Metadata::decode(&bytes).unwrap(), m);
    let newer = String::from_utf8(bytes).unwrap().replacen("\"format\":1", "\"format\":9", 1);
    assert!(matches!(Metadata::decode(newer.as_bytes()), Err(Unreadable::Newer(9))));
}

#[test]
fn an_older_run_changes_nothing() {
    let mut m = founded();
    join(&mut m, run(5, 0, 0), None, 2000).unwrap();
    let old = Rejected::OldRun { node: NodeId(1), run: Incarnation(4), known: Incarnation(5) };
    assert_eq!(join(&mut m, run(4, 0, 0), None, 2000), Err(old));
    assert_eq!(m.member(NodeId(1)).unwrap().facts, run(5, 0, 0));
    // The same run may say more of itself.
    let more = Facts { weight: 200, ..run(5, 0, 0) };
    join(&mut m, more.clone(), None, 2000).unwrap();
    assert_eq!(m.member(NodeId(1)).unwrap().facts, more);
}

#[test]
fn one_of_two_copies_of_a_directory_goes_on() {
    let mut m = founded();
    let copy = Err(Rejected::OtherCopy { node: NodeId(1) });
    join(&mut m, run(2, 0x10, 0), None, 2000).unwrap();
    // Started again before it knew that it was heard, it has the mark still.
    join(&mut m, run(3, 0x10, 0), None, 2000).unwrap();
    // Two copies of the directory draw, and the first that is heard is the node.
    join(&mut m, run(4, 0x20, 0x10), None, 2000).unwrap();
    assert_eq!(join(&mut m, run(4, 0x30, 0x10), None, 2000), copy);
    assert_eq!(join(&mut m, run(9, 0x30, 0x10), None, 2000), copy, "however often it is started");
    // A backup of a time when another mark counted.
    assert_eq!(join(&mut m, run(9, 0x10, 0), None, 2000), copy);
    join(&mut m, run(5, 0x40, 0x20), None, 2000).unwrap();
    assert!(run(4, 0x20, 0x10).is_superseded_by(&run(5, 0x40, 0x20)));
    assert!(run(5, 0x20, 0x10).is_superseded_by(&run(5, 0x40, 0x20)));
    assert!(!run(6, 0x50, 0x40).is_superseded_by(&run(4, 0x20, 0x10)), "these metadata are old");
}
