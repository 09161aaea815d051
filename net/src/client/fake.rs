//! A cluster of two shards in threads of the test process: keys, topics and sessions in memory,
//! behind the real [`Connection`], and faults on demand.

#![expect(clippy::disallowed_methods, reason = "a server for tests lives in threads")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ironring_core::{
    Durability, ErrorCode, Instant, Offset, PartitionId, StorageUuid, Term, Token,
};

use super::call::options_of;
use crate::connection::{Connection, Identity, Limits, Output};
use crate::frame::{HEADER_BYTES, Opcode, decode_header};
use crate::list::ValueListBuilder;
use crate::message::*;

#[cfg(feature = "monoio")]
mod frozen;
mod silent;
mod store;

#[cfg(feature = "monoio")]
pub(crate) use frozen::Frozen;
pub(crate) use silent::Silent;
use store::{Answer, Topic, found};

/// Partitions of the cluster; the first half belongs to shard 0.
const PARTITIONS: u32 = 16;

/// What happens instead of the usual answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Not applied, refused.
    Refuse(ErrorCode, u64),
    /// Not applied, connection closed.
    CloseBefore,
    /// Applied, connection closed.
    CloseAfter,
    /// Applied, no answer.
    Silence,
    /// Not applied, an answer that is none.
    Garbage,
    /// A put that is not applied, answered with the receipt of another.
    Duplicate,
    /// Answered in a frame that is wrong.
    Wrong(Wrong),
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Not applied: an error with a code that no build knows yet.
    Code,
    BodyChecksum,
    Version,
}

impl Wrong {
    fn apply(self, frame: &mut [u8]) {
        let mut header = decode_header(frame).unwrap();
        match self {
            Wrong::Code => header.status = 999,
            Wrong::BodyChecksum => header.body_crc ^= 1,
            Wrong::Version => header.version += 1,
        }
        frame[..HEADER_BYTES].copy_from_slice(&header.encode());
    }
}

#[derive(Debug, Default)]
struct State {
    addresses: Vec<String>,
    keys: BTreeMap<Vec<u8>, (Offset, Vec<u8>)>,
    topics: Vec<Topic>,
    topics_made: u32,
    sessions_made: u64,
    answers: BTreeMap<(u64, PartitionId), Vec<Answer>>,
    applied: usize,
    faults: VecDeque<(Opcode, Act)>,
    seen: Vec<(Opcode, usize)>,
    sequences_seen: Vec<u64>,
    connections: Vec<(usize, TcpStream)>,
    stopped: Vec<bool>,
    /// Shards refuse what another one leads.
    refuses_others: bool,
    /// This one is a node that no other hears.
    cut_off: Option<usize>,
}

pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    addresses: Vec<SocketAddr>,
    threads: Vec<Option<std::thread::JoinHandle<()>>>,
}

impl Cluster {
    pub fn start() -> Cluster {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let state = State {
            addresses: addresses.iter().map(SocketAddr::to_string).collect(),
            stopped: vec![false; 2],
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let accept = |(shard, listener): (usize, TcpListener)| {
            let state = Arc::clone(&state);
            Some(std::thread::spawn(move || accept(shard, &listener, &state)))
        };
        let threads = listeners.into_iter().enumerate().map(accept).collect();
        Cluster { state, addresses, threads }
    }

    pub fn address(&self, shard: usize) -> String {
        self.addresses[shard].to_string()
    }

    /// The next request of this kind meets a fault.
    pub fn on(&self, opcode: Opcode, act: Act) {
        self.state.lock().unwrap().faults.push_back((opcode, act));
    }

    /// Each shard is a node of its own whose address in the map leads nowhere.
    pub fn hide_behind_a_firewall(&self) {
        let closed = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut state = self.state.lock().unwrap();
        state.addresses.fill_with(closed);
        state.refuses_others = true;
    }

    /// From here on this shard is a node that no other hears: it takes no writes and has the map as it
    /// was. The other one leads everything.
    pub fn cut_off(&self, shard: usize) {
        self.state.lock().unwrap().cut_off = Some(shard);
    }

    pub fn count(&self, opcode: Opcode) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|(seen, _)| *seen == opcode).count()
    }

    /// Writes applied so far.
    pub fn applied(&self) -> usize {
        self.state.lock().unwrap().applied
    }

    /// The shard that took the last put.
    pub fn last_shard(&self) -> usize {
        *self.shards_of(Opcode::Put).last().unwrap()
    }

    /// The shards that took the requests of a kind, in their order.
    pub fn shards_of(&self, opcode: Opcode) -> Vec<usize> {
        let state = self.state.lock().unwrap();
        state.seen.iter().filter(|(seen, _)| *seen == opcode).map(|(_, shard)| *shard).collect()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.lock().unwrap().connections.len()
    }

    pub fn sequences_seen(&self) -> Vec<u64> {
        self.state.lock().unwrap().sequences_seen.clone()
    }

    pub fn forget_sessions(&self) {
        self.state.lock().unwrap().answers.clear();
    }

    /// Closes a shard's port and connections.
    pub fn stop_shard(&mut self, shard: usize) {
        self.state.lock().unwrap().stopped[shard] = true;
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.addresses[shard]));
        if let Some(thread) = self.threads[shard].take() {
            thread.join().unwrap();
        }
        for (of, stream) in &self.state.lock().unwrap().connections {
            if *of == shard {
                // It may have been closed by the client.
                let _closed = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.threads.len()).for_each(|shard| self.stop_shard(shard));
    }
}

