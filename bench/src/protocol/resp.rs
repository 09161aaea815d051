//! RESP2, the protocol of Redis and Valkey: SET, GET and DEL, pipelined, answered in order.

use std::io::Read;
use std::net::TcpStream;

use super::{Parsed, Protocol, Target, dial, push_decimal, send};
use crate::error::BenchError;
use crate::keys::{KEY_BYTES, key_bytes};
use crate::recorder::Outcome;
use crate::workload::{Op, OpKind, Workload};

/// Longest status, error or number line.
const LINE_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(KEY_BYTES == 16, "the request heads below say $16");
const SET_HEAD: &[u8] = b"*3\r\n$3\r\nSET\r\n$16\r\n";
const GET_HEAD: &[u8] = b"*2\r\n$3\r\nGET\r\n$16\r\n";
const DEL_HEAD: &[u8] = b"*2\r\n$3\r\nDEL\r\n$16\r\n";

/// A Redis or Valkey server.
#[derive(Clone, Debug)]
pub struct RespTarget {
    /// Where it listens.
    pub addr: String,
}

impl Target for RespTarget {
    type Protocol = Resp;

    fn connect(
        &self,
        _lane: usize,
        _workload: &mut Workload,
    ) -> Result<(TcpStream, Resp), BenchError> {
        let mut stream = dial(&self.addr)?;
        send(&mut stream, b"*1\r\n$4\r\nPING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).map_err(BenchError::system("reading the answer to PING"))?;
        if &answer != b"+PONG\r\n" {
            let text = String::from_utf8_lossy(&answer).into_owned();
            return Err(BenchError::Server(format!("the answer to PING was {text:?}")));
        }
        Ok((stream, Resp))
    }

    fn stats(&self) -> Result<Option<serde_json::Value>, BenchError> {
        Ok(None)
    }
}

/// One RESP connection. It needs no state: replies describe themselves.
#[derive(Clone, Copy, Debug)]
pub struct Resp;

impl Protocol for Resp {
    const TAGGED: bool = false;

    fn encode(&mut self, op: &Op<'_>, _tag: u32, out: &mut Vec<u8>) {
        let key = key_bytes(op.key);
        match op.kind {
            OpKind::Put => {
                out.extend_from_slice(SET_HEAD);
                out.extend_from_slice(&key);
                out.extend_from_slice(b"\r\n$");
                push_decimal(op.value.len(), out);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(op.value);
            }
            OpKind::Get | OpKind::Delete => {
                out.extend_from_slice(if op.kind == OpKind::Get { GET_HEAD } else { DEL_HEAD });
                out.extend_from_slice(&key);
            }
            OpKind::Append | OpKind::Read => {
                unreachable!("Scenario::check refuses topic operations on redis")
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    fn parse<'a>(&mut self, input: &'a [u8]) -> Result<Parsed<'a>, String> {
        let Some(end) = line_end(input)? else {
            return Ok(Parsed::Incomplete { need: input.len() + 1 });
        };
        let line = &input[1..end];
        let len = end + 2;
        let reply = |len, outcome| Parsed::Reply { len, tag: None, outcome };
        match input[0] {
            b'+' => Ok(reply(len, Outcome::Ok)),
            b'-' => Ok(reply(len, Outcome::Refused(first_word(line)))),
            b':' => Ok(reply(len, if number(line)? == 0 { Outcome::Missing } else { Outcome::Ok })),
            b'$' => match number(line)? {
                -1 => Ok(reply(len, Outcome::Missing)),
                body if (0..=i64::from(u32::MAX)).contains(&body) => {
                    let total = len + body as usize + 2;
                    if input.len() < total {
                        return Ok(Parsed::Incomplete { need: total });
                    }
                    if &input[total - 2..total] != b"\r\n" {
                        return Err("a bulk reply does not end where its length says".to_owned());
                    }
                    Ok(reply(total, Outcome::Ok))
                }
                other => Err(format!("a bulk reply of length {other}")),
            },
            other => Err(format!("a reply of unknown type {:?}", char::from(other))),
        }
    }
}

/// Where the first line's CR stands; `None` when the line is not whole.
fn line_end(input: &[u8]) -> Result<Option<usize>, String> {
    match input.iter().position(|b| *b == b'\r') {
        Some(at) => match input.get(at + 1) {
            Some(b'\n') => Ok(Some(at)),
            Some(_) => Err("a CR without LF".to_owned()),
            None => Ok(None),
        },
        None if input.len() > LINE_BYTES_MAX => Err("a line without end".to_owned()),
        None => Ok(None),
    }
}

fn number(line: &[u8]) -> Result<i64, String> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{:?} is no number", String::from_utf8_lossy(line)))
}

/// The code of an error reply: `ERR`, `OOM`, `MISCONF`, ...
fn first_word(line: &[u8]) -> &str {
    let word = line.split(|b| *b == b' ').next().unwrap_or_default();
    std::str::from_utf8(word).unwrap_or("unreadable error")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::split_check;

    fn encoded(kind: OpKind, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Resp.encode(&Op { kind, key: 42, value }, 0, &mut out);
        out
    }

    #[test]
    fn requests_are_arrays_of_bulk_strings() {
        assert_eq!(
            encoded(OpKind::Put, b"hello"),
            b"*3\r\n$3\r\nSET\r\n$16\r\nkey0000000000042\r\n$5\r\nhello\r\n"
        );
        assert_eq!(
            encoded(OpKind::Put, b""),
            b"*3\r\n$3\r\nSET\r\n$16\r\nkey0000000000042\r\n$0\r\n\r\n"
        );
        assert_eq!(encoded(OpKind::Get, b""), b"*2\r\n$3\r\nGET\r\n$16\r\nkey0000000000042\r\n");
        assert_eq!(encoded(OpKind::Delete, b""), b"*2\r\n$3\r\nDEL\r\n$16\r\nkey0000000000042\r\n");
    }

    #[test]
    fn replies_are_the_same_at_every_split() {
        let input = b"+OK\r\n$5\r\nhe\r\no\r\n$-1\r\n:1\r\n:0\r\n-OOM used memory\r\n$0\r\n\r\n";
        let outcomes: Vec<String> =
            split_check::every_split(|| Resp, input).into_iter().map(|(_, o)| o).collect();
        let refused = "Refused(\"OOM\")";
        assert_eq!(outcomes, ["Ok", "Ok", "Missing", "Ok", "Missing", refused, "Ok"]);
    }

    #[test]
    fn what_is_not_resp_is_an_error() {
        for bad in [
            &b"HTTP/1.1 400\r\n"[..],
            b"$abc\r\n",
            b"$-2\r\n",
            b"$1\r\nxyz",
            b"+OK\rX",
            &[b'+'; LINE_BYTES_MAX + 1],
        ] {
            assert!(Resp.parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
