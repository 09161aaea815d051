//! What a node makes of bad input: from clients, from its operator, from the machine.
//!
//! Every [`Case`] is tried for real and names the exact words; meanwhile and afterwards another
//! client's writes and reads go on, and what it was acknowledged is there after a kill. The table
//! in `docs/bad-input.md` is made from the cases (`IRONRING_BLESS=1` writes it).

#![expect(clippy::unwrap_used, reason = "tests run under every runtime are plain functions")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ironring_core::limits::{FRAME_BODY_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use ironring_core::{Durability, ErrorCode, SessionId};
use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;
use ironring_net::codec::{decode_response, encode_request};
use ironring_net::frame::{HEADER_BYTES, Header, decode_header};
use ironring_net::message::{Condition, Request, Response, WriteOptions};
use support::{NodeProcess, PATIENCE, SMALL, data_dir, under_every_runtime};

/// One row of the table.
struct Case {
    tried: &'static str,
    /// What is said. `…` stands for words that differ from machine to machine.
    message: &'static str,
    told: Told,
    /// What becomes of the connection, of the node and of others.
    then: &'static str,
}

/// How it is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// In an answer with this error code.
    Code(ErrorCode),
    /// On stderr, by a process that ends with this status.
    Exit(i32),
    /// In the node's log, at this level.
    Log(&'static str),
}

macro_rules! cases {
    ($( $name:ident: $tried:literal, $told:expr, $message:literal, $then:literal; )*) => {
        $( const $name: Case = Case { tried: $tried, told: $told, message: $message, then: $then }; )*
        const CASES: &[Case] = &[ $( $name, )* ];
    };
}

use ErrorCode as E;
use Told::{Code, Exit, Log};

