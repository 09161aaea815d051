//! etcd's JSON gateway: the calls of its gRPC API as HTTP/1.1 requests with JSON bodies, keys and
//! values in base64, over kept connections. etcd's own clients speak gRPC, which costs both sides
//! less; what is measured here is etcd *through its gateway*, and results say so.

use std::collections::VecDeque;
use std::io::Read;
use std::net::TcpStream;

use super::{Parsed, Protocol, Target, dial, push_decimal, send};
use crate::error::BenchError;
use crate::keys::key_bytes;
use crate::recorder::Outcome;
use crate::workload::{Op, OpKind, Workload};

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest body of an answer.
const BODY_BYTES_MAX: usize = 64 << 20;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// An etcd member.
#[derive(Clone, Debug)]
pub struct EtcdTarget {
    /// Where it listens for clients.
    pub addr: String,
}

impl Target for EtcdTarget {
    type Protocol = Etcd;

    fn connect(
        &self,
        _lane: usize,
        _workload: &mut Workload,
    ) -> Result<(TcpStream, Etcd), BenchError> {
        let mut stream = dial(&self.addr)?;
        let mut protocol = Etcd::default();
        let mut request = Vec::new();
        protocol.encode(&Op { kind: OpKind::Get, key: 0, value: &[] }, 0, &mut request);
        send(&mut stream, &request)?;
        let mut answer = Vec::new();
        loop {
            let mut more = [0; 4096];
            let count = stream
                .read(&mut more)
                .map_err(BenchError::system("reading the answer to a first range"))?;
            answer.extend_from_slice(&more[..count]);
            match protocol.parse(&answer).map_err(BenchError::Server)? {
                Parsed::Reply { outcome: Outcome::Refused(why), .. } => {
                    return Err(BenchError::Server(format!("a first range: {why}")));
                }
                Parsed::Reply { .. } => return Ok((stream, protocol)),
                _ if count == 0 => {
                    return Err(BenchError::Server("closed during a first range".to_owned()));
                }
                _ => {}
            }
        }
    }

    fn stats(&self) -> Result<Option<serde_json::Value>, BenchError> {
        Ok(None)
    }
}

/// One connection to the gateway.
#[derive(Clone, Debug, Default)]
pub struct Etcd {
    /// Kinds of the requests without an answer, in order: an answer does not say what it is to.
    asked: VecDeque<OpKind>,
}

impl Protocol for Etcd {
    const TAGGED: bool = false;

    fn encode(&mut self, op: &Op<'_>, _tag: u32, out: &mut Vec<u8>) {
        let key = key_bytes(op.key);
        let call: &[u8] = match op.kind {
            OpKind::Put => b"put",
            OpKind::Get => b"range",
            OpKind::Delete => b"deleterange",
            OpKind::Append | OpKind::Read => {
                unreachable!("Scenario::check refuses topic operations on etcd")
            }
        };
        const KEY: &[u8] = b"{\"key\":\"";
        const VALUE: &[u8] = b"\",\"value\":\"";
        const END: &[u8] = b"\"}";
        let mut len = KEY.len() + base64_len(key.len()) + END.len();
        if op.kind == OpKind::Put {
            len += VALUE.len() + base64_len(op.value.len());
        }
        out.extend_from_slice(b"POST /v3/kv/");
        out.extend_from_slice(call);
        out.extend_from_slice(b" HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\n");
        out.extend_from_slice(b"Content-Length: ");
        push_decimal(len, out);
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(KEY);
        push_base64(&key, out);
        if op.kind == OpKind::Put {
            out.extend_from_slice(VALUE);
            push_base64(op.value, out);
        }
        out.extend_from_slice(END);
        self.asked.push_back(op.kind);
    }

