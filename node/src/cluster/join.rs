//! Joining a cluster: a node that has none asks one of the members it was told of.
//!
//! Done before anything of the node runs, with one blocking connection at a time: what the answer
//! says (the node's id, the number of partitions) decides how the rest begins. The connection is an
//! ordinary one between nodes, with the token in its handshake.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use ironring_core::ShardId;
use ironring_net::peer::message::{Half, Raft};
use ironring_net::peer::{
    Handshake, Hello, Input, Message, Output, Refusal, Refused, VERSIONS, judge_welcome,
};
use ironring_ring::metadata::{Facts, Outcome, Rejected};

use super::plane::{self, Admitted, Answer, Ask, Letter};
use super::refused::{self, Advice};
use crate::driver::clock;
use crate::driver::peers::Local;

/// How long one member may take for each step.
const STEP_MAX: Duration = Duration::from_secs(5);
/// How long members that cannot be reached, or have no leader, are asked again.
pub const JOIN_MAX: Duration = Duration::from_secs(60);
/// How long a member may take to hear of a token that another has made.
const TOKEN_MAX: Duration = Duration::from_secs(10);
/// How long other seeds are asked again when one has refused.
const REFUSED_MAX: Duration = Duration::from_secs(10);
/// Pause before the seeds are asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Payload bytes the member may send: its answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Why a node did not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The cluster refused it, or every seed that was asked.
    #[error("the node at {seed} does not let this node join: {message}")]
    Refused {
        /// Who said so.
        seed: String,
        /// Why.
        message: String,
        /// What can be done about it.
        advice: Advice,
    },
    /// No member could be asked, or none had a leader, for as long as one is tried.
    #[error("no seed lets this node join; last tried {seed}: {message}")]
    NobodyAnswers {
        /// The last that was tried.
        seed: String,
        /// What happened there.
        message: String,
        /// What the operator can do.
        hint: &'static str,
    },
    /// The node was told to stop.
    #[error("the node was stopped before it had joined a cluster")]
    Stopped,
}

impl JoinError {
    /// What can be done about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            JoinError::Refused { advice, .. } => *advice,
            JoinError::NobodyAnswers { hint, .. } => Advice::passing(hint),
            JoinError::Stopped => Advice::default(),
        }
    }
}

/// How one attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed {
    message: String,
    then: Then,
    advice: Advice,
}

/// What may come of asking once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The same seed may let the node in, for so long.
    Later(Duration),
    /// This seed does not let it in; it may be of another cluster, or know less than others.
    Elsewhere,
    /// The cluster has decided: nobody lets it in.
    Never,
}

impl Failed {
    fn later(message: impl std::fmt::Display) -> Failed {
        let hint = "check cluster.seeds (listen.peers of other nodes), and that those nodes run";
        Failed {
            message: message.to_string(),
            then: Then::Later(JOIN_MAX),
            advice: Advice::passing(hint),
        }
    }

    fn elsewhere(message: impl std::fmt::Display) -> Failed {
        Failed { message: message.to_string(), then: Then::Elsewhere, advice: Advice::default() }
    }

    fn never(message: impl std::fmt::Display) -> Failed {
        Failed { message: message.to_string(), then: Then::Never, advice: Advice::default() }
    }

    fn advised(self, advice: Advice) -> Failed {
        Failed { advice, ..self }
    }
}

/// What a seed said, and what can be done.
struct Said {
    seed: String,
    message: String,
    advice: Advice,
}

impl Said {
    fn refused(self) -> JoinError {
        let Said { seed, message, advice } = self;
        JoinError::Refused { seed, message, advice }
    }
}

/// One round over the seeds, and what it means: pure.
#[derive(Default)]
struct Round {
    /// The first seed that refused.
    refused: Option<Said>,
    /// The last that may let the node in later, and how long one of them is worth asking.
    later: Option<Said>,
    patience: Duration,
}

impl Round {
    /// Takes note of a failure; an error ends the join.
    fn failed(&mut self, seed: &str, failed: Failed) -> Result<(), JoinError> {
        let said = Said { seed: seed.to_owned(), message: failed.message, advice: failed.advice };
        match failed.then {
            Then::Never => return Err(said.refused()),
            Then::Elsewhere => drop(self.refused.get_or_insert(said)),
            Then::Later(patience) => {
                self.later = Some(said);
                self.patience = self.patience.max(patience);
            }
        }
        Ok(())
    }

