//! What a frame between two nodes costs: `Replicate` frames of 1 KiB from one executor to another over
//! loopback, each answered with `Acks`, with so many of them under way.
//!
//! `cargo run --release -p ironring-perf --example peer_links [glommio|monoio] [seconds per row]`
//!
//! CPU is that of the process: both ends, the kernel's part included.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant as StdInstant};

use ironring_core::{
    Incarnation, Instant, NodeId, Offset, PartitionId, ShardId, StorageUuid, Term,
};
use ironring_net::peer::hello::ClusterUuid;
use ironring_net::peer::message::{AGE_UNKNOWN, Ack, AckState, LeaderId, ReplicaId, Replicate};
use ironring_net::peer::{Frame, Hello, Member, Message};
use ironring_node::driver::glommio::Glommio;
use ironring_node::driver::monoio::Monoio;
use ironring_node::driver::peers::serve::serve;
use ironring_node::driver::peers::{
    Admission, Down, Handover, LinkId, Local, PeerOwner, PeerSettings, PeerShard, PeerTarget,
    PeerTargets, Peers, Remote, Side, listen,
};
use ironring_node::driver::runtime::{Runtime, Seat};

const RECORDS_BYTES: usize = 1 << 10;
const DEPTHS: [usize; 5] = [1, 8, 64, 512, 2048];

fn local(node: u64) -> Local {
    Local {
        cluster_name: "perf".to_owned(),
        cluster: ClusterUuid(1),
        node: NodeId(node),
        node_name: format!("node-{node}"),
        storage: StorageUuid(node.into()),
        incarnation: Incarnation(1),
        shard_count: 1,
        token: Vec::new(),
        mark: 0,
    }
}

fn leader(storage: u128) -> LeaderId {
    let replica = ReplicaId { storage: StorageUuid(storage), life: 1 };
    LeaderId { replica, incarnation: Incarnation(1) }
}

fn section(records: &[u8]) -> Replicate<'_> {
    Replicate {
        partition: PartitionId(1),
        to: leader(2).replica,
        from: leader(1),
        term: Term(1),
        first: Offset(1),
        prev_term: Term(1),
        count: 1,
        high_watermark: Offset(1),
        probe: Instant(1),
        answered: Instant(0),
        age_ms: AGE_UNKNOWN,
        records,
    }
}

/// Sends, and counts what is answered.
struct Asker {
    peers: Rc<Peers>,
    link: Option<LinkId>,
    records: Vec<u8>,
    under_way: usize,
    depth: usize,
    answered: u64,
}

impl Asker {
    /// As many frames as may be under way.
    fn fill(&mut self) {
        let Some(link) = self.link else { return };
        let (records, missing) = (&self.records, self.depth.saturating_sub(self.under_way));
        let sent = self.peers.output(link, |output| {
            for sent in 0..missing {
                let section = section(records);
                let built = output.replicate().and_then(|mut frame| {
                    frame.push(&section, [])?;
                    frame.finish()
                });
                if built.is_err() {
                    return sent;
                }
            }
            missing
        });
        self.under_way += sent.unwrap_or(0);
    }
}

impl PeerOwner for Asker {
    fn up(&mut self, link: LinkId, _remote: &Remote) {
        self.link = Some(link);
    }

    fn down(&mut self, _link: LinkId, _peer: PeerShard, _side: Side, reason: &Down) {
        panic!("{reason}");
    }

    fn frame(&mut self, _link: LinkId, _frame: &Frame<'_>, message: Message<'_>) {
        let Message::Acks(acks) = message else { panic!("{message:?}") };
        self.under_way -= acks.len();
        self.answered += acks.len() as u64;
    }
}

/// Answers every frame.
struct Answerer(Rc<Peers>);

impl PeerOwner for Answerer {
    fn up(&mut self, _link: LinkId, _remote: &Remote) {}

    fn down(&mut self, _link: LinkId, _peer: PeerShard, _side: Side, _reason: &Down) {
        self.0.stop();
    }

    fn frame(&mut self, link: LinkId, frame: &Frame<'_>, message: Message<'_>) {
        let Message::Replicate(sections) = message else { panic!("{message:?}") };
        for section in sections.iter() {
            let ack = Ack {
                partition: section.partition,
                from: leader(2),
                to: section.from.replica,
                term: section.term,
                state: AckState::Flushed { end: section.first },
                probe: section.probe,
            };
            let acks = [ack];
            let acks = Message::Acks((&acks[..]).into());
            let sent = self.0.output(link, |output| output.send(&acks));
            sent.expect("it is up").expect("there is room");
        }
        self.0.grant(link, frame.payload.len() as u64);
    }
}

