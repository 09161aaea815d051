//! A real node in a temporary directory, on free ports.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod cluster;

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;

thread_local! {
    /// The runtime of the nodes this test starts; empty: that of the configuration.
    pub static RUNTIME: Cell<&'static str> = const { Cell::new("") };
}

/// Makes tests of functions: one under each runtime.
#[allow(unused_macros, reason = "not every test program runs under every runtime")]
macro_rules! under_every_runtime {
    ($($test:ident),+ $(,)?) => {
        mod glommio {
            $(#[test]
            fn $test() {
                crate::support::RUNTIME.set("glommio");
                super::$test();
            })+
        }

        mod monoio {
            $(#[test]
            fn $test() {
                crate::support::RUNTIME.set("monoio");
                super::$test();
            })+
        }
    };
}
#[allow(unused_imports, reason = "not every test program runs under every runtime")]
pub(crate) use under_every_runtime;

/// How long a node may take to do what a test waits for. Nothing is asserted about speed: this ends
/// a test that would otherwise hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A node process; killed when dropped.
pub struct NodeProcess {
    child: Child,
    pub clients: SocketAddr,
    pub http: SocketAddr,
    pub peers: SocketAddr,
    /// What it said until it was up.
    pub said: String,
    lines: mpsc::Receiver<String>,
}

impl NodeProcess {
    /// Starts a node on `dir` with `args` and waits until its addresses are known.
    pub fn start(dir: &Path, args: &[&str]) -> NodeProcess {
        NodeProcess::try_start(dir, args).unwrap_or_else(|lines| panic!("no start:\n{lines}"))
    }

    /// The same; what it said when it ended instead.
    pub fn try_start(dir: &Path, args: &[&str]) -> Result<NodeProcess, String> {
        NodeProcess::try_start_by(&[], "127.0.0.1:0", dir, args)
    }

    /// Starts a node on an address of the test's own, so that it can be started there again.
    pub fn start_at(listen: &str, dir: &Path, args: &[&str]) -> NodeProcess {
        NodeProcess::try_start_by(&[], listen, dir, args)
            .unwrap_or_else(|lines| panic!("no start:\n{lines}"))
    }