cases! {
    WRONG_MAGIC: "Another protocol (an HTTP request) on the client port", Code(E::Malformed),
        "the bytes [47, 45, 54, 20] do not begin an ironring frame", "the connection is closed";
    WRONG_VERSION: "`Hello` of a client that speaks versions 200 to 201", Code(E::UnsupportedVersion),
        "the client speaks protocol versions 200 to 201, the server 1 to 1", "the connection is closed";
    VERSION_CHANGED: "A frame of another version than the handshake agreed on", Code(E::UnsupportedVersion),
        "frame of version 9 on a connection that speaks 1", "the connection is closed";
    HEADER_CHECKSUM: "One bit of a header's checksum changed", Code(E::BadChecksum),
        "frame header checksum is …, the header says …", "the connection is closed: nobody knows where the next frame begins";
    BODY_CHECKSUM: "One bit of a body changed", Code(E::BadChecksum),
        "body checksum is …, the header says …", "the request is not applied; the connection goes on";
    OVERSIZED: "A frame that promises a body over the limit", Code(E::TooLarge),
        "frame body of 16842753 bytes is over the limit of 16842752", "the connection is closed; no memory is set aside for it";
    OVERSIZED_HELLO: "A first frame that promises more than a handshake needs", Code(E::TooLarge),
        "frame body of 1025 bytes is over the limit of 1024", "the connection is closed";
    LONG_KEY: "A key of 1025 bytes", Code(E::TooLarge),
        "key of 1025 is over the limit of 1024", "the connection goes on";
    LONG_VALUE: "A value of 16 MiB and a byte", Code(E::TooLarge),
        "value of 16777217 is over the limit of 16777216", "the connection goes on";
    UNKNOWN_OPCODE: "An opcode no request has", Code(E::UnknownOpcode),
        "no request has opcode 0x7e", "the connection goes on";
    NOT_HELLO: "A first frame that is not `Hello`", Code(E::HandshakeRequired),
        "send Hello first on every connection", "the connection is closed";
    WRONG_CLUSTER: "`Hello` for another cluster", Code(E::WrongCluster),
        "this node belongs to cluster `ironring`", "the connection is closed";
    CLOSED_INSIDE: "Half a frame, then the connection is closed", Log("debug"),
        "closed by the peer 16 bytes into a frame", "nothing of it is applied";
    SILENT_STRANGER: "Half a `Hello`, then silence", Log("debug"),
        "no handshake in time", "the connection is closed after 10 s";
    SILENT_CLIENT: "Half a request, then silence", Log("debug"),
        "the peer stalled", "the connection is closed after 30 s; nothing of the request is applied";
    NEVER_READS: "A client that asks for 300 values of 1 MiB and never reads an answer", Log("debug"),
        "the peer stalled", "the connection is closed after 30 s; a bounded part of the answers is held for it, no processor is busy with it, and others are served";
    TOO_MANY: "More connections than `limits.connections_max`", Code(E::TooManyConnections),
        "the node serves 8 connections already", "those that are open go on; room comes back when one closes";
    UNKNOWN_KEY: "A key of the configuration file that does not exist", Exit(78),
        "….toml:2:1: unknown key \"segmnt_bytes\" in [log]…hint: did you mean \"segment_bytes\"?", "nothing is started";
    OUT_OF_RANGE: "A value of the configuration file that is out of bounds", Exit(78),
        "….toml:2:19: limits.connections_max is 0; the smallest allowed is 1", "nothing is started";
    PORT_IN_USE: "A client port in use", Exit(1),
        "cannot listen on …: Address already in use (os error 98)", "tried for 2 s, then given up; who has the port goes on";
    DIR_IN_USE: "A data directory in use by a running node", Exit(1),
        "data directory … is in use by process …", "the running node goes on";
    NOT_WRITABLE: "A data directory that may not be written", Exit(1),
        "cannot make the data directory …: Permission denied (os error 13)", "nothing is changed";
    OTHER_NODE: "The data directory of another node", Exit(78),
        "data directory … belongs to node `node-1`, not `other`: correct node.name or the directory", "nothing is changed";
    SHARD_COUNT: "Another number of shards than the data directory was made with", Exit(78),
        "data directory … was made with 2 shards, not 3: start it with --shards 2", "nothing is changed";
    TMPFS: "A data directory in memory (tmpfs)", Log("info"),
        "O_DIRECT …", "works; the line says `yes`, or `NO` where the kernel's tmpfs has no direct I/O";
    LITTLE_MEMLOCK: "`ulimit -l 512` and no right to exceed it, one shard", Log("info"),
        "rings of 1024 entries", "works as always";
    NO_MEMLOCK: "The same with four shards", Log("info"),
        "rings of 128 entries (ulimit -l allows no more)", "works, with smaller rings; larger ones would cost fewer system calls";
    NO_RINGS: "The same with 32 shards on a kernel that charges io_uring's rings to the limit (6.14 and later)", Exit(1),
        "cannot start the executor of shard …: … Cannot allocate memory (os error 12); io_uring needs more lockable memory, a limit of all processes of this user together: raise `ulimit -l`",
        "nothing is served, and nothing stored is changed";
    LEAST_MEMLOCK: "`ulimit -l 64`", Exit(1),
        "the limit of lockable memory (`ulimit -l`) is 64 KiB, and the executors need 512 KiB at least: raise it", "nothing is started";
}

impl Case {
    #[track_caller]
    fn holds(&self, told: Told, said: &str) {
        assert_eq!(told, self.told, "{}: {said}", self.tried);
        let mut rest = said;
        for words in self.message.split('…') {
            let at = rest.find(words);
            let at = at.unwrap_or_else(|| panic!("{}: {words:?} is not in: {said}", self.tried));
            rest = &rest[at + words.len()..];
        }
    }
}

under_every_runtime! {
    bytes_that_cannot_be_followed_end_their_connection_only,
    a_bad_request_costs_its_answer_and_nothing_else,
    a_flood_of_connections_is_refused_and_room_comes_back,
    a_client_that_reads_late_gets_every_answer,
    a_client_that_does_not_read_keeps_no_processor_busy,
    a_client_that_goes_with_requests_unanswered_leaves_no_connection,
    large_requests_wait_for_memory_and_small_ones_do_not,
    a_data_directory_in_memory_works_and_the_log_says_how,
}

