//! The NATS text protocol with JetStream: each publish asks for an acknowledgement on a reply
//! subject whose last part is the request's tag.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Parsed, Protocol, Target, dial, send};
use crate::error::BenchError;
use crate::recorder::Outcome;
use crate::workload::{Op, OpKind, Workload};

/// Longest control line; the server's own limit for what it takes is 4 KiB, what it sends
/// (INFO) may be longer.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Longest message the server may send here: acknowledgements are below 200 bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Different records each connection publishes in turn.
const RECORDS: usize = 16;

const STREAM: &str = "IRONRINGBENCH";
const SUBJECT: &str = "ironringbench.records";

/// Numbers the connections of this process, so that no two share a reply subject.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// A NATS server with JetStream.
#[derive(Clone, Debug)]
pub struct NatsTarget {
    addr: String,
}

impl NatsTarget {
    /// Reaches the server once and makes the stream, with so many copies in files.
    ///
    /// # Errors
    /// The server cannot be reached, or has no JetStream.
    pub fn prepare(addr: &str, replicas: u8) -> Result<NatsTarget, BenchError> {
        let config = serde_json::json!({
            "name": STREAM, "subjects": [SUBJECT], "storage": "file", "retention": "limits",
            "discard": "old", "num_replicas": replicas, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
        });
        NatsTarget::ask(addr, &format!("$JS.API.STREAM.CREATE.{STREAM}"), &config.to_string())?;
        Ok(NatsTarget { addr: addr.to_owned() })
    }

    /// The name of the server that leads the stream.
    ///
    /// # Errors
    /// The server cannot be reached, or nobody leads it.
    pub fn leader(addr: &str) -> Result<String, BenchError> {
        let info = NatsTarget::ask(addr, &format!("$JS.API.STREAM.INFO.{STREAM}"), "")?;
        let leader = info.pointer("/cluster/leader").and_then(|name| name.as_str());
        leader
            .map(str::to_owned)
            .ok_or_else(|| BenchError::Server("nobody leads the stream".to_owned()))
    }

    fn ask(addr: &str, subject: &str, body: &str) -> Result<serde_json::Value, BenchError> {
        let answer = Control::open(addr)?.ask(subject, body)?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)
            .map_err(|e| BenchError::Server(format!("{subject}: {e}")))?;
        match answer.get("error") {
            None => Ok(answer),
            Some(error) => Err(BenchError::Server(format!("{subject}: {error}"))),
        }
    }
}

impl Target for NatsTarget {
    type Protocol = Nats;

    fn connect(
        &self,
        _lane: usize,
        workload: &mut Workload,
    ) -> Result<(TcpStream, Nats), BenchError> {
        let control = Control::open(&self.addr)?;
        let records = workload.records(RECORDS).into_iter().map(<[u8]>::to_vec).collect();
        let protocol = Nats { inbox: control.inbox, records, next: 0 };
        Ok((control.stream.into_inner(), protocol))
    }

    fn stats(&self) -> Result<Option<serde_json::Value>, BenchError> {
        Ok(None)
    }
}

/// A connection that has shaken hands, still blocking.
struct Control {
    stream: BufReader<TcpStream>,
    inbox: String,
}

impl Control {
    fn open(addr: &str) -> Result<Control, BenchError> {
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let inbox = format!("_INBOX.{}x{number}.", std::process::id());
        let mut control = Control { stream: BufReader::new(dial(addr)?), inbox };
        let info = control.line()?;
        if !info.starts_with("INFO ") {
            return Err(BenchError::Server(format!("not a NATS server: {info:?}")));
        }
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"{}\",\
             \"name\":\"ironring-bench\",\"protocol\":1,\"headers\":true,\"no_responders\":true}}\r\n\
             SUB {}* 1\r\nPING\r\n",
            env!("CARGO_PKG_VERSION"),
            control.inbox
        );
        send(control.stream.get_mut(), hello.as_bytes())?;
        loop {
            match control.line()?.as_str() {
                "PONG" => return Ok(control),
                line if line.starts_with("-ERR") => {
                    return Err(BenchError::Server(line.to_owned()));
                }
                _ => {}
            }
        }
    }

    fn line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        let reading = || "reading the server's answer".to_owned();
        self.stream.read_line(&mut line).map_err(BenchError::system(reading()))?;
        if line.is_empty() {
            return Err(BenchError::Server("closed by the server".to_owned()));
        }
        Ok(line.trim_end().to_owned())
    }

    /// Sends a request and returns the payload of the first message that answers it.
    fn ask(&mut self, subject: &str, body: &str) -> Result<Vec<u8>, BenchError> {
        let request = format!("PUB {subject} {}0 {}\r\n{body}\r\n", self.inbox, body.len());
        send(self.stream.get_mut(), request.as_bytes())?;
        loop {
            let line = self.line()?;
            if line.starts_with("PING") {
                send(self.stream.get_mut(), b"PONG\r\n")?;
            } else if line.starts_with("MSG ") {
                let size = line.rsplit(' ').next().and_then(|word| word.parse::<usize>().ok());
                let size = size
                    .filter(|size| *size <= MESSAGE_BYTES_MAX)
                    .ok_or_else(|| BenchError::Server(format!("unreadable: {line}")))?;
                let mut payload = vec![0; size + 2];
                let reading = BenchError::system("reading the server's answer");
                self.stream.read_exact(&mut payload).map_err(reading)?;
                payload.truncate(size);
                return Ok(payload);
            } else if line.starts_with("HMSG ") || line.starts_with("-ERR") {
                return Err(BenchError::Server(format!("{subject}: JetStream is not on: {line}")));
            }
        }
    }
}