    /// Starts a node listening on `listen`, by way of another program: `by` ends where the
    /// node's command line begins.
    pub fn try_start_by(
        by: &[&str],
        listen: &str,
        dir: &Path,
        args: &[&str],
    ) -> Result<NodeProcess, String> {
        let (mut child, lines) = spawn(by, listen, dir, args);
        let (mut clients, mut http, mut peers, mut said) = (None, None, None, String::new());
        while clients.is_none() || http.is_none() {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                let _ = child.kill();
                let _ = child.wait();
                return Err(said);
            };
            clients = clients.or_else(|| address_after(&line, "clients on "));
            http = http.or_else(|| address_after(&line, "http on "));
            peers = peers.or_else(|| address_after(&line, "nodes on "));
            said.push_str(&line);
            said.push('\n');
        }
        let (clients, http) = (clients.expect("set above"), http.expect("set above"));
        let peers = peers.expect("it is said with the clients' address");
        Ok(NodeProcess { child, clients, http, peers, said, lines })
    }

    /// Runs a node that ends by itself; its exit status and what it said.
    pub fn run(dir: &Path, args: &[&str]) -> (i32, String) {
        NodeProcess::run_by(&[], "127.0.0.1:0", dir, args)
    }

    /// The same, by way of another program and on another address.
    pub fn run_by(by: &[&str], listen: &str, dir: &Path, args: &[&str]) -> (i32, String) {
        let (mut child, lines) = spawn(by, listen, dir, args);
        let mut said = String::new();
        // The lines end when the process does.
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => said.push_str(&format!("{line}\n")),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("the node does not end:\n{said}");
                }
            }
        }
        let status = child.wait().expect("it was started");
        (status.code().unwrap_or(-1), said)
    }

    /// What it said since it was up, or since this was asked last.
    pub fn new_lines(&mut self) -> Vec<String> {
        self.lines.try_iter().map(|line| line + "\n").collect()
    }

    /// The process.
    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Memory of the process that is in RAM, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
        kib.map_or(0, |kib: u64| kib << 10)
    }

    /// What it answers to an HTTP request, head included.
    pub fn http_get(&self, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(self.http).expect("http listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers in text");
        answer
    }

    /// A metric, all shards together. It may be a second old.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.http_get("/metrics");
        let of = |line: &str| -> Option<f64> {
            let rest = line.strip_prefix(name)?;
            matches!(rest.as_bytes().first(), Some(b' ' | b'{')).then_some(())?;
            rest.rsplit_once(' ')?.1.parse().ok()
        };
        let family = format!("# TYPE {} ", name.trim_end_matches("_total"));
        assert!(text.contains(&family), "no metric {name}:\n{text}");
        text.lines().filter_map(of).sum()
    }

    /// Waits until a metric is as wanted.
    pub fn until_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !wanted(self.metric(name)) {
            assert!(Instant::now() < until, "{name} stays {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether the thread of shard 0 is asleep now.
    pub fn shard_sleeps(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let stats = tasks.expect("the process runs").flatten().filter_map(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
            let (id, rest) = stat.split_once(" (shard-0")?;
            let state = rest.split_once(") ")?.1.chars().next()?;
            Some((id.parse::<u32>().ok()?, state))
        });
        // A runtime may have threads of its own with the same name: the shard's is the oldest.
        stats.min().expect("shard 0 has a thread").1 == 'S'
    }

    /// A client with a session, connected to shards directly.
    pub fn client(&self) -> Client {
        Client::connect(self.config()).expect("the node listens")
    }

    pub fn config(&self) -> ClientConfig {
        ClientConfig {
            deadline: Duration::from_secs(20),
            ..ClientConfig::new(self.clients.to_string())
        }
    }

    /// Ends it as a power failure of the process would.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was started");
    }

    /// Stops it as an operator does; its exit status and last words.
    pub fn stop(mut self) -> (i32, String) {
        nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGTERM).expect("it runs");
        self.wait()
    }

    /// True when it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it was started").is_some()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> (i32, String) {
        let status = self.child.wait().expect("it was started");
        let said: Vec<String> = self.lines.iter().collect();
        (status.code().unwrap_or(-1), said.join("\n"))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the program, and collects its lines.
fn spawn(by: &[&str], listen: &str, dir: &Path, args: &[&str]) -> (Child, mpsc::Receiver<String>) {
    let program = [by, &[env!("CARGO_BIN_EXE_ironring")]].concat();
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .args(["start", "--listen", listen, "--http", "127.0.0.1:0", "--data-dir"])
        .arg(dir)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .env("NO_COLOR", "1")
        // A flag overrides it.
        .env("IRONRING__LISTEN__PEERS", "127.0.0.1:0");
    if !RUNTIME.get().is_empty() {
        command.env("IRONRING__DRIVER__RUNTIME", RUNTIME.get());
    }
    let mut child = command.spawn().expect("the program is there");
    let stderr = child.stderr.take().expect("stderr is piped");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    (child, lines)
}

/// A loopback address that no other test uses, with a free port of it. A node started there again
/// finds its port free: nobody else is there, and no connection out of this machine begins there.
pub fn address_of_its_own() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    format!("127.{}.{}.{}:0", 1 + pid / 256 % 250, pid % 256, 1 + n % 250)
}

fn address_after(line: &str, words: &str) -> Option<SocketAddr> {
    let rest = line.split_once(words)?.1;
    let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// A directory on the file system of the workspace: direct I/O works there as it does in use.
pub fn data_dir() -> (tempfile::TempDir, PathBuf) {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let tmp = tempfile::tempdir_in(base).expect("the target directory is writable");
    let path = tmp.path().join("data");
    (tmp, path)
}

/// Small segments, so that a test's directory stays small.
pub const SMALL: &[&str] = &["--set", "log.segment_bytes=4MiB", "--set", "log.reserve_segments=2"];