#[test]
fn the_table_is_made_from_the_cases() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bad-input.md");
    let text = std::fs::read_to_string(&path).expect("the document is there");
    let begin = "<!-- generated: cases -->\n";
    let (before, rest) = text.split_once(begin).expect("the document has the table's beginning");
    let (have, after) = rest.split_once("<!-- end -->\n").expect("the table ends");
    let mut wanted = "\n| tried | told | message | then |\n|---|---|---|---|\n".to_owned();
    for case in CASES {
        let told = match case.told {
            Code(code) => format!("`{}`", code.name()),
            Exit(status) => format!("exit status {status}"),
            Log(level) => format!("log, {level}"),
        };
        let (tried, message, then) = (case.tried, case.message, case.then);
        let fence = if message.contains('`') { ("`` ", " ``") } else { ("`", "`") };
        let message = format!("{}{message}{}", fence.0, fence.1);
        wanted.push_str(&format!("| {tried} | {told} | {message} | {then} |\n"));
    }
    wanted.push('\n');
    if have != wanted && std::env::var_os("IRONRING_BLESS").is_some() {
        let text = format!("{before}{begin}{wanted}<!-- end -->\n{after}");
        std::fs::write(&path, text).expect("the document can be written");
    } else {
        assert!(have == wanted, "docs/bad-input.md is out of date: run with IRONRING_BLESS=1");
    }
}

/// Another client, which must not notice.
struct Bystander {
    client: Client,
    acked: u32,
}

impl Bystander {
    fn of(node: &NodeProcess) -> Bystander {
        Bystander { client: node.client(), acked: 0 }
    }

    fn key(n: u32) -> String {
        format!("bystander/{n}")
    }

    #[track_caller]
    fn is_served(&mut self) {
        let key = Bystander::key(self.acked);
        self.client.put(key.as_bytes(), key.as_bytes()).expect("another client's put works");
        self.acked += 1;
        let found = self.client.get(key.as_bytes()).expect("another client's get works");
        assert_eq!(found.expect("it was put").value, key.as_bytes());
    }

    /// Ends the node hard, starts it again and compares.
    fn lost_nothing(self, node: NodeProcess, dir: &Path) {
        assert!(self.acked > 0, "the bystander did something");
        node.kill();
        let node = NodeProcess::start(dir, &[]);
        let keys: Vec<String> = (0..self.acked).map(Bystander::key).collect();
        let found = node.client().multi_get(&keys).expect("the node is back");
        for (key, found) in keys.iter().zip(found) {
            assert_eq!(found.expect("it was acknowledged").value, key.as_bytes());
        }
    }
}

/// A connection on which anything can be said.
struct Wire {
    stream: TcpStream,
}

impl Wire {
    fn connect(node: &NodeProcess) -> Wire {
        let stream = TcpStream::connect(node.clients).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        Wire { stream }
    }

    /// A connection behind its handshake.
    fn greeted(node: &NodeProcess) -> Wire {
        let mut wire = Wire::connect(node);
        wire.send(&frame(&hello("", (1, 1))));
        let (_, told, said) = wire.answer();
        assert_eq!(told, None, "{said}");
        wire
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the node reads");
    }

    /// The next answer: correlation, error code, message.
    fn answer(&mut self) -> (u64, Option<ErrorCode>, String) {
        let mut bytes = [0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes).expect("an answer comes");
        let header = decode_header(&bytes).expect("the node's frames are right");
        let mut body = vec![0; header.body_len as usize];
        self.stream.read_exact(&mut body).expect("the answer is whole");
        match decode_response(&header, &body).expect("the answer parses") {
            Response::Error { code, message, .. } => {
                (header.correlation, Some(code), message.to_owned())
            }
            other => (header.correlation, None, format!("{other:?}")),
        }
    }

    /// The next answer, which is a value.
    fn value(&mut self) -> Vec<u8> {
        let mut bytes = [0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes).expect("an answer comes");
        let header = decode_header(&bytes).expect("the node's frames are right");
        let mut body = vec![0; header.body_len as usize];
        self.stream.read_exact(&mut body).expect("the answer is whole");
        match decode_response(&header, &body).expect("the answer parses") {
            Response::Value(found) => found.value.to_vec(),
            other => panic!("a value was asked for: {other:?}"),
        }
    }