/// One NATS connection.
#[derive(Clone, Debug)]
pub struct Nats {
    /// Reply subjects up to the tag.
    inbox: String,
    records: Vec<Vec<u8>>,
    next: usize,
}

impl Protocol for Nats {
    const TAGGED: bool = true;

    fn encode(&mut self, op: &Op<'_>, tag: u32, out: &mut Vec<u8>) {
        assert_eq!(op.kind, OpKind::Append, "Scenario::check lets only appends through");
        let record = &self.records[self.next];
        self.next = (self.next + 1) % self.records.len();
        out.extend_from_slice(b"PUB ");
        out.extend_from_slice(SUBJECT.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.inbox.as_bytes());
        super::push_decimal(tag as usize, out);
        out.push(b' ');
        super::push_decimal(record.len(), out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(record);
        out.extend_from_slice(b"\r\n");
    }

    fn parse<'a>(&mut self, input: &'a [u8]) -> Result<Parsed<'a>, String> {
        let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else {
            return if input.len() > LINE_BYTES_MAX {
                Err("a line without end".to_owned())
            } else {
                Ok(Parsed::Incomplete { need: input.len() + 1 })
            };
        };
        let line = std::str::from_utf8(&input[..end]).map_err(|e| format!("a line: {e}"))?;
        let after = end + 2;
        let mut words = line.split_ascii_whitespace();
        match words.next().unwrap_or_default() {
            verb @ ("MSG" | "HMSG") => {
                let subject = words.next().unwrap_or_default();
                let tag = subject.strip_prefix(self.inbox.as_str()).and_then(|t| t.parse().ok());
                let size = words.next_back().and_then(|word| word.parse::<usize>().ok());
                let size = size
                    .filter(|size| *size <= MESSAGE_BYTES_MAX)
                    .ok_or_else(|| format!("unreadable: {line}"))?;
                let len = after + size + 2;
                let Some(payload) = input.get(after..len) else {
                    return Ok(Parsed::Incomplete { need: len });
                };
                let payload = &payload[..size];
                let outcome = if verb == "HMSG" { no_responders() } else { acknowledged(payload) };
                Ok(Parsed::Reply { len, tag, outcome })
            }
            "PING" => Ok(Parsed::Aside { len: after, answer: b"PONG\r\n" }),
            "PONG" | "INFO" | "+OK" => Ok(Parsed::Aside { len: after, answer: b"" }),
            _ => Err(line.to_owned()),
        }
    }
}

/// Messages with headers are how the server says that nobody listens on a subject.
fn no_responders() -> Outcome<'static> {
    Outcome::Refused("no_responders")
}

/// An acknowledgement is `{"stream":"...","seq":1}`, a refusal `{"error":{...},...}`.
fn acknowledged(payload: &[u8]) -> Outcome<'static> {
    let has = |word: &[u8]| payload.windows(word.len()).any(|part| part == word);
    if has(b"\"error\"") || !has(b"\"seq\"") {
        Outcome::Refused("jetstream_error")
    } else {
        Outcome::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::split_check;

    fn connection() -> Nats {
        Nats { inbox: "_INBOX.1x2.".to_owned(), records: vec![b"abc".to_vec()], next: 0 }
    }

    #[test]
    fn a_publish_names_its_tag_as_reply_subject() {
        let mut out = Vec::new();
        connection().encode(&Op { kind: OpKind::Append, key: 0, value: b"" }, 37, &mut out);
        assert_eq!(out, b"PUB ironringbench.records _INBOX.1x2.37 3\r\nabc\r\n");
    }

    #[test]
    fn replies_are_the_same_at_every_split() {
        let input = b"MSG _INBOX.1x2.5 1 24\r\n{\"stream\":\"X\", \"seq\":17}\r\nPING\r\n\
            INFO {}\r\nMSG _INBOX.1x2.4 1 16\r\n{\"error\":{\"c\":1}}\r\n\
            HMSG _INBOX.1x2.3 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n";
        let replies = split_check::every_split(connection, input);
        let expected =
            [(5, "Ok"), (4, "Refused(\"jetstream_error\")"), (3, "Refused(\"no_responders\")")];
        assert_eq!(replies, expected.map(|(tag, o)| (Some(tag), o.to_owned())));
    }

    #[test]
    fn a_ping_wants_a_pong_and_an_error_ends_the_connection() {
        let parsed = connection().parse(b"PING\r\nrest").unwrap();
        assert_eq!(parsed, Parsed::Aside { len: 6, answer: b"PONG\r\n" });
        assert!(connection().parse(b"-ERR 'Maximum Payload'\r\n").unwrap_err().contains("Payload"));
    }
}
