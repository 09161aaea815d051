//! A real node in a temporary directory, on free ports.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ironring_net::client::ClientConfig;
use ironring_net::client::blocking::Client;

/// A node process; killed when dropped.
pub struct NodeProcess {
    child: Child,
    pub clients: SocketAddr,
    pub http: SocketAddr,
    lines: mpsc::Receiver<String>,
}

impl NodeProcess {
    /// Starts a node on `dir` with `args` and waits until its addresses are known.
    pub fn start(dir: &Path, args: &[&str]) -> NodeProcess {
        NodeProcess::try_start(dir, args).unwrap_or_else(|lines| panic!("no start:\n{lines}"))
    }

    /// The same; what it said when it ended instead.
    pub fn try_start(dir: &Path, args: &[&str]) -> Result<NodeProcess, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ironring"))
            .args(["start", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env("NO_COLOR", "1")
            .spawn()
            .expect("the binary was built");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let (mut clients, mut http, mut said) = (None, None, String::new());
        while clients.is_none() || http.is_none() {
            let Ok(line) = lines.recv_timeout(Duration::from_secs(60)) else {
                let _ = child.kill();
                let _ = child.wait();
                return Err(said);
            };
            clients = clients.or_else(|| address_after(&line, "clients on "));
            http = http.or_else(|| address_after(&line, "http on "));
            said.push_str(&line);
            said.push('\n');
        }
        let (clients, http) = (clients.expect("set above"), http.expect("set above"));
        Ok(NodeProcess { child, clients, http, lines })
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
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        self.wait()
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