    #[track_caller]
    fn is_refused(&mut self, case: &Case, correlation: u64) {
        let (got, code, said) = self.answer();
        assert_eq!(got, correlation, "{}", case.tried);
        case.holds(Code(code.unwrap_or_else(|| panic!("{}: {said}", case.tried))), &said);
    }

    /// Nothing more comes and the node has closed.
    #[track_caller]
    fn is_closed(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{} bytes before the end", rest.len()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }

    #[track_caller]
    fn goes_on(&mut self) {
        self.send(&frame(&Request::Ping));
        let (correlation, code, said) = self.answer();
        assert_eq!((correlation, code), (CORRELATION, None), "{said}");
    }
}

const CORRELATION: u64 = 7;

fn frame(request: &Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_request(&mut out, CORRELATION, 0, request).expect("the request keeps the rules");
    out
}

/// A frame with a right header around any body.
fn framed(opcode: u8, version: u8, body: &[u8]) -> Vec<u8> {
    let header = Header {
        version,
        opcode,
        status: 0,
        correlation: CORRELATION,
        body_len: body.len() as u32,
        deadline_ms: 0,
        body_crc: ironring_core::checksum::crc32c(body),
    };
    [&header.encode()[..], body].concat()
}

fn hello<'a>(cluster: &'a str, (version_min, version_max): (u8, u8)) -> Request<'a> {
    Request::Hello { version_min, version_max, features: 0, cluster, client: "bad-input" }
}

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Request<'a> {
    let options =
        WriteOptions { durability: Durability::Quorum, session: SessionId::NONE, sequence: 0 };
    Request::Put { options, condition: Condition::None, ttl_ms: 0, key, value }
}

const OP_PING: u8 = 0x02;
const OP_PUT: u8 = 0x10;

/// The body of a put, limits or not (docs/protocol.md).
fn put_body(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut body = vec![2, 0];
    body.extend((key.len() as u16).to_le_bytes());
    body.extend((value.len() as u32).to_le_bytes());
    body.extend([0; 32]);
    body.extend(key);
    body.extend(value);
    body
}

fn bytes_that_cannot_be_followed_end_their_connection_only() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &[SMALL, &["--shards", "2"]].concat());
    let mut bystander = Bystander::of(&node);
    let ping = frame(&Request::Ping);
    let mut header_checksum = ping.clone();
    header_checksum[28] ^= 1;
    let mut oversized = Header { body_len: 0, ..decode_header(&ping).unwrap() };
    oversized.body_len = FRAME_BODY_BYTES_MAX as u32 + 1;
    let oversized = oversized.encode();
    let http = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_vec();
    let first: [(Case, Vec<u8>, u64); 5] = [
        (WRONG_MAGIC, http, 0),
        (WRONG_VERSION, frame(&hello("", (200, 201))), CORRELATION),
        (OVERSIZED_HELLO, framed(0x01, 1, &[0; 1025]), CORRELATION),
        (NOT_HELLO, ping.clone(), CORRELATION),
        (WRONG_CLUSTER, frame(&hello("elsewhere", (1, 1))), CORRELATION),
    ];
    for (case, bytes, correlation) in first {
        let mut wire = Wire::connect(&node);
        wire.send(&bytes);
        wire.is_refused(&case, correlation);
        wire.is_closed();
        bystander.is_served();
    }
    let later: [(Case, &[u8], u64); 3] = [
        (HEADER_CHECKSUM, &header_checksum, 0),
        (OVERSIZED, &oversized, CORRELATION),
        (VERSION_CHANGED, &framed(OP_PING, 9, &[]), CORRELATION),
    ];
    for (case, bytes, correlation) in later {
        let mut wire = Wire::greeted(&node);
        wire.goes_on();
        wire.send(bytes);
        wire.is_refused(&case, correlation);
        wire.is_closed();
        bystander.is_served();
    }
    bystander.lost_nothing(node, &dir);
}