    fn parse<'a>(&mut self, input: &'a [u8]) -> Result<Parsed<'a>, String> {
        let Some(head_len) = find(input, b"\r\n\r\n").map(|at| at + 4) else {
            if input.len() > HEAD_BYTES_MAX {
                return Err("the head of an answer has no end".to_owned());
            }
            return Ok(Parsed::Incomplete { need: input.len() + 1 });
        };
        let head = std::str::from_utf8(&input[..head_len])
            .map_err(|_| "the head of an answer is no text".to_owned())?;
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.split("\r\n").next())
            .ok_or_else(|| format!("{:?} is no answer of HTTP/1.1", head.lines().next()))?;
        let length = field(head, "content-length")
            .map(|value| value.parse::<usize>().map_err(|_| format!("Content-Length {value:?}")))
            .transpose()?;
        let chunked = field(head, "transfer-encoding").is_some_and(|v| v == "chunked");
        let body_len = match (length, chunked) {
            (Some(len), false) if len <= BODY_BYTES_MAX => len,
            (None, true) => match chunked_len(&input[head_len..])? {
                Some(len) => len,
                None => return Ok(Parsed::Incomplete { need: input.len() + 1 }),
            },
            _ => return Err(format!("an answer of unknown length: {head:?}")),
        };
        let len = head_len + body_len;
        let Some(body) = input.get(head_len..len) else {
            return Ok(Parsed::Incomplete { need: len });
        };
        let kind = self.asked.pop_front();
        let found = |name: &[u8]| find(body, name).is_some();
        let outcome = match kind {
            _ if !status.starts_with("200 ") => Outcome::Refused(status),
            Some(OpKind::Get) if !found(b"\"kvs\"") => Outcome::Missing,
            Some(OpKind::Delete) if !found(b"\"deleted\"") => Outcome::Missing,
            _ => Outcome::Ok,
        };
        Ok(Parsed::Reply { len, tag: None, outcome })
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Value of a header field.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Bytes of a chunked body with its end; `None` when it is not whole.
fn chunked_len(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + line])
            .ok()
            .and_then(|text| usize::from_str_radix(text.split(';').next()?.trim(), 16).ok())
            .filter(|size| *size <= BODY_BYTES_MAX)
            .ok_or("a chunk without a size")?;
        // The size's line, the chunk, and the end of its line.
        at += line + 2 + size + 2;
        if at > bytes.len() {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

fn base64_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    for three in bytes.chunks(3) {
        let mut all = [0; 3];
        all[..three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes([0, all[0], all[1], all[2]]);
        for i in 0..4 {
            // Every digit holds six bits; those that would hold none are padding.
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= three.len() { digit } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::split_check;

    fn asked(kinds: &[OpKind]) -> Etcd {
        Etcd { asked: kinds.iter().copied().collect() }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            push_base64(text.as_bytes(), &mut out);
            assert_eq!(out, expected.as_bytes());
            assert_eq!(out.len(), base64_len(text.len()));
        }
    }

    #[test]
    fn requests_say_how_long_they_are() {
        for kind in [OpKind::Put, OpKind::Get, OpKind::Delete] {
            let mut out = Vec::new();
            Etcd::default().encode(&Op { kind, key: 42, value: b"hello" }, 0, &mut out);
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = field(head, "content-length").unwrap();
            assert_eq!(length, body.len().to_string());
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(json["key"], "a2V5MDAwMDAwMDAwMDA0Mg==");
            assert_eq!(json["value"] == "aGVsbG8=", kind == OpKind::Put);
        }
    }

    #[test]
    fn answers_are_the_same_at_every_split() {
        let plain = |status: &str, body: &str| {
            let len = body.len();
            format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\nX: y\r\n\r\n{body}")
        };
        let input = [
            plain("200 OK", "{\"header\":{}}"),
            plain("200 OK", "{\"header\":{},\"kvs\":[{}],\"count\":\"1\"}"),
            plain("200 OK", "{\"header\":{}}"),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
             8\r\n{\"header\r\n10;x=y\r\n\":{},\"kvs\":[{}]}\r\n0\r\n\r\n"
                .to_owned(),
            plain("200 OK", "{\"deleted\":\"1\"}"),
            plain("503 Service Unavailable", "{\"error\":\"no leader\"}"),
        ]
        .concat();
        let kinds =
            [OpKind::Put, OpKind::Get, OpKind::Get, OpKind::Get, OpKind::Delete, OpKind::Put];
        let outcomes: Vec<String> = split_check::every_split(|| asked(&kinds), input.as_bytes())
            .into_iter()
            .map(|(_, outcome)| outcome)
            .collect();
        let refused = "Refused(\"503 Service Unavailable\")";
        assert_eq!(outcomes, ["Ok", "Ok", "Missing", "Ok", "Ok", refused]);
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        for bad in [
            &b"+OK\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            &[b'H'; HEAD_BYTES_MAX + 1],
        ] {
            assert!(
                asked(&[OpKind::Put]).parse(bad).is_err(),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
    }
}
