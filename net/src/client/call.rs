//! What to do after a failed attempt. Pure: the clients bring clock, sockets and sleep.
//!
//! | what came | a read, or a write in a session | a write without session |
//! |---|---|---|
//! | an answer | done | done |
//! | an answer that is a duplicate | done if in doubt, else unknown: it answers another write | unknown |
//! | not sent | again | again |
//! | lost after it was sent, `unknown` | again, in doubt from here on | unknown |
//! | a retriable refusal | again | again |
//! | `session_expired` | in a new session, unless in doubt: unknown | refused |
//! | `sequence_gap` | in a new session: what lies beyond a gap was not applied | refused |
//! | `condition_failed` | refused: a session gives its first answer again | refused |
//! | any other refusal | refused, unless a write is in doubt: unknown | refused |
//! | the deadline passed | what failed last, unless a write is in doubt: unknown | the same |
//!
//! A write is *in doubt* when one of its attempts may have been applied. Only a definite answer to
//! a later attempt ends that. A request that breaks a rule of the protocol is never sent. A change that
//! can be made twice without harm (`TopicAlter`) goes like a write in a session: it may be repeated,
//! and it is not reported as not made when it may have been. An error code that this build does not know
//! is a refusal like any other.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use ironring_core::prng::Prng;
use ironring_core::{ErrorCode, PartitionId, SessionId};

use super::ClientError;
use crate::error::ResponseError;
use crate::frame::Header;
use crate::message::{Receipt, Request, Response, WriteOptions};

/// First pause between two attempts; each next one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// First pause while another node may take over any moment: a planned change of leaders takes some
/// milliseconds, the loss of one half a second.
const FOLLOW_PAUSE_FIRST: Duration = Duration::from_millis(2);
/// Longest pause then.
const FOLLOW_PAUSE_MAX: Duration = Duration::from_millis(25);
/// After so many attempts without an answer the next ones may take twice as long.
const SILENT_ATTEMPTS: u32 = 3;
/// The same after [`FOLLOW_CLOSELY`] attempts: about a second.
const FOLLOW_LATER_PAUSE_MAX: Duration = Duration::from_millis(100);
const FOLLOW_CLOSELY: u32 = 50;

/// How often a request may take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// It changes nothing that anybody sees.
    Freely,
    /// Doing it twice is doing it once.
    Alike,
    /// The server applies it once by its session and sequence.
    InSession,
    /// Only when it is certain that it was not applied.
    WhenRefused,
}

/// An attempt that gave no answer that was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// No attempt can succeed. This one was not applied.
    Invalid(ClientError),
    /// No byte of it was sent.
    NotSent(ClientError),
    /// It was sent, at least in part, and no answer will come.
    Lost(ClientError),
    /// The server refused.
    Refused { code: ErrorCode, detail: u64, message: String },
}

impl Failure {
    /// What a failed connection attempt means for the request that needed it.
    pub fn of_connecting(error: ClientError) -> Failure {
        match error {
            ClientError::Server { code, detail, message } => {
                Failure::Refused { code, detail, message }
            }
            ClientError::Protocol(_) => Failure::Invalid(error),
            error => Failure::NotSent(error),
        }
    }

    /// What an answer that cannot be read means for its request.
    pub fn of_answer(error: ResponseError) -> Failure {
        match error {
            // A newer server refused. Nothing is wrong with the connection.
            ResponseError::UnknownCode { .. } => Failure::Invalid(error.into()),
            _ => Failure::Lost(error.into()),
        }
    }

    /// Whether nothing came in time, to the request or to the attempt to connect.
    pub fn is_silence(&self) -> bool {
        match self {
            Failure::Lost(ClientError::Timeout) | Failure::NotSent(ClientError::Timeout) => true,
            Failure::NotSent(ClientError::Io { source, .. }) => {
                source.kind() == io::ErrorKind::TimedOut
            }
            _ => false,
        }
    }

    /// What a caller hears that does not try again.
    pub fn into_error(self) -> ClientError {
        match self {
            Failure::Invalid(error) | Failure::NotSent(error) | Failure::Lost(error) => error,
            Failure::Refused { code, detail, message } => {
                ClientError::Server { code, detail, message }
            }
        }
    }
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Try again after `pause`, having done what `first` says.
    Again {
        pause: Duration,
        first: Preparation,
    },
    Stop(ClientError),
}

/// What has to be renewed before the next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Preparation {
    /// The cluster map may be old.
    pub map: bool,
    /// Requests have to go where the map says, whatever the configuration says.
    pub route: bool,
    /// The session is of no more use. Nothing of this request was applied in it.
    pub session: bool,
}

/// One call and its attempts.
#[derive(Debug)]
pub(super) struct Call {
    repeat: Repeat,
    in_doubt: bool,
    attempts: u32,
    /// Attempts that got no answer in time.
    silent: u32,
    last: Option<ClientError>,
}