fn a_bad_request_costs_its_answer_and_nothing_else() {
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &[SMALL, &["--shards", "2"]].concat());
    let mut bystander = Bystander::of(&node);
    let mut damaged = frame(&put(b"damaged", b"value"));
    *damaged.last_mut().expect("it has a body") ^= 1;
    let long_key = put_body(&[b'k'; KEY_BYTES_MAX + 1], b"v");
    let long_value = put_body(b"k", &vec![0; VALUE_BYTES_MAX + 1]);
    let cases = [
        (BODY_CHECKSUM, damaged),
        (LONG_KEY, framed(OP_PUT, 1, &long_key)),
        (LONG_VALUE, framed(OP_PUT, 1, &long_value)),
        (UNKNOWN_OPCODE, framed(0x7e, 1, &[])),
    ];
    let mut wire = Wire::greeted(&node);
    for (case, bytes) in cases {
        wire.send(&bytes);
        wire.is_refused(&case, CORRELATION);
        wire.goes_on();
        bystander.is_served();
    }
    // The right form of the same does work: it was refused for what is wrong with it.
    wire.send(&framed(OP_PUT, 1, &put_body(&[b'k'; KEY_BYTES_MAX], b"v")));
    assert_eq!(wire.answer().1, None);
    assert_eq!(bystander.client.get(b"damaged").unwrap(), None);
    assert_eq!(bystander.client.get(b"k").unwrap(), None);
    bystander.lost_nothing(node, &dir);
}

fn a_flood_of_connections_is_refused_and_room_comes_back() {
    let (_tmp, dir) = data_dir();
    let few = ["--shards", "1", "--set", "limits.connections_max=8"];
    let node = NodeProcess::start(&dir, &[SMALL, &few].concat());
    let mut bystander = Bystander::of(&node);
    // Ten times as many as there is room for; those that got in stay.
    let (mut inside, mut refused) = (Vec::new(), 0);
    bystander.is_served();
    for _ in 0..80 {
        let mut wire = Wire::connect(&node);
        wire.send(&frame(&hello("", (1, 1))));
        let (_, code, said) = wire.answer();
        match code {
            None => inside.push(wire),
            Some(code) => {
                TOO_MANY.holds(Code(code), &said);
                wire.is_closed();
                refused += 1;
            }
        }
    }
    let told = Client::connect(node.config()).map(|_| ()).expect_err("there is no room");
    TOO_MANY.holds(Code(told.code().expect("the server says why")), &told.to_string());
    assert!(refused >= 72 && inside.len() < 8, "{refused} refused, {} inside", inside.len());
    bystander.is_served();
    drop(inside);
    let until = Instant::now() + PATIENCE;
    while Client::connect(node.config()).is_err() {
        assert!(Instant::now() < until, "no room comes back");
    }
    bystander.is_served();
    bystander.lost_nothing(node, &dir);
}

fn a_client_that_reads_late_gets_every_answer() {
    const ASKED: usize = 200;
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &[SMALL, &["--shards", "1"]].concat());
    let mut bystander = Bystander::of(&node);
    let value: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    bystander.client.put(b"large", &value).unwrap();
    let mut wire = Wire::greeted(&node);
    for _ in 0..ASKED {
        wire.send(&frame(&Request::Get { key: b"large" }));
    }
    // More than sockets hold is asked for; nothing is taken while others work.
    for _ in 0..50 {
        bystander.is_served();
    }
    for _ in 0..ASKED {
        assert!(wire.value() == value, "every answer is whole");
    }
    wire.goes_on();
    bystander.lost_nothing(node, &dir);
}