fn peers(node: u64) -> Rc<Peers> {
    let handover = Handover::all(1).expect("there are descriptors").remove(0);
    let peers = Peers::new(local(node), PeerSettings::default(), handover, node);
    peers.expect("there are descriptors")
}

async fn answer<R: Runtime>(runtime: Rc<R>, door: socket2::Socket) -> Result<(), String> {
    let peers = peers(2);
    let admit = |hello: &Hello<'_>| Admission {
        member: Some(Member {
            storage: StorageUuid(hello.identity.node.0.into()),
            removed: false,
            newest: None,
        }),
        token_refused: None,
        stopping: false,
    };
    peers.listen(door, Box::new(admit)).map_err(|e| e.to_string())?;
    let owner = Rc::new(RefCell::new(Answerer(Rc::clone(&peers))));
    serve(runtime, peers, owner).await.map_err(|e| e.to_string())
}

fn cpu() -> Duration {
    let id = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
    nix::time::clock_gettime(id).expect("every kernel has it").into()
}

async fn ask<R: Runtime>(
    runtime: Rc<R>,
    (target, row): (PeerTarget, Duration),
) -> Result<(), String> {
    let peers = peers(1);
    let peer = PeerShard { node: target.node, shard: ShardId(0) };
    peers.set_targets(PeerTargets { cluster: ClusterUuid(1), nodes: vec![target] });
    peers.want(peer);
    let mut asker = Asker {
        peers: Rc::clone(&peers),
        link: None,
        records: vec![7; RECORDS_BYTES],
        under_way: 0,
        depth: 0,
        answered: 0,
    };
    let waiter = runtime.waiter(peers.descriptor()).map_err(|e| e.to_string())?;
    println!("{:>9} {:>12} {:>12} {:>18}", "under way", "frames/s", "us a frame", "CPU us a frame");
    for depth in DEPTHS {
        asker.depth = depth;
        let (mut begin, mut before, mut first) = (StdInstant::now(), cpu(), asker.answered);
        let mut warm = false;
        loop {
            if !warm && begin.elapsed() > row / 4 {
                (warm, begin, before, first) = (true, StdInstant::now(), cpu(), asker.answered);
            }
            if warm && begin.elapsed() > row {
                break;
            }
            let worked = peers.round(&mut asker);
            asker.fill();
            peers.flush();
            if worked {
                runtime.yield_now(ironring_node::driver::clock::now().mono).await;
            } else {
                runtime.readable(&waiter).await;
            }
        }
        let (time, used) = (begin.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
        let frames = (asker.answered - first) as f64;
        println!(
            "{depth:>9} {:>12.0} {:>12.2} {:>18.2}",
            frames / time,
            time * 1e6 / frames,
            used * 1e6 / frames
        );
    }
    peers.stop();
    Ok(())
}

fn run<R: Runtime>(row: Duration) {
    let dir = tempfile::tempdir().expect("there is room");
    let probe = dir.path().join("probe");
    std::fs::write(&probe, vec![1; 4096]).expect("there is room");
    let seat = |cpu| Seat {
        shard: cpu,
        cpu: Some(cpu),
        memlock_tight_bytes: None,
        ring_depth: 64,
        flushes: true,
        probe: probe.clone(),
    };
    let door = listen("127.0.0.1:0".parse().expect("an address")).expect("there are ports");
    let address = door.local_addr().ok().and_then(|a| a.as_socket()).expect("it is bound");
    let target = PeerTarget { node: NodeId(2), address, shard_count: 1 };
    let answers = R::start(seat(0), move |runtime: Rc<R>| answer(runtime, door));
    let asks = R::start(seat(1), move |runtime: Rc<R>| ask(runtime, (target, row)));
    for join in [asks, answers] {
        join.expect("it starts")().expect("it runs").expect("it ends well");
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let runtime = args.next().unwrap_or_else(|| "glommio".to_owned());
    let row = Duration::from_secs_f64(args.next().map_or(2.0, |a| a.parse().expect("seconds")));
    println!("{runtime}, records of {RECORDS_BYTES} bytes");
    match runtime.as_str() {
        "glommio" => run::<Glommio>(row),
        "monoio" => run::<Monoio>(row),
        other => panic!("no runtime is named {other}"),
    }
}