impl Call {
    pub fn new(request: &Request<'_>) -> Call {
        let repeat = match options_of(request) {
            Some(options) if options.session == SessionId::NONE => Repeat::WhenRefused,
            Some(_) => Repeat::InSession,
            None => match request {
                // A second attempt would find its own first and report it as somebody else's.
                Request::TopicCreate { .. } | Request::TopicDelete { .. } => Repeat::WhenRefused,
                Request::TopicAlter { .. } => Repeat::Alike,
                _ => Repeat::Freely,
            },
        };
        Call { repeat, in_doubt: false, attempts: 0, silent: 0, last: None }
    }

    /// How long the next attempt may take, when it can be repeated after that.
    pub fn patience(&self, first: Duration) -> Option<Duration> {
        // A silent node is asked a few times: its successor is elected meanwhile. Refusals say nothing
        // of how long an answer takes.
        let patience = first.saturating_mul(1 << (self.silent / SILENT_ATTEMPTS).min(16));
        (self.repeat != Repeat::WhenRefused).then_some(patience)
    }

    /// An attempt was answered. A `duplicate` is the first answer to a write that was applied before:
    /// to an earlier attempt of this call if one may have been, else to the write of somebody who counts
    /// in the same session, as a copy of this program does that shares its state.
    pub fn answered<T>(&self, answer: T, duplicate: bool) -> Result<T, ClientError> {
        if duplicate && !self.in_doubt {
            let reason = "the server had another write of this session and sequence".to_owned();
            return Err(ClientError::Unknown { reason });
        }
        Ok(answer)
    }

    /// An attempt failed.
    pub fn failed(&mut self, failure: Failure, prng: &mut Prng) -> Next {
        let mut first = Preparation::default();
        let mut pause_min = Duration::ZERO;
        let (mut pause_first, mut pause_max) = (PAUSE_FIRST, PAUSE_MAX);
        self.silent += u32::from(failure.is_silence());
        let error = match failure {
            Failure::Invalid(error) => return Next::Stop(self.settle(error)),
            Failure::NotSent(error) => {
                first.map = true;
                (pause_first, pause_max) = self.follow_pauses();
                error
            }
            Failure::Lost(error) => {
                first.map = true;
                (pause_first, pause_max) = self.follow_pauses();
                if let Some(stop) = self.doubt(&error) {
                    return Next::Stop(stop);
                }
                error
            }
            Failure::Refused { code, detail, message } => {
                let error = ClientError::Server { code, detail, message };
                first.map = another_may_serve(code);
                match code {
                    ErrorCode::Unknown => {
                        if let Some(stop) = self.doubt(&error) {
                            return Next::Stop(stop);
                        }
                    }
                    ErrorCode::ConditionFailed => return Next::Stop(error),
                    ErrorCode::SequenceGap if self.repeat == Repeat::InSession => {
                        first.session = true;
                        self.in_doubt = false;
                    }
                    ErrorCode::SessionExpired
                        if self.repeat == Repeat::InSession && !self.in_doubt =>
                    {
                        first.session = true;
                    }
                    code if !code.retriable() || code == ErrorCode::SequenceGap => {
                        return Next::Stop(self.settle(error));
                    }
                    ErrorCode::Overloaded => pause_min = Duration::from_millis(detail),
                    ErrorCode::NotLeader => {
                        first.route = true;
                        (pause_first, pause_max) = self.follow_pauses();
                    }
                    _ => {}
                }
                error
            }
        };
        self.last = Some(error);
        let pause = pause(self.attempts, (pause_first, pause_max), prng);
        let pause = pause.max(pause_min.min(PAUSE_MAX));
        self.attempts += 1;
        Next::Again { pause, first }
    }

    /// The first pause and the longest while another node may take over.
    fn follow_pauses(&self) -> (Duration, Duration) {
        let close = self.attempts < FOLLOW_CLOSELY;
        (FOLLOW_PAUSE_FIRST, if close { FOLLOW_PAUSE_MAX } else { FOLLOW_LATER_PAUSE_MAX })
    }

    /// The attempt may have been applied: the error to stop with when it must not be repeated.
    fn doubt(&mut self, error: &ClientError) -> Option<ClientError> {
        self.in_doubt |= self.repeat != Repeat::Freely;
        (self.repeat == Repeat::WhenRefused)
            .then(|| ClientError::Unknown { reason: error.to_string() })
    }

    /// A refusal tells of its own attempt only.
    fn settle(&self, error: ClientError) -> ClientError {
        if self.in_doubt { ClientError::Unknown { reason: error.to_string() } } else { error }
    }

    /// There is no time for another attempt.
    pub fn out_of_time(self) -> ClientError {
        let last = self.last.unwrap_or(ClientError::Timeout);
        if self.in_doubt { ClientError::Unknown { reason: last.to_string() } } else { last }
    }
}