fn a_client_that_does_not_read_keeps_no_processor_busy() {
    const ASKED: usize = 300;
    let (_tmp, dir) = data_dir();
    let node = NodeProcess::start(&dir, &[SMALL, &["--shards", "1"]].concat());
    let mut client = node.client();
    for n in 0..100 {
        client.put(format!("cold/{n}").as_bytes(), &[7; 300_000]).unwrap();
    }
    assert_eq!(node.stop().0, 0);
    // From the disk, so that answers come one after another, to a socket that is full already.
    let node = NodeProcess::start(&dir, &[]);
    Bystander::of(&node).is_served();
    let mut wire = Wire::greeted(&node);
    for n in 0..ASKED {
        wire.send(&frame(&Request::Get { key: format!("cold/{}", n % 100).as_bytes() }));
    }
    // All are answered, with values as far as they may wait here and with a refusal beyond.
    node.until_metric("ironring_requests_total", |n| n >= ASKED as f64);
    node.until_metric("ironring_requests_in_flight", |n| n == 0.0);
    // Then there is nothing to do until the connection is given up, after 30 s.
    let (mut looked, mut asleep) = (0, 0);
    while asleep < 20 {
        looked += 1;
        asleep += u32::from(node.shard_sleeps());
        assert!(looked < 2_000, "the node works for a client that waits");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(node.metric("ironring_connections") > 0.0, "it was given up before it was looked at");
    Bystander::of(&node).is_served();
}

fn a_client_that_goes_with_requests_unanswered_leaves_no_connection() {
    let (_tmp, dir) = data_dir();
    // One at a time, so that most of what it sent waits when the first answer finds nobody.
    let one = ["--shards", "1", "--set", "limits.in_flight_max=1"];
    let node = NodeProcess::start(&dir, &[SMALL, &one].concat());
    Bystander::of(&node).is_served();
    let mut wire = Wire::greeted(&node);
    let key = |n: u32| format!("left/{n}");
    wire.send(&(0..50).flat_map(|n| frame(&put(key(n).as_bytes(), b"v"))).collect::<Vec<u8>>());
    drop(wire);
    node.until_metric("ironring_requests_total", |n| n >= 50.0);
    node.until_metric("ironring_connections", |n| n == 0.0);
    let mut bystander = Bystander::of(&node);
    bystander.is_served();
    for n in 0..50 {
        let found = bystander.client.get(key(n).as_bytes()).unwrap();
        assert!(found.is_some(), "what it sent is done: {n}");
    }
    bystander.lost_nothing(node, &dir);
}

fn large_requests_wait_for_memory_and_small_ones_do_not() {
    const VALUE_BYTES: usize = 6 << 20;
    let (_tmp, dir) = data_dir();
    let ceiling = ["--shards", "1", "--set", "memory.max_bytes=256MiB"];
    let node = NodeProcess::start(&dir, &[SMALL, &ceiling].concat());
    let mut bystander = Bystander::of(&node);
    let value = vec![0x5A; VALUE_BYTES];
    let frames: Vec<Vec<u8>> =
        (0..3).map(|n| frame(&put(format!("large/{n}").as_bytes(), &value))).collect();
    // Two fit in a sixteenth of the ceiling.
    let mut open: Vec<Wire> = (0..2).map(|_| Wire::greeted(&node)).collect();
    for (wire, bytes) in open.iter_mut().zip(&frames) {
        wire.send(&bytes[..bytes.len() - 3]);
    }
    let mut third = Wire::greeted(&node);
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            third.send(&frames[2]);
            third.answer()
        });
        node.until_metric("ironring_connection_input_waits_total", |n| n > 0.0);
        bystander.is_served();
        assert!(node.metric("ironring_connection_input_bytes") < (18 << 20) as f64);
        assert!(!sent.is_finished(), "it waits");
        for (wire, bytes) in open.iter_mut().zip(&frames) {
            wire.send(&bytes[bytes.len() - 3..]);
            assert_eq!(wire.answer().1, None);
        }
        assert_eq!(sent.join().unwrap().1, None);
    });
    // A connection that goes makes room as well.
    open[0].send(&frames[0][..VALUE_BYTES]);
    open[1].send(&frames[1][..VALUE_BYTES]);
    std::thread::scope(|scope| {
        let before = node.metric("ironring_connection_input_waits_total");
        let sent = scope.spawn(|| {
            third.send(&frames[2]);
            third.answer()
        });
        node.until_metric("ironring_connection_input_waits_total", |n| n > before);
        drop(open);
        assert_eq!(sent.join().unwrap().1, None);
    });
    for n in 0..3 {
        let found = bystander.client.get(format!("large/{n}").as_bytes()).unwrap();
        assert!(found.expect("it was acknowledged").value == value);
    }
    bystander.lost_nothing(node, &dir);
}

