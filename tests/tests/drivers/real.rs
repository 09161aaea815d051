//! A node of this process, with its own threads, sockets and files.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ironring_core::ErrorCode;
use ironring_net::frame::HEADER_BYTES;
use ironring_net::message::Request;
use ironring_net::{decode_header, encode_request};
use ironring_node::config::{Machine, RuntimeName, Setting, Settled, Sources};
use ironring_node::driver::{Addresses, Node, NodeError};
use ironring_tests::sim::op::{Op, Outcome, RequestId};
use ironring_tests::sim::shard_node::{decode, encode};

use crate::{PARTITIONS, SEGMENT_BYTES, Target};

/// Between two looks at a node that still opens its logs.
const NAP: Duration = Duration::from_millis(2);

pub struct RealNode {
    dir: tempfile::TempDir,
    runtime: RuntimeName,
    shards: u16,
    running: Option<Running>,
    requests: u64,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), NodeError>>,
    /// One connection to each shard.
    wires: Vec<TcpStream>,
}

impl RealNode {
    pub fn start(runtime: RuntimeName, shards: u16) -> RealNode {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = tempfile::tempdir_in(base).expect("the target directory is writable");
        let mut node = RealNode { dir, runtime, shards, running: None, requests: 0 };
        node.run();
        node
    }

    fn run(&mut self) {
        let data_dir = self.dir.path().join("data");
        let settings = [
            ("node.data_dir", data_dir.display().to_string()),
            ("node.shards", self.shards.to_string()),
            ("cluster.partitions", PARTITIONS.to_string()),
            ("log.segment_bytes", SEGMENT_BYTES.to_string()),
            ("log.reserve_segments", "2".to_owned()),
            ("listen.clients", "127.0.0.1:0".to_owned()),
            ("listen.peers", "127.0.0.1:0".to_owned()),
            ("limits.deadline_default_ms", "60000".to_owned()),
            ("driver.runtime", self.runtime.name().to_owned()),
        ];
        let flags = settings.into_iter().map(|(key, value)| Setting {
            flag: key.to_owned(),
            key: key.to_owned(),
            value,
        });
        let sources = Sources { flags: flags.collect(), ..Sources::default() };
        let loaded = sources.load().expect("the settings are right");
        let machine = Machine::read(&data_dir).expect("the machine can be read");
        let settled = Settled::new(&loaded.config, &machine).expect("the settings fit");
        let stop = Arc::new(AtomicBool::new(false));
        let node = Node { loaded, settled, stop: Arc::clone(&stop) };
        let (sender, addresses) = mpsc::channel::<Addresses>();
        let thread = std::thread::spawn(move || {
            node.run(|addresses, _| {
                let _ = sender.send(addresses.clone());
                Ok(None)
            })
        });
        let Ok(addresses) = addresses.recv() else {
            panic!("the node did not start: {:?}", thread.join());
        };
        let wires = addresses.shards.iter().map(|address| {
            let mut wire = TcpStream::connect(address).expect("every shard listens");
            let mut hello = Vec::new();
            let request = Request::Hello {
                version_min: 1,
                version_max: 1,
                features: 0,
                cluster: "",
                client: "",
            };
            encode_request(&mut hello, 0, 0, &request).expect("it is short");
            exchange(&mut wire, &hello);
            wire
        });
        let wires = wires.collect();
        self.running = Some(Running { stop, thread, wires });
    }

    fn stop(&mut self) {
        let Running { stop, thread, wires } = self.running.take().expect("it runs");
        drop(wires);
        stop.store(true, Ordering::Relaxed);
        thread.join().expect("no shard panics").expect("the node stops cleanly");
    }
}

impl Target for RealNode {
    fn ask(&mut self, shard: u16, op: &Op) -> Outcome {
        loop {
            self.requests += 1;
            let request = RequestId(self.requests);
            let running = self.running.as_mut().expect("it runs");
            let answer = exchange(&mut running.wires[usize::from(shard)], &encode(request, op));
            let (answered, outcome) = decode(&answer);
            assert_eq!(answered, request);
            if !matches!(outcome, Outcome::Error { code: ErrorCode::NotReady, .. }) {
                return outcome;
            }
            std::thread::sleep(NAP);
        }
    }

    fn restart(&mut self) {
        self.stop();
        self.run();
    }
}

impl Drop for RealNode {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Sends a frame and receives the one that answers it.
fn exchange(wire: &mut TcpStream, frame: &[u8]) -> Vec<u8> {
    wire.write_all(frame).expect("the node reads");
    let mut answer = vec![0; HEADER_BYTES];
    wire.read_exact(&mut answer).expect("the node answers");
    let header = decode_header(&answer).expect("the node's frames are right");
    answer.resize(header.frame_bytes(), 0);
    wire.read_exact(&mut answer[HEADER_BYTES..]).expect("the node answers whole frames");
    answer
}