fn accept(shard: usize, listener: &TcpListener, state: &Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().unwrap();
        let mut locked = state.lock().unwrap();
        if locked.stopped[shard] {
            return;
        }
        locked.connections.push((shard, stream.try_clone().unwrap()));
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            serve(shard, &stream, &state);
            // The cluster keeps another handle: dropping this one does not close the socket.
            let _gone = stream.shutdown(Shutdown::Both);
        });
    }
}

/// A connection to a shard, as it begins.
fn connection_of(shard: usize) -> Connection {
    let identity = Identity {
        cluster: "test".into(),
        node: "fake".into(),
        server: "0".into(),
        storage: StorageUuid(1),
        shard: shard as u16,
        features: crate::features::KNOWN,
    };
    Connection::new(Arc::new(identity), Limits::default(), Instant(0))
}

fn serve(shard: usize, mut stream: &TcpStream, state: &Mutex<State>) {
    let mut connection = connection_of(shard);
    let mut wrong = Vec::new();
    loop {
        while let Ok(Some((frame, output))) = connection.next_frame_and_output() {
            let correlation = frame.header.correlation;
            let request = match frame.decode() {
                Ok(request) => request,
                Err(error) => {
                    output.refuse(Instant(0), correlation, &error);
                    continue;
                }
            };
            let opcode = Opcode::from_u8(frame.header.opcode).unwrap();
            let mut state = state.lock().unwrap();
            state.seen.push((opcode, shard));
            let misplaced =
                state.refuses_others && leader_of(&request).is_some_and(|at| at != shard);
            let refusal = misplaced.then_some(Act::Refuse(ErrorCode::NotLeader, 0));
            let alone = state.cut_off == Some(shard) && options_of(&request).is_some();
            let refusal = refusal.or(alone.then_some(Act::Refuse(ErrorCode::TooFewReplicas, 0)));
            let act = state.take_fault(opcode).or(refusal);
            if let Some(Act::Wrong(how)) = act {
                wrong.push((output.bytes().len(), how));
            }
            if !state.handle(shard, &request, act, correlation, output) {
                drop(state);
                let _gone = stream.write_all(connection.output().bytes());
                return;
            }
        }
        let output = connection.output();
        let mut bytes = output.bytes().to_vec();
        wrong.drain(..).for_each(|(at, how): (usize, Wrong)| how.apply(&mut bytes[at..]));
        let len = bytes.len();
        if stream.write_all(&bytes).is_err() {
            return;
        }
        output.sent(Instant(0), len);
        if connection.is_finished() {
            return;
        }
        match stream.read(connection.receive_space(4096)) {
            Ok(0) | Err(_) => return,
            Ok(len) => connection.received(Instant(0), len),
        }
    }
}

/// The shard that leads the partition of a request for one key.
fn leader_of(request: &Request<'_>) -> Option<usize> {
    let (Request::Put { key, .. } | Request::Delete { key, .. } | Request::Get { key }) = request
    else {
        return None;
    };
    Some((Token::of_key(key).partition(PARTITIONS).0 / (PARTITIONS / 2)) as usize)
}

fn ok(output: &mut Output, correlation: u64, response: &Response<'_>) {
    output.respond(Instant(0), correlation, response);
}

fn refuse(output: &mut Output, correlation: u64, code: ErrorCode, detail: u64) {
    let message = "as the test wants";
    ok(output, correlation, &Response::Error { code, detail, message });
}

