//! The HTTP thread over a node that is made up.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::FromRequest;
use serde_json::Value;

use super::error::CODES;
use super::reason::REASONS;
use super::request::Body;
use super::routes::{OPENAPI, routes};
use super::{NodeView, Server};
use crate::cluster::Board;
use crate::metrics::{NodeSnapshot, ShardSnapshot, ShardState};

/// A node with two shards in a state, and a prepared answer to the probe.
struct MadeUp {
    states: Mutex<[ShardState; 2]>,
    probe: Mutex<Result<(), Vec<String>>>,
    probes: AtomicUsize,
    board: Board,
}

impl MadeUp {
    fn new(second: ShardState) -> Arc<MadeUp> {
        Arc::new(MadeUp {
            states: Mutex::new([ShardState::Ready, second]),
            probe: Mutex::new(Ok(())),
            probes: AtomicUsize::new(0),
            board: Board::default(),
        })
    }
}

impl NodeView for MadeUp {
    fn snapshot(&self) -> NodeSnapshot {
        let states = self.states.lock().unwrap();
        let shard = |(shard, state): (usize, &ShardState)| ShardSnapshot {
            shard: shard as u16,
            state: *state,
            ..ShardSnapshot::default()
        };
        NodeSnapshot {
            node: "made-up".to_owned(),
            shards: states.iter().enumerate().map(shard).collect(),
            ..NodeSnapshot::default()
        }
    }

    fn probe_ready(&self, _timeout: Duration) -> Result<(), Vec<String>> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        self.probe.lock().unwrap().clone()
    }

    fn board(&self) -> &Board {
        &self.board
    }
}

fn serve(view: &Arc<MadeUp>) -> Server {
    let view: Arc<dyn NodeView> = Arc::<MadeUp>::clone(view);
    Server::start("127.0.0.1:0".parse().unwrap(), view).unwrap()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }
}

fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    exchange(
        address,
        &format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"),
    )
}

/// A request with a body.
fn post(address: SocketAddr, path: &str, content_type: &str, body: &str) -> Answer {
    let length = body.len();
    exchange(
        address,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: \
             {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    )
}

fn exchange(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("there is a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[test]
fn a_ready_node_answers_everything() {
    let server = serve(&MadeUp::new(ShardState::Ready));
    let get = |path: &str| request(server.address(), "GET", path);
    assert_eq!(get("/health/live").json(), serde_json::json!({ "live": true }));

    let ready = get("/health/ready");
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json(), serde_json::json!({ "ready": true, "reasons": [] }));

    let metrics = get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(metrics.body.contains("ironring_ready 1.0\n"), "{}", metrics.body);
    assert!(metrics.body.ends_with("# EOF\n"));

    let node = get("/v1/node").json();
    assert_eq!(node["node"], "made-up");
    assert_eq!(node["ready"], true);
    assert_eq!(node["shards"].as_array().map(Vec::len), Some(2));
    assert!(node["process"]["resident_bytes"].as_u64() > Some(0));
    server.stop();
}

#[test]
fn a_node_that_is_not_ready_says_why_and_is_not_made_to_write() {
    let view = MadeUp::new(ShardState::Recovering);
    let server = serve(&view);
    let ready = request(server.address(), "GET", "/health/ready");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["reasons"], serde_json::json!(["shard 1 is recovering"]));
    assert_eq!(view.probes.load(Ordering::SeqCst), 0);
    assert_eq!(request(server.address(), "GET", "/health/live").status, 200);
    assert_eq!(request(server.address(), "GET", "/v1/node").json()["ready"], false);
    server.stop();
}

#[test]
fn a_shard_that_cannot_write_makes_the_node_not_ready() {
    let view = MadeUp::new(ShardState::Ready);
    *view.probe.lock().unwrap() = Err(vec!["shard 0: no durable write within 2 s".to_owned()]);
    let server = serve(&view);
    let ready = request(server.address(), "GET", "/health/ready");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["reasons"][0], "shard 0: no durable write within 2 s");
    server.stop();
}

#[test]
fn refusals_are_json_with_code_and_hint() {
    let server = serve(&MadeUp::new(ShardState::Ready));
    let missing = request(server.address(), "GET", "/v2/node");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["code"], "no_such_route");
    assert_eq!(missing.json()["message"], "nothing is served at /v2/node");

    let method = request(server.address(), "POST", "/v1/node");
    assert_eq!(method.status, 405);
    assert_eq!(method.json()["code"], "method_not_allowed");
    assert_eq!(method.json()["retriable"], false);
    server.stop();
}

fn expect_bad(answer: &Answer, status: u16, tried: &str) {
    assert_eq!(answer.status, status, "{tried}: {}", answer.body);
    assert!(answer.head.contains("content-type: application/json"), "{tried}: {}", answer.head);
    let said = answer.json();
    assert_eq!(said["code"], "bad_request", "{tried}: {said}");
    assert_eq!(said["retriable"], false, "{tried}");
    assert!(said["message"].as_str().is_some_and(|message| !message.is_empty()), "{tried}");
}