#[test]
fn peers_that_stall_are_given_up_and_others_are_served_meanwhile() {
    const VALUE_BYTES: usize = 1 << 20;
    const ASKED: u64 = 300;
    let (_tmp, dir) = data_dir();
    let debug = ["--shards", "1", "--log-level", "debug"];
    let mut node = NodeProcess::start(&dir, &[SMALL, &debug].concat());
    let mut bystander = Bystander::of(&node);
    let value: Vec<u8> = (0..VALUE_BYTES).map(|i| (i % 251) as u8).collect();
    bystander.client.put(b"large", &value).unwrap();
    bystander.is_served();
    let before = node.resident_bytes();

    let whole = frame(&put(b"half", b"of a request"));
    let mut left = Wire::greeted(&node);
    left.send(&whole[..16]);
    drop(left);
    let mut stranger = Wire::connect(&node);
    stranger.send(&frame(&hello("", (1, 1)))[..20]);
    let mut silent = Wire::greeted(&node);
    silent.send(&whole[..whole.len() - 3]);
    let mut greedy = Wire::greeted(&node);
    for _ in 0..ASKED {
        greedy.send(&frame(&Request::Get { key: b"large" }));
    }

    let (until, mut most) = (Instant::now() + PATIENCE, 0);
    let mut open = [&mut stranger, &mut silent];
    for wire in &mut open {
        wire.stream.set_nonblocking(true).unwrap();
    }
    // The end shows on what is read; the greedy one's is seen in the log only.
    let mut log = String::new();
    while log.matches(NEVER_READS.message).count() < 2 {
        assert!(Instant::now() < until, "stalled peers stay:\n{log}");
        bystander.is_served();
        most = most.max(node.resident_bytes());
        std::thread::sleep(Duration::from_millis(20));
        log.extend(node.new_lines());
    }
    for wire in open {
        wire.stream.set_nonblocking(false).unwrap();
        wire.is_closed();
    }
    for case in [CLOSED_INSIDE, SILENT_STRANGER, SILENT_CLIENT, NEVER_READS] {
        case.holds(Log("debug"), &log);
    }
    println!("memory {} MiB, at most {} MiB while answers waited", before >> 20, most >> 20);
    // 64 MiB of answers, one more, and as much again while a buffer grows; not the 300 asked for.
    assert!(most < before + (200 << 20), "{before} bytes before, {most} at most");
    assert_eq!(bystander.client.get(b"half").unwrap(), None, "half a request is not applied");
    bystander.lost_nothing(node, &dir);
}

/// A start that must fail as the case says.
#[track_caller]
fn fails(case: &Case, by: &[&str], listen: &str, dir: &Path, args: &[&str]) {
    let (status, said) = NodeProcess::run_by(by, listen, dir, args);
    case.holds(Exit(status), &said);
}

/// Whether the program runs by way of another one.
fn may_run(by: &[&str]) -> bool {
    let probe = [by, &[env!("CARGO_BIN_EXE_ironring"), "--version"]].concat();
    let output = std::process::Command::new(probe[0]).args(&probe[1..]).output();
    output.is_ok_and(|output| output.status.success())
}

const FREE: &str = "127.0.0.1:0";

#[test]
fn a_wrong_configuration_file_is_refused_with_its_place() {
    let (tmp, dir) = data_dir();
    let file = tmp.path().join("ironring.toml");
    let config = ["--config", file.to_str().expect("UTF-8")];
    std::fs::write(&file, "[log]\nsegmnt_bytes = \"4MiB\"\n").unwrap();
    fails(&UNKNOWN_KEY, &[], FREE, &dir, &config);
    std::fs::write(&file, "[limits]\nconnections_max = 0\n").unwrap();
    fails(&OUT_OF_RANGE, &[], FREE, &dir, &config);
    assert!(!dir.exists(), "nothing was started");
    std::fs::write(&file, "[limits]\nconnections_max = 16\n").unwrap();
    let node = NodeProcess::start(&dir, &[&config[..], SMALL].concat());
    Bystander::of(&node).is_served();
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    let (tmp, dir) = data_dir();
    let other = tmp.path().join("other");
    let node = NodeProcess::start(&dir, &[SMALL, &["--shards", "2"]].concat());
    let mut bystander = Bystander::of(&node);
    bystander.is_served();
    fails(&PORT_IN_USE, &[], &node.clients.to_string(), &other, SMALL);
    bystander.is_served();
    fails(&DIR_IN_USE, &[], FREE, &dir, &[]);
    bystander.is_served();
    assert_eq!(node.stop().0, 0);
    fails(&OTHER_NODE, &[], FREE, &dir, &["--set", "node.name=other"]);
    fails(&SHARD_COUNT, &[], FREE, &dir, &["--shards", "3"]);
    bystander.lost_nothing(NodeProcess::start(&dir, &["--shards", "2"]), &dir);
}