impl State {
    fn take_fault(&mut self, opcode: Opcode) -> Option<Act> {
        let at = self.faults.iter().position(|(on, _)| *on == opcode)?;
        self.faults.remove(at).map(|(_, act)| act)
    }

    /// False: close the connection.
    fn handle(
        &mut self,
        shard: usize,
        request: &Request<'_>,
        act: Option<Act>,
        correlation: u64,
        output: &mut Output,
    ) -> bool {
        if let Some(options) = options_of(request).filter(|options| options.session.0 != 0) {
            self.sequences_seen.push(options.sequence);
        }
        match act {
            Some(Act::CloseBefore) => return false,
            Some(Act::Refuse(code, detail)) => {
                refuse(output, correlation, code, detail);
                return true;
            }
            Some(Act::Garbage) => {
                ok(output, correlation, &Response::Topics(vec![]));
                return true;
            }
            Some(Act::CloseAfter | Act::Silence) => {
                let mut nowhere = connection_to_nowhere();
                self.answer(shard, request, correlation, nowhere.output());
                return act == Some(Act::Silence);
            }
            Some(Act::Duplicate) => {
                let (durability, partition) = (Durability::Quorum, PartitionId(0));
                let (term, offset) = (Term(1), Offset(1));
                let receipt = Receipt { durability, partition, term, offset, duplicate: true };
                ok(output, correlation, &Response::Receipt(receipt));
                return true;
            }
            Some(Act::Wrong(Wrong::Code)) => {
                refuse(output, correlation, ErrorCode::Malformed, 0);
                return true;
            }
            Some(Act::Wrong(_)) | None => {}
        }
        self.answer(shard, request, correlation, output);
        true
    }

    /// The map as the shard that is asked knows it.
    fn map(&self, asked: usize) -> ClusterMap {
        let successor = self.cut_off.filter(|cut_off| *cut_off != asked).is_some();
        let half = PARTITIONS / 2;
        let shard = |shard: u16, first, end| {
            let leads = if successor { asked } else { shard.into() };
            ShardAddress { shard, address: self.addresses[leads].clone(), first, end }
        };
        let shards = vec![shard(0, 0, half), shard(1, half, PARTITIONS)];
        ClusterMap { epoch: 1 + u64::from(successor), partitions: PARTITIONS, shards }
    }

    fn answer(
        &mut self,
        shard: usize,
        request: &Request<'_>,
        correlation: u64,
        output: &mut Output,
    ) {
        match *request {
            Request::Ping => ok(output, correlation, &Response::Pong),
            Request::Stats => ok(output, correlation, &Response::Stats("{}")),
            Request::OpenSession => {
                self.sessions_made += 1;
                let session = ironring_core::SessionId(self.sessions_made);
                ok(output, correlation, &Response::Session(session));
            }
            Request::ClusterMap => {
                ok(output, correlation, &Response::ClusterMap(self.map(shard)));
            }
            Request::Get { key } => match self.keys.get(key) {
                Some((version, value)) => {
                    ok(output, correlation, &Response::Value(found(*version, value)));
                }
                None => refuse(output, correlation, ErrorCode::NotFound, 0),
            },
            Request::MultiGet { keys, .. } => {
                let mut buffer = Vec::new();
                let mut values = ValueListBuilder::new(&mut buffer);
                for key in keys {
                    let entry = self.keys.get(key).map(|(version, v)| found(*version, v));
                    values.push(entry).unwrap();
                }
                ok(output, correlation, &Response::Values(values.finish()));
            }
            Request::Scan { partition, prefix, after, values, .. } => {
                self.scan((partition, prefix, after, values), correlation, output);
            }
            _ if options_of(request).is_some() => self.write(request, correlation, output),
            _ => self.topic_request(request, correlation, output),
        }
    }
}

/// A connection with one frame in flight whose answer nobody will see.
fn connection_to_nowhere() -> Connection {
    let identity = Identity {
        cluster: String::new(),
        node: String::new(),
        server: String::new(),
        storage: StorageUuid(0),
        shard: 0,
        features: 0,
    };
    let mut connection = Connection::new(Arc::new(identity), Limits::default(), Instant(0));
    let mut frames = Vec::new();
    let hello =
        Request::Hello { version_min: 1, version_max: 1, features: 0, cluster: "", client: "" };
    crate::encode_request(&mut frames, 1, 0, &hello).unwrap();
    crate::encode_request(&mut frames, 2, 0, &Request::Ping).unwrap();
    connection.feed(Instant(0), &frames);
    assert!(connection.next_frame().unwrap().is_some());
    connection
}