    /// What is said while the seeds are asked once more; an error when `since` the first round so much
    /// time has passed that it is of no use.
    fn end(self, since: Duration) -> Result<String, JoinError> {
        let patience = match &self.refused {
            // One says no and another nothing: that is not worth a long wait.
            Some(_) => self.patience.min(REFUSED_MAX),
            None => self.patience,
        };
        let over = since >= patience;
        match (self.refused, self.later) {
            (Some(said), _) if over => Err(said.refused()),
            (None, Some(Said { seed, message, advice })) if over => {
                Err(JoinError::NobodyAnswers { seed, message, hint: advice.hint })
            }
            (_, Some(said)) | (Some(said), None) => Ok(format!("{}: {}", said.seed, said.message)),
            (None, None) => {
                let message = "there are no seeds".to_owned();
                let hint = "name members of the cluster with cluster.seeds";
                Err(JoinError::NobodyAnswers { seed: String::new(), message, hint })
            }
        }
    }
}

/// Asks the seeds in turn, at each of their addresses, until one lets the node in. `replace`: in place
/// of a dead one of its name. `listens` is where this node listens for others: it does not ask itself.
///
/// # Errors
/// See [`JoinError`].
pub fn join(
    local: &Local,
    (facts, replace): (&Facts, bool),
    (seeds, listens): (&[String], SocketAddr),
    clock_skew_max_ms: u64,
    stopped: impl Fn() -> bool,
) -> Result<Admitted, JoinError> {
    let begin = Instant::now();
    let mut told = None;
    loop {
        let mut round = Round::default();
        for seed in seeds {
            let addresses = match seed.to_socket_addrs() {
                Ok(addresses) => addresses,
                Err(error) => {
                    round.failed(seed, Failed::later(error))?;
                    continue;
                }
            };
            // A name may be that of all nodes, this one too.
            let told = facts.addresses.node.parse().unwrap_or(listens);
            let others = addresses.filter(|address| !is_own(*address, listens, told));
            let others: Vec<SocketAddr> = others.collect();
            if others.is_empty() {
                round.failed(seed, Failed::later("it has no address but this node's own"))?;
            }
            for address in others {
                if stopped() {
                    return Err(JoinError::Stopped);
                }
                match ask(local, (facts, replace), address, clock_skew_max_ms) {
                    Ok(admitted) => return Ok(admitted),
                    Err(failed) => round.failed(seed, failed)?,
                }
            }
        }
        let message = round.end(begin.elapsed())?;
        if told.as_ref() != Some(&message) {
            tracing::warn!("not let into the cluster yet, asking again: {message}");
            told = Some(message);
        }
        if stopped() {
            return Err(JoinError::Stopped);
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// Whether an address is that of this node, which listens at one and tells others another.
pub(crate) fn is_own(address: SocketAddr, listens: SocketAddr, told: SocketAddr) -> bool {
    if address == listens || address == told {
        return true;
    }
    // Whoever listens everywhere listens on every address of this machine, and on no other.
    let here = || UdpSocket::bind((address.ip(), 0)).is_ok();
    listens.ip().is_unspecified() && address.port() == listens.port() && here()
}

/// One attempt at one address.
fn ask(
    local: &Local,
    (facts, replace): (&Facts, bool),
    address: SocketAddr,
    clock_skew_max_ms: u64,
) -> Result<Admitted, Failed> {
    let stream = TcpStream::connect_timeout(&address, STEP_MAX).map_err(Failed::later)?;
    stream.set_read_timeout(Some(STEP_MAX)).map_err(Failed::later)?;
    stream.set_write_timeout(Some(STEP_MAX)).map_err(Failed::later)?;
    stream.set_nodelay(true).map_err(Failed::later)?;
    let mut wire = Wire { stream, input: Input::new(), output: Output::new(1 << 20) };
    wire.shake_hands(local, clock_skew_max_ms)?;
    let secret = String::from_utf8_lossy(&local.token).into_owned();
    let ask = Ask::Join { facts: Box::new(facts.clone()), secret, replace };
    let answer = wire.call(&plane::request(&Letter { ask, forwarded: false }))?;
    match plane::read_answer(&answer).map_err(Failed::elsewhere)? {
        Answer::Joined(admitted) => Ok(admitted),
        // It is dead for the others a little later.
        Answer::Applied(Outcome::Rejected(why @ Rejected::NotDead { .. })) => {
            Err(Failed::later(why).advised(Advice::default()))
        }
        Answer::Applied(Outcome::Rejected(why)) => {
            Err(Failed::never(&why).advised(refused::advice_of(&why)))
        }
        other @ (Answer::Applied(_)
        | Answer::PassedOn
        | Answer::Operated(_)
        | Answer::Snapshot(_)
        | Answer::Moves(_)) => {
            Err(Failed::elsewhere(format!("an answer to something else: {other:?}")))
        }
        Answer::Failed(failure) if failure.retriable() => Err(Failed::later(failure)),
        // Of a join only its token can be refused there.
        Answer::Failed(failure @ plane::Failure::Refused(_)) => {
            Err(Failed::never(failure).advised(refused::advice(Refusal::BadToken)))
        }
        Answer::Failed(failure) => Err(Failed::never(failure)),
    }
}

/// What a refusal of the handshake means for the join.
fn refusal(refused: &Refused<'_>, token: &[u8]) -> Failed {
    let then = match refused.refusal {
        Refusal::Stopping | Refusal::ClockSkew => Then::Later(JOIN_MAX),
        Refusal::UnknownNode if !token.is_empty() => Then::Later(TOKEN_MAX),
        _ => Then::Elsewhere,
    };
    let message = format!("{} ({})", refused.message, refused.refusal.name());
    Failed { message, then, advice: super::refused::advice(refused.refusal) }
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
                        .map_err(|refused| refusal(&refused, &local.token))?;
                    Some((welcome.version, welcome.credits))
                }
                Handshake::Refused(refused) => return Err(refusal(&refused, &local.token)),
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

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(5);

    fn round(failures: &[(&str, Failed)]) -> Result<Round, JoinError> {
        let mut round = Round::default();
        for (seed, failed) in failures {
            round.failed(seed, failed.clone())?;
        }
        Ok(round)
    }

    fn refused(seed: &str, message: &str) -> JoinError {
        let (seed, message) = (seed.to_owned(), message.to_owned());
        JoinError::Refused { seed, message, advice: Advice::default() }
    }

    #[test]
    fn a_seed_that_refuses_does_not_end_the_join_while_another_may_let_it_in() {
        let both = [("a", Failed::elsewhere("no")), ("b", Failed::later("silent"))];
        let asked_again = round(&both).unwrap().end(LATER);
        assert_eq!(asked_again, Ok("b: silent".to_owned()));
        let end = round(&both).unwrap().end(REFUSED_MAX);
        assert_eq!(end, Err(refused("a", "no")), "what was said counts more than silence");
        let all = [("a", Failed::elsewhere("no")), ("b", Failed::elsewhere("never"))];
        assert_eq!(round(&all).unwrap().end(Duration::ZERO), Err(refused("a", "no")));
        let decided = [("a", Failed::later("silent")), ("b", Failed::never("the name is taken"))];
        assert_eq!(round(&decided).err(), Some(refused("b", "the name is taken")));
    }

    #[test]
    fn who_says_nothing_is_asked_for_a_minute() {
        let silent = || round(&[("a", Failed::later("silent"))]).unwrap();
        assert_eq!(silent().end(JOIN_MAX - LATER), Ok("a: silent".to_owned()));
        assert!(matches!(silent().end(JOIN_MAX), Err(JoinError::NobodyAnswers { .. })));
        assert!(matches!(Round::default().end(LATER), Err(JoinError::NobodyAnswers { .. })));
    }

    #[test]
    fn what_is_refused_for_the_moment_is_asked_again() {
        let of = |kind, token: &[u8]| {
            let refused = Refused { refusal: kind, versions: (1, 1), message: "why".into() };
            refusal(&refused, token).then
        };
        assert_eq!(of(Refusal::ClockSkew, b""), Then::Later(JOIN_MAX));
        assert_eq!(of(Refusal::Stopping, b""), Then::Later(JOIN_MAX));
        assert_eq!(of(Refusal::UnknownNode, b"token"), Then::Later(TOKEN_MAX));
        assert_eq!(of(Refusal::UnknownNode, b""), Then::Elsewhere);
        assert_eq!(of(Refusal::WrongCluster, b"token"), Then::Elsewhere);
    }

    #[test]
    fn a_node_does_not_ask_itself() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let told = address("10.9.9.9:7412");
        let own = |seed, listens| is_own(address(seed), address(listens), told);
        assert!(own("127.0.0.1:7412", "127.0.0.1:7412"));
        assert!(own("10.9.9.9:7412", "0.0.0.0:7412"), "it is advertised");
        assert!(own("127.0.0.1:7412", "0.0.0.0:7412"));
        assert!(!own("127.0.0.1:7413", "0.0.0.0:7412"));
        assert!(!own("127.0.0.2:7412", "127.0.0.1:7412"));
        // An address for documentation, which no machine has.
        assert!(!own("192.0.2.1:7412", "0.0.0.0:7412"));
    }
}
