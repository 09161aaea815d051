//! Joining a cluster: a node that has none asks one of the members it was told of.
//!
//! Done before anything of the node runs, with one blocking connection at a time: what the answer
//! says (the node's id, the number of partitions) decides how the rest begins. The connection is an
//! ordinary one between nodes, with the token in its handshake.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use ironring_core::ShardId;
use ironring_net::peer::message::{Half, Raft};
use ironring_net::peer::{
    Handshake, Hello, Input, Message, Output, Refusal, VERSIONS, judge_welcome,
};
use ironring_ring::metadata::{Facts, Outcome};

use super::plane::{self, Admitted, Answer, Ask, Letter};
use crate::driver::clock;
use crate::driver::peers::Local;

/// How long one member may take for each step.
const STEP_MAX: Duration = Duration::from_secs(5);
/// How long members that cannot be reached, or have no leader, are asked again.
pub const JOIN_MAX: Duration = Duration::from_secs(60);
/// How long a member may take to hear of a token that another has made.
const TOKEN_MAX: Duration = Duration::from_secs(10);
/// Pause before the seeds are asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Payload bytes the member may send: its answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Why a node did not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// A member refused it.
    #[error("the node at {seed} does not let this node join: {message}")]
    Refused {
        /// Who.
        seed: String,
        /// Why.
        message: String,
    },
    /// No member could be asked, or none had a leader, for as long as one is tried.
    #[error("no seed lets this node join; last tried {seed}: {message}")]
    NobodyAnswers {
        /// The last that was tried.
        seed: String,
        /// What happened there.
        message: String,
    },
    /// The node was told to stop.
    #[error("the node was stopped before it had joined a cluster")]
    Stopped,
}

/// How one attempt failed.
struct Failed {
    message: String,
    /// It may go otherwise later, or with another seed, for so long.
    again: Option<Duration>,
}

impl Failed {
    fn later(message: impl std::fmt::Display) -> Failed {
        Failed { message: message.to_string(), again: Some(JOIN_MAX) }
    }

    fn never(message: impl std::fmt::Display) -> Failed {
        Failed { message: message.to_string(), again: None }
    }
}

