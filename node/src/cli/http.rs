//! One request to a node's HTTP address, and its JSON answer. Commands about the cluster ask there.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::Args;
use serde::de::DeserializeOwned;

use super::arguments;
use super::error::{CONNECT_FAILED, CliError, EXIT_FAILED, Fault, PROTOCOL_ERROR};
use crate::http::error::{CODES, INTERNAL, OUTCOME_UNKNOWN};
use crate::http::reason::REASONS;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// Least time an address is given: no time at all would mean for ever.
const LEAST: Duration = Duration::from_millis(1);

/// Which node to ask.
#[derive(Args, Clone, Debug)]
pub struct HttpArgs {
    /// HTTP address of a node (repeatable: tried in this order)
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:7413")]
    pub http: Vec<String>,
    /// Longest a request may take
    #[arg(long, global = true, value_name = "TIME", default_value = "15s", value_parser = arguments::duration)]
    pub timeout: Duration,
}

impl HttpArgs {
    /// Asks the first node that can be reached, or that answers where asking changes nothing: a
    /// stopped process still has its connections accepted.
    ///
    /// # Errors
    /// When none can, or the one that was asked refuses.
    pub fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T, CliError> {
        let until = Instant::now() + self.timeout;
        let mut last = "no address was given".to_owned();
        for (n, address) in self.http.iter().enumerate() {
            let left = |parts: usize| {
                let left = until.saturating_duration_since(Instant::now());
                (left / u32::try_from(parts).unwrap_or(u32::MAX)).max(LEAST)
            };
            let share = left(self.http.len() - n);
            let stream = match connect(address, share) {
                Ok(stream) => stream,
                Err(error) => {
                    last = format!("{address}: {error}");
                    continue;
                }
            };
            let only_looks = method == "GET";
            let patience = if only_looks { share } else { left(1) };
            match exchange((stream, patience), address, method, path, body) {
                Err(error) if only_looks && error.code == CONNECT_FAILED.name => {
                    last = error.faults.into_iter().map(|fault| fault.message).collect();
                }
                done => return done,
            }
        }
        let hint = "is the node running, and is --http its HTTP address?";
        Err(CliError::hinted(&CONNECT_FAILED, last, hint))
    }
}

fn connect(address: &str, patience: Duration) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange<T: DeserializeOwned>(
    (mut stream, patience): (TcpStream, Duration),
    address: &str,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<T, CliError> {
    let body = body.map_or_else(String::new, ToString::to_string);
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    let lost = |error: std::io::Error| lost(method, format!("{address}: {error}"));
    stream
        .set_read_timeout(Some(patience))
        .and_then(|()| stream.set_write_timeout(Some(patience)))
        .and_then(|()| stream.write_all(head.as_bytes()))
        .and_then(|()| stream.write_all(body.as_bytes()))
        .map_err(lost)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(lost)?;
    let (status, body) =
        split(&answer).ok_or_else(|| strange(address, "what it answers is not HTTP"))?;
    if status == 200 {
        return serde_json::from_slice(body)
            .map_err(|error| strange(address, &format!("its answer does not parse: {error}")));
    }
    Err(refusal(address, status, body))
}

/// The failure of a request that was begun and has no answer. What only looks may be asked again; what changes
/// something may have been carried out.
fn lost(method: &str, message: String) -> CliError {
    if method == "GET" {
        return CliError::local(&CONNECT_FAILED, message);
    }
    CliError {
        code: OUTCOME_UNKNOWN.name,
        retriable: OUTCOME_UNKNOWN.retriable,
        exit: EXIT_FAILED,
        reason: None,
        faults: vec![Fault { message, hint: OUTCOME_UNKNOWN.hint.to_owned() }],
    }
}

/// Status and body of an answer whose body is as long as the connection lasts.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

fn strange(address: &str, what: &str) -> CliError {
    let hint = "is --http the HTTP address of an ironring node (7413 by default)?";
    CliError::hinted(&PROTOCOL_ERROR, format!("{address}: {what}"), hint)
}

/// A refusal of the node, in its own words.
fn refusal(address: &str, status: u16, body: &[u8]) -> CliError {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    let message = text("message").unwrap_or_else(|| format!("{address} answers with {status}"));
    let mut hint = text("hint").unwrap_or_default();
    if let Some(reason) = REASONS.iter().find(|reason| json["reason"] == reason.name) {
        hint.push_str(&format!(", or `ironring explain {}`", reason.name));
    }
    let fault = Fault { message, hint };
    let code = CODES.iter().find(|code| json["code"] == code.name);
    CliError {
        code: code.map_or(INTERNAL.name, |code| code.name),
        retriable: json["retriable"].as_bool().unwrap_or(false),
        exit: EXIT_FAILED,
        reason: text("reason"),
        faults: vec![fault],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        assert_eq!(split(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n{}"), Some((200, &b"{}"[..])));
        assert_eq!(split(b"HTTP/1.1 200 OK\r\na: b\r\n"), None);
        assert_eq!(split(b"\x00\r\n\r\n"), None);
    }

    #[test]
    fn an_order_without_an_answer_may_have_been_carried_out() {
        let of = |method| lost(method, "h:1: timed out".to_owned());
        assert_eq!((of("GET").code, of("GET").retriable), (CONNECT_FAILED.name, true));
        assert_eq!((of("POST").code, of("POST").retriable), ("outcome_unknown", false));
    }

    #[test]
    fn a_refusal_keeps_the_nodes_words() {
        let body = br#"{"code":"refused","message":"no","hint":"do","retriable":false}"#;
        let error = refusal("h:1", 400, body);
        assert_eq!((error.code, error.retriable), ("refused", false));
        assert_eq!(error.text(false), "error: no\n  hint: do\n");
        let body = br#"{"code":"refused","message":"no","hint":"do","reason":"last-node"}"#;
        let error = refusal("h:1", 400, body);
        assert_eq!(error.text(false), "error: no\n  hint: do, or `ironring explain last-node`\n");
        assert_eq!(error.json()["reason"], "last-node");
        assert_eq!(refusal("h:1", 502, b"<html>").faults[0].message, "h:1 answers with 502");
    }
}