/// Between half and all of a pause that doubles, so that clients that failed together do not come
/// back together.
fn pause(attempt: u32, (first, max): (Duration, Duration), prng: &mut Prng) -> Duration {
    let full = first.saturating_mul(1 << attempt.min(16)).min(max);
    let half_us = full.as_micros() as u64 / 2;
    Duration::from_micros(half_us + prng.below(half_us + 1))
}

/// Whether a refusal hints that the cluster map is old: another node may serve the partition by now.
pub(super) fn another_may_serve(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeader
            | ErrorCode::WrongPartition
            | ErrorCode::NotReady
            | ErrorCode::ShardFenced
            | ErrorCode::TooFewReplicas
    )
}

/// The options of a request that is numbered in sessions.
pub(super) fn options_of(request: &Request<'_>) -> Option<WriteOptions> {
    match request {
        Request::Put { options, .. }
        | Request::Delete { options, .. }
        | Request::Batch { options, .. }
        | Request::TopicAppend { options, .. }
        | Request::TopicTrim { options, .. } => Some(*options),
        _ => None,
    }
}

/// The options of a request that has its place in a session.
pub(super) fn numbered(request: &Request<'_>) -> Option<WriteOptions> {
    options_of(request).filter(|options| options.session != SessionId::NONE)
}

/// The same request with other options. Requests without options stay as they are.
pub(super) fn with_options<'a>(mut request: Request<'a>, new: WriteOptions) -> Request<'a> {
    if let Request::Put { options, .. }
    | Request::Delete { options, .. }
    | Request::Batch { options, .. }
    | Request::TopicAppend { options, .. }
    | Request::TopicTrim { options, .. } = &mut request
    {
        *options = new;
    }
    request
}

/// The response, or the refusal in it.
pub(super) fn accepted(response: Response<'_>) -> Result<Response<'_>, Failure> {
    match response {
        Response::Error { code, detail, message } => {
            Err(Failure::Refused { code, detail, message: message.to_owned() })
        }
        response => Ok(response),
    }
}

/// Whether the server says that it had applied the write before.
pub(super) fn is_duplicate(response: &Response<'_>) -> bool {
    matches!(
        response,
        Response::Receipt(Receipt { duplicate: true, .. })
            | Response::Appended { receipt: Receipt { duplicate: true, .. }, .. }
    )
}

/// Refuses a frame of another version than the one agreed on.
pub(super) fn check_version(header: &Header, agreed: u8) -> Result<(), ClientError> {
    if header.version == agreed {
        return Ok(());
    }
    let text = format!("a frame of version {} where {agreed} was agreed on", header.version);
    Err(ClientError::Protocol(text))
}

/// The server answered something else than the protocol lets it.
pub(super) fn unexpected(response: &Response<'_>) -> ClientError {
    let mut text = format!("{response:?}");
    text.truncate(text.char_indices().nth(80).map_or(text.len(), |(at, _)| at));
    ClientError::Protocol(format!("the answer does not go with the request: {text}"))
}

/// The peer closed the connection.
pub(super) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")
}

/// Numbers writes: 1, 2, 3, ... for each pair of session and partition.
///
/// A number is used up by a definite answer only. After an unknown outcome the partition goes on in
/// another session: its next write must not be taken for the one in doubt.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    /// The session of partitions not written to yet.
    current: Option<SessionId>,
    /// Session and last number used up of the partitions written to.
    used: BTreeMap<PartitionId, (SessionId, u64)>,
}

impl Sequences {
    /// Session and number of the next write to a partition; `None`: a session has to be opened.
    pub fn next(&self, partition: PartitionId) -> Option<(SessionId, u64)> {
        let used = self.used.get(&partition).copied();
        used.or(self.current.map(|session| (session, 0))).map(|(session, n)| (session, n + 1))
    }

    /// A session nobody has used yet.
    pub fn opened(&mut self, session: SessionId) {
        self.current = Some(session);
    }

    /// How the write that `options` numbered ended.
    pub fn ended<T>(
        &mut self,
        partition: PartitionId,
        options: WriteOptions,
        result: &Result<T, ClientError>,
    ) {
        match result {
            Ok(_) | Err(ClientError::Server { code: ErrorCode::ConditionFailed, .. }) => {
                self.used.insert(partition, (options.session, options.sequence));
            }
            Err(ClientError::Unknown { .. }) => self.renounce(partition, options.session),
            Err(_) => {}
        }
    }

    /// A session is not used for a partition any more.
    pub fn renounce(&mut self, partition: PartitionId, session: SessionId) {
        self.used.remove(&partition);
        self.current = self.current.filter(|current| *current != session);
    }
}

#[cfg(test)]
mod tests;