#[test]
fn a_data_directory_that_may_not_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (tmp, _) = data_dir();
    let closed = tmp.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(tmp.path(), 0o755);
    open(&closed, 0o555);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let by: &[&str] = if nix::unistd::geteuid().is_root() { &nobody } else { &[] };
    if may_run(by) {
        fails(&NOT_WRITABLE, by, FREE, &closed.join("data"), &[]);
        assert_eq!(std::fs::read_dir(&closed).unwrap().count(), 0, "nothing was changed");
    } else {
        println!("skipped: root writes everywhere, and setpriv cannot run the program as another");
    }
}

fn a_data_directory_in_memory_works_and_the_log_says_how() {
    let Ok(tmp) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: there is no /dev/shm to write to");
        return;
    };
    let dir = tmp.path().join("data");
    let node = NodeProcess::start(&dir, &[SMALL, &["--shards", "1"]].concat());
    TMPFS.holds(Log("info"), &node.said);
    let yes = node.said.contains("O_DIRECT yes (alignment");
    assert!(yes || node.said.contains("O_DIRECT NO (the file system refuses"), "{}", node.said);
    let mut bystander = Bystander::of(&node);
    bystander.is_served();
    bystander.lost_nothing(node, &dir);
}

#[test]
fn little_lockable_memory_is_said() {
    let (_tmp, dir) = data_dir();
    let by = |limit: &'static str| {
        let limited = ["sh", "-c", limit, "sh"];
        let plain = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"];
        let root = nix::unistd::geteuid().is_root();
        [if root { &plain[..] } else { &[] }, &limited].concat()
    };
    let least = by("ulimit -l 64 && exec \"$@\"");
    if may_run(&least) {
        let (status, said) = NodeProcess::run_by(&least, FREE, &dir.join("none"), &[]);
        LEAST_MEMLOCK.holds(Exit(status), &said);
        assert!(!dir.exists(), "nothing is made");
    }
    let by = by("ulimit -l 512 && exec \"$@\"");
    if !may_run(&by) {
        println!("skipped: setpriv cannot take the right to lock memory away");
        return;
    }
    let start = |dir: &Path, shards: &str| {
        let args = [SMALL, &["--shards", shards]].concat();
        NodeProcess::try_start_by(&by, FREE, dir, &args).expect("it says where it listens")
    };
    let one = dir.join("one");
    let node = start(&one, "1");
    LITTLE_MEMLOCK.holds(Log("info"), &node.said);
    let mut bystander = Bystander::of(&node);
    bystander.is_served();
    bystander.lost_nothing(node, &one);

    let four = dir.join("four");
    let node = start(&four, "4");
    NO_MEMLOCK.holds(Log("info"), &node.said);
    let mut bystander = Bystander::of(&node);
    bystander.is_served();
    bystander.lost_nothing(node, &four);

    let many = dir.join("many");
    let mut node = start(&many, "32");
    let until = Instant::now() + PATIENCE;
    loop {
        if node.has_ended() {
            let (status, said) = node.wait();
            NO_RINGS.holds(Exit(status), &said);
            break;
        }
        let config = ClientConfig { deadline: Duration::from_secs(1), ..node.config() };
        let put = Client::connect(config).and_then(|mut client| client.put(b"k", b"v"));
        if put.is_ok() {
            break;
        }
        assert!(Instant::now() < until, "it neither serves nor ends: {put:?}");
    }
}