#[test]
fn a_body_that_is_not_what_a_route_takes_is_refused_as_json() {
    let document: Value = serde_json::from_str(OPENAPI).expect("it is JSON");
    let server = serve(&MadeUp::new(ShardState::Ready));
    let mut routes = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if !methods["post"]["requestBody"].is_object() {
            continue;
        }
        routes += 1;
        let asked = path.replace("{id}", "1");
        for (content_type, body, status) in [
            ("text/plain", "{}", 415),
            ("application/json", "{", 400),
            ("application/json", "", 400),
            ("application/json", "{\"nonsense\":1}", 422),
        ] {
            let answer = post(server.address(), &asked, content_type, body);
            expect_bad(&answer, status, &format!("{path} with {content_type} {body:?}"));
            let listed = &methods["post"]["responses"][status.to_string()];
            assert!(listed.is_object(), "{path} gave {status}");
        }
        expect_bad(&request(server.address(), "POST", &asked), 415, path);
    }
    assert!(routes > 5, "{routes}");

    let unknown = post(server.address(), "/v1/cluster/leave", "application/json", "{\"n\":1}");
    let message = unknown.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("the body is not what is taken here: "), "{message}");
    assert!(message.contains("unknown field `n`"), "{message}");
    server.stop();
}

#[test]
fn a_query_and_a_path_that_do_not_parse_are_refused_as_json() {
    let server = serve(&MadeUp::new(ShardState::Ready));
    for (method, path) in [
        ("GET", "/v1/partitions?leaderless=maybe"),
        ("GET", "/v1/partitions?nonsense=1"),
        ("DELETE", "/v1/cluster/tokens"),
        ("GET", "/v1/nodes/%ff"),
    ] {
        expect_bad(&request(server.address(), method, path), 400, path);
    }
    server.stop();
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let request = axum::http::Request::post("/")
        .header("content-type", "application/json")
        .body(axum::body::Body::from(vec![b' '; 3 << 20]))
        .unwrap();
    let refused = Body::<Value>::from_request(request, &()).await.err().unwrap();
    assert_eq!((refused.status.as_u16(), refused.code), (413, "bad_request"));
}

/// `docs/errors.md` lists reasons in a table that is made from [`REASONS`].
#[test]
fn every_code_and_reason_is_documented() {
    let document: Value = serde_json::from_str(OPENAPI).expect("it is JSON");
    let listed = &document["components"]["schemas"]["Error"]["properties"]["code"]["enum"];
    let codes: Vec<&str> = CODES.iter().map(|code| code.name).collect();
    assert_eq!(*listed, serde_json::json!(codes));

    let errors = include_str!("../../../docs/errors.md");
    for code in codes {
        assert!(errors.contains(&format!("`{code}`")), "docs/errors.md lacks {code}");
    }
    let mut table = "| reason | meaning | what to do |\n|---|---|---|\n".to_owned();
    for reason in REASONS {
        table += &format!("| `{}` | {} | {} |\n", reason.name, reason.meaning, reason.hint);
    }
    assert!(errors.contains(&table), "docs/errors.md should have:\n{table}");
}

#[test]
fn the_openapi_document_lists_exactly_what_is_served() {
    let document: Value = serde_json::from_str(OPENAPI).expect("it is JSON");
    let listed: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    let mut served: Vec<&str> = routes().into_iter().map(|(path, _)| path).collect();
    served.sort_unstable();
    assert_eq!(listed, served);

    let server = serve(&MadeUp::new(ShardState::Ready));
    for path in served {
        let answer = request(server.address(), "GET", path);
        let Some(listed) = document["paths"][path].get("get") else {
            assert_eq!(answer.status, 405, "{path} is not described for GET");
            continue;
        };
        let listed = &listed["responses"];
        assert!(listed[answer.status.to_string()].is_object(), "{path} gave {}", answer.status);
    }
    // The fields of what is served are the fields that are described.
    let described = |schema: &str| {
        let properties = document["components"]["schemas"][schema]["properties"].as_object();
        let mut names: Vec<String> = properties.unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let fields = |value: &Value| {
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let get = |path: &str| request(server.address(), "GET", path).json();
    assert_eq!(fields(&get("/v1/node")), described("Node"));
    assert_eq!(fields(&get("/v1/node")["shards"][0]), described("Shard"));
    assert_eq!(fields(&get("/health/ready")), described("Readiness"));
    assert_eq!(fields(&get("/nothing")), described("Error"));
    server.stop();
}

#[tokio::test]
async fn a_crowd_of_probers_costs_one_write_a_second() {
    let view = MadeUp::new(ShardState::Ready);
    let prober = super::ready::Prober::new(Arc::<MadeUp>::clone(&view));
    let now = tokio::time::Instant::now();
    for ms in [0, 1, 500, 999] {
        assert!(prober.readiness(now + Duration::from_millis(ms)).await.ready);
    }
    assert_eq!(view.probes.load(Ordering::SeqCst), 1);
    assert!(prober.readiness(now + super::ready::ANSWER_FRESH).await.ready);
    assert_eq!(view.probes.load(Ordering::SeqCst), 2);
}

#[test]
fn a_stopped_server_frees_its_address_even_with_a_connection_open() {
    let server = serve(&MadeUp::new(ShardState::Ready));
    let address = server.address();
    let mut idle = TcpStream::connect(address).unwrap();
    write!(idle, "GET /health/live HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut some = [0; 1];
    idle.read_exact(&mut some).unwrap();
    server.stop();
    assert!(TcpStream::connect(address).is_err());
}