/// Asks the seeds in turn until one lets the node in.
///
/// # Errors
/// See [`JoinError`].
pub fn join(
    local: &Local,
    facts: &Facts,
    seeds: &[String],
    clock_skew_max_ms: u64,
    stopped: impl Fn() -> bool,
) -> Result<Admitted, JoinError> {
    let begin = Instant::now();
    let mut told = None;
    loop {
        let mut last = (String::new(), Failed::never("there are no seeds"));
        for seed in seeds {
            if stopped() {
                return Err(JoinError::Stopped);
            }
            match ask(local, facts, seed, clock_skew_max_ms) {
                Ok(admitted) => return Ok(admitted),
                Err(Failed { message, again: None }) => {
                    return Err(JoinError::Refused { seed: seed.clone(), message });
                }
                Err(failed) => last = (seed.clone(), failed),
            }
        }
        let (seed, Failed { message, again }) = last;
        if again.is_none_or(|again| begin.elapsed() >= again) {
            return Err(JoinError::NobodyAnswers { seed, message });
        }
        if told.as_ref() != Some(&message) {
            tracing::warn!("not let into the cluster yet, asking again: {seed}: {message}");
            told = Some(message);
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// One attempt with one seed.
fn ask(
    local: &Local,
    facts: &Facts,
    seed: &str,
    clock_skew_max_ms: u64,
) -> Result<Admitted, Failed> {
    let addresses: Vec<SocketAddr> = seed.to_socket_addrs().map_err(Failed::later)?.collect();
    let address = addresses.first().ok_or_else(|| Failed::later("the name has no address"))?;
    let stream = TcpStream::connect_timeout(address, STEP_MAX).map_err(Failed::later)?;
    stream.set_read_timeout(Some(STEP_MAX)).map_err(Failed::later)?;
    stream.set_write_timeout(Some(STEP_MAX)).map_err(Failed::later)?;
    stream.set_nodelay(true).map_err(Failed::later)?;
    let mut wire = Wire { stream, input: Input::new(), output: Output::new(1 << 20) };
    wire.shake_hands(local, clock_skew_max_ms)?;
    let secret = String::from_utf8_lossy(&local.token).into_owned();
    let ask = Ask::Join { facts: Box::new(facts.clone()), secret };
    let answer = wire.call(&plane::request(&Letter { ask, forwarded: false }))?;
    match plane::read_answer(&answer).map_err(Failed::never)? {
        Answer::Joined(admitted) => Ok(admitted),
        Answer::Applied(Outcome::Rejected(why)) => Err(Failed::never(why)),
        other @ (Answer::Applied(_) | Answer::PassedOn) => {
            Err(Failed::never(format!("an answer to something else: {other:?}")))
        }
        Answer::Failed(failure) if failure.retriable() => Err(Failed::later(failure)),
        Answer::Failed(failure) => Err(Failed::never(failure)),
    }
}

struct Wire {
    stream: TcpStream,
    input: Input,
    output: Output,
}

impl Wire {
    fn shake_hands(&mut self, local: &Local, clock_skew_max_ms: u64) -> Result<(), Failed> {
        let hello = Hello {
            versions: VERSIONS,
            identity: local.identity(clock::now().wall),
            to_node: ironring_core::NodeId(0),
            from_shard: ShardId(0),
            to_shard: ShardId(0),
            token: &local.token,
            mark: local.mark,
        };
        self.output.handshake(&Handshake::Hello(hello)).map_err(Failed::never)?;
        self.write()?;
        let agreed = self.receive(|frame| {
            Ok(match frame.handshake().map_err(Failed::later)? {
                Handshake::Welcome(welcome) => {
                    judge_welcome(&hello, &welcome, clock_skew_max_ms)
                        .map_err(|refused| Failed::never(refused.message))?;
                    Some((welcome.version, welcome.credits))
                }
                Handshake::Refused(refused) => {
                    let message = format!("{} ({})", refused.message, refused.refusal.name());
                    let again = match refused.refusal {
                        Refusal::Stopping => Some(JOIN_MAX),
                        Refusal::UnknownNode if !local.token.is_empty() => Some(TOKEN_MAX),
                        _ => None,
                    };
                    return Err(Failed { message, again });
                }
                Handshake::Hello(_) => return Err(Failed::later("it is no node")),
            })
        })?;
        self.input.agree(agreed.0, 0);
        self.output.agree(agreed.0, agreed.1);
        let credits = Message::Credits { bytes: ANSWER_BYTES_MAX };
        self.output.send(&credits).map_err(Failed::later)?;
        self.input.grant(ANSWER_BYTES_MAX);
        Ok(())
    }

    fn call(&mut self, request: &[u8]) -> Result<Vec<u8>, Failed> {
        let raft = Raft { call: 1, half: Half::Request, payload: request };
        self.output.send(&Message::Raft(raft)).map_err(Failed::later)?;
        self.write()?;
        self.receive(|frame| match frame.message().map_err(Failed::later)? {
            Message::Raft(raft) if raft.half == Half::Answer => Ok(Some(raft.payload.to_vec())),
            Message::Goodbye(reason) => Err(Failed::later(format!("it took leave: {reason:?}"))),
            _ => Ok(None),
        })
    }

    fn write(&mut self) -> Result<(), Failed> {
        let bytes = self.output.bytes();
        let len = bytes.len();
        self.stream.write_all(bytes).map_err(Failed::later)?;
        self.output.sent(len);
        Ok(())
    }

    /// Takes frames until `take` has what it wants.
    fn receive<T>(
        &mut self,
        mut take: impl FnMut(&ironring_net::peer::Frame<'_>) -> Result<Option<T>, Failed>,
    ) -> Result<T, Failed> {
        let by = Instant::now() + STEP_MAX;
        loop {
            while let Some(frame) = self.input.next_frame().map_err(Failed::later)? {
                if let Some(taken) = take(&frame)? {
                    return Ok(taken);
                }
            }
            if Instant::now() >= by {
                return Err(Failed::later("it does not answer in time"));
            }
            let n = self.stream.read(self.input.space(READ_BYTES)).map_err(Failed::later)?;
            if n == 0 {
                return Err(Failed::later("it closed the connection"));
            }
            self.input.filled(n);
        }
    }
}
