//! Clusters of three of other systems, each as durable as it can be: processes on loopback.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::StudyCommon;
use crate::error::BenchError;
use crate::peers::{find, first_line};
use crate::protocol::dial;
use crate::protocol::nats::NatsTarget;
use crate::server::{START_TIMEOUT, Scratch, Server, free_port};

const MEMBERS: usize = 3;
/// Room for etcd's database.
const ETCD_QUOTA_BYTES: &str = "8589934592";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A running cluster of another system.
#[derive(Debug)]
pub struct Rival {
    servers: Vec<Server>,
    /// Where the member that leads serves clients.
    pub leader: String,
}

impl Rival {
    /// Processes of all members.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Server::pid).collect()
    }
}

/// A program and what it says its version is; `None` when it is not on PATH.
#[must_use]
pub fn installed(name: &str, flag: &str) -> Option<(PathBuf, String)> {
    let program = find(name)?;
    let version = first_line(&program, flag);
    Some((program, version))
}

/// The CPU of a member: they take turns on those there are.
fn cpu(common: &StudyCommon, member: usize) -> usize {
    if member.is_multiple_of(2) { common.server_cpu } else { common.client_cpu }
}

fn ports() -> Result<Vec<u16>, BenchError> {
    (0..MEMBERS).map(|_| free_port()).collect()
}

/// Looks until there is something.
fn until<T>(mut look: impl FnMut() -> Result<T, BenchError>) -> Result<T, BenchError> {
    let begin = Instant::now();
    loop {
        match look() {
            Err(error) if begin.elapsed() > START_TIMEOUT => return Err(error),
            Err(_) => std::thread::sleep(LOOK_EVERY),
            found => return found,
        }
    }
}

/// Three etcd members; each syncs before it answers, which is its default.
///
/// # Errors
/// They do not start.
pub fn etcd(common: &StudyCommon, program: &Path) -> Result<Rival, BenchError> {
    let (clients, peers) = (ports()?, ports()?);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let members: Vec<String> =
        peers.iter().enumerate().map(|(i, port)| format!("m{i}={}", url(*port))).collect();
    let mut servers = Vec::new();
    for member in 0..MEMBERS {
        let scratch = Scratch::new(&common.data_root, "etcd", common.keep)?;
        let (client, peer) = (url(clients[member]), url(peers[member]));
        let mut command = Command::new(program);
        command.current_dir(scratch.path()).args(["--name", &format!("m{member}")]);
        command.arg("--data-dir").arg(scratch.path().join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &members.join(","), "--logger", "zap"]);
        command.args(["--quota-backend-bytes", ETCD_QUOTA_BYTES, "--log-outputs", "stderr"]);
        servers.push(Server::start(command, &scratch, &[cpu(common, member)])?);
    }
    let leader = until(|| {
        for port in &clients {
            let addr = format!("127.0.0.1:{port}");
            let status = post(&addr, "/v3/maintenance/status")?;
            let id = status.pointer("/header/member_id").and_then(Value::as_str);
            let leads = status["leader"].as_str();
            if id.is_some() && id == leads {
                return Ok(addr);
            }
        }
        Err(BenchError::Server("no member of etcd leads".to_owned()))
    })?;
    Ok(Rival { servers, leader })
}

/// One request to etcd's JSON gateway.
fn post(addr: &str, path: &str) -> Result<Value, BenchError> {
    let mut stream = dial(addr)?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    let mut answer = String::new();
    let done =
        stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    done.map_err(BenchError::system("asking etcd"))?;
    let body = answer.find('{').zip(answer.rfind('}')).map(|(from, to)| &answer[from..=to]);
    serde_json::from_str(body.unwrap_or_default()).map_err(|e| BenchError::Server(e.to_string()))
}

/// Three NATS servers with a JetStream stream of three copies in files; with `sync` each is synced
/// before it is acknowledged.
///
/// # Errors
/// They do not start.
pub fn nats(common: &StudyCommon, program: &Path, sync: bool) -> Result<Rival, BenchError> {
    let sync = if sync { "\n  sync_interval: always" } else { "" };
    let (clients, peers) = (ports()?, ports()?);
    let routes: Vec<String> =
        peers.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let mut servers = Vec::new();
    for member in 0..MEMBERS {
        let scratch: Arc<Scratch> = Scratch::new(&common.data_root, "nats", common.keep)?;
        let config = scratch.path().join("nats.conf");
        let text = format!(
            "server_name: m{member}\nlisten: \"127.0.0.1:{}\"\n\
             jetstream {{\n  store_dir: {:?}{sync}\n}}\n\
             cluster {{\n  name: bench\n  listen: \"127.0.0.1:{}\"\n  routes: [{}]\n}}\n",
            clients[member],
            scratch.path().join("jetstream"),
            peers[member],
            routes.join(", ")
        );
        std::fs::write(&config, text).map_err(BenchError::file(&config))?;
        let mut command = Command::new(program);
        command.current_dir(scratch.path()).arg("-c").arg(config);
        servers.push(Server::start(command, &scratch, &[cpu(common, member)])?);
    }
    let any = format!("127.0.0.1:{}", clients[0]);
    until(|| NatsTarget::prepare(&any, MEMBERS as u8))?;
    let leader = until(|| NatsTarget::leader(&any))?;
    let member = leader.strip_prefix('m').and_then(|n| n.parse::<usize>().ok());
    let port = member.and_then(|member| clients.get(member));
    let port = port.ok_or_else(|| BenchError::Server(format!("a stream led by {leader}")))?;
    Ok(Rival { servers, leader: format!("127.0.0.1:{port}") })
}
