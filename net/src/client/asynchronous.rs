//! A client on monoio: many requests at once on few connections, within one thread.
//!
//! Three layers, each usable by itself:
//! - [`connect`] gives a [`Sender`] and a [`Receiver`]: frames of the caller's own making.
//! - [`Pipeline`]: one connection shared by many tasks; answers find their requests.
//! - [`Client`]: routing, sessions and retries over pipelines, as the blocking client has them.
//!
//! The runtime must have its timer enabled. Nothing here leaves its thread.
//!
//! Writes in a session take turns within a partition, so that a sequence never overtakes the one
//! before it; writes to different partitions do not wait for each other. Without sessions nothing
//! waits.

#![expect(
    clippy::disallowed_types,
    reason = "a client waits for sockets: it reads the clock for deadlines"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironring_core::prng::Prng;
use ironring_core::{ErrorCode, PartitionId, SessionId};
use monoio::time::{sleep, timeout};

use super::call::{
    Call, Failure, Next, Sequences, accepted, another_may_serve, is_duplicate, numbered,
    options_of, unexpected, with_options,
};
use super::candidates::{Candidates, share};
use super::{ClientConfig, ClientError, GRACE, Routing, answers, deadline_ms};
use crate::message::{ClusterMap, Request, Response, TopicInfo, WriteOptions};

mod halves;
mod keys;
mod names;
mod pipeline;
#[cfg(test)]
mod tests;
mod topics;
mod waiters;

use halves::Broken;
pub use halves::{Receiver, Sender, connect};
use names::Lookup;
pub use pipeline::{Answer, Pipeline, Unanswered};
use waiters::Gate;

/// A client of one cluster, for the tasks of one thread. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ClientConfig,
    prng: RefCell<Prng>,
    pipelines: RefCell<BTreeMap<String, Pipeline>>,
    /// By address.
    dials: RefCell<BTreeMap<String, Rc<Dial>>>,
    routing: RefCell<Option<Rc<Routing>>>,
    routing_is_old: Cell<bool>,
    /// A node said that it does not lead: requests go where the map says.
    follows: Cell<bool>,
    /// Which of the known addresses is asked next for a map.
    asks_for_map: Cell<usize>,
    candidates: RefCell<Candidates>,
    sequences: RefCell<Sequences>,
    opening_session: Gate,
    turns: RefCell<BTreeMap<PartitionId, Rc<Gate>>>,
    topics: RefCell<BTreeMap<String, TopicInfo>>,
}

impl Client {
    /// Connects to the first address that answers. Each is tried once.
    ///
    /// # Errors
    /// When none can be reached in time, or all are of another cluster, version or protocol.
    pub async fn connect(config: ClientConfig) -> Result<Client, ClientError> {
        let until = Instant::now() + config.deadline;
        let inner = Inner {
            prng: RefCell::new(Prng::new(config.seed)),
            config,
            pipelines: RefCell::default(),
            dials: RefCell::default(),
            routing: RefCell::default(),
            routing_is_old: Cell::new(false),
            follows: Cell::new(false),
            asks_for_map: Cell::new(0),
            candidates: RefCell::default(),
            sequences: RefCell::default(),
            opening_session: Gate::default(),
            turns: RefCell::default(),
            topics: RefCell::default(),
        };
        let client = Client { inner: Rc::new(inner) };
        client.any_pipeline(until).await?;
        Ok(client)
    }

    /// Sends a ping.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn ping(&self) -> Result<(), ClientError> {
        self.call(None, Request::Ping, answers::pong).await
    }

    /// Counters of the node, a JSON object.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn stats(&self) -> Result<String, ClientError> {
        self.call(None, Request::Stats, answers::stats).await
    }

    /// Asks for the cluster map, and uses it from here on.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn cluster_map(&self) -> Result<ClusterMap, ClientError> {
        self.cluster_map_until(self.until()).await
    }

    async fn cluster_map_until(&self, until: Instant) -> Result<ClusterMap, ClientError> {
        let map = self.call_until(until, None, Request::ClusterMap, answers::map).await?;
        self.use_map(map.clone());
        Ok(map)
    }

    fn use_map(&self, map: ClusterMap) {
        *self.inner.routing.borrow_mut() = Some(Rc::new(Routing::new(map)));
    }

    /// The map as far as it is known, asked for when it is not.
    async fn routing(&self, until: Instant) -> Result<Rc<Routing>, ClientError> {
        let known = self.inner.routing.borrow().clone();
        match known {
            Some(routing) => Ok(routing),
            None => Ok(Rc::new(Routing::new(self.cluster_map_until(until).await?))),
        }
    }

    /// The partition a key belongs to.
    ///
    /// # Errors
    /// When the cluster map is not known and cannot be had.
    pub async fn partition_of(&self, key: &[u8]) -> Result<PartitionId, ClientError> {
        Ok(self.routing(self.until()).await?.partition_of(key))
    }

    fn uses_partitions(&self) -> bool {
        self.inner.config.session || self.is_aware()
    }

    /// What a write asks for, before it is numbered.
    fn options(&self, durability: Option<ironring_core::Durability>) -> WriteOptions {
        let durability = durability.unwrap_or(self.inner.config.durability);
        WriteOptions { durability, session: SessionId::NONE, sequence: 0 }
    }

    /// When a call that begins is over. Everything it takes shares that.
    fn until(&self) -> Instant {
        Instant::now() + self.inner.config.deadline
    }

    /// Sends a request that is a whole call.
    async fn call<T>(
        &self,
        partition: Option<PartitionId>,
        request: Request<'_>,
        read: impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        self.call_until(self.until(), partition, request, read).await
    }

    /// Sends a request until it is answered, refused for good, or out of time. `read` takes what
    /// was asked for out of the response, or nothing when the response is of another kind.
    async fn call_until<T>(
        &self,
        until: Instant,
        partition: Option<PartitionId>,
        request: Request<'_>,
        read: impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        let wait = match request {
            Request::TopicRead { wait_ms, .. } => Duration::from_millis(wait_ms.into()),
            _ => Duration::ZERO,
        };
        let until = until + wait;
        let numbers = self.inner.config.session && options_of(&request).is_some();
        let Some(place) = partition.filter(|_| numbers) else {
            return self.repeat(partition, request, (until, wait), read).await;
        };
        let turn = Rc::clone(self.inner.turns.borrow_mut().entry(place).or_default());
        let left = until.saturating_duration_since(Instant::now());
        let _pass = timeout(left, turn.enter()).await.map_err(|_| ClientError::Timeout)?;
        let request = self.number(place, request, until).await?;
        self.repeat(partition, request, (until, wait), read).await
    }

    /// Gives a write its place in the session, which is opened when there is none.
    async fn number<'a>(
        &self,
        partition: PartitionId,
        request: Request<'a>,
        until: Instant,
    ) -> Result<Request<'a>, ClientError> {
        let Some(options) = options_of(&request) else { return Ok(request) };
        let next = || self.inner.sequences.borrow().next(partition);
        if next().is_none() {
            let left = until.saturating_duration_since(Instant::now());
            let entering = timeout(left, self.inner.opening_session.enter());
            let _pass = entering.await.map_err(|_elapsed| ClientError::Timeout)?;
            if next().is_none() {
                let times = (until, Duration::ZERO);
                let opening = self.repeat(None, Request::OpenSession, times, answers::session);
                let opened = Box::pin(opening).await?;
                self.inner.sequences.borrow_mut().opened(opened);
            }
        }
        let (session, sequence) = next().expect("a session was opened");
        Ok(with_options(request, WriteOptions { session, sequence, ..options }))
    }

    /// Attempts until there is a definite end, and tells the sequences what it was.
    async fn repeat<T>(
        &self,
        mut partition: Option<PartitionId>,
        mut request: Request<'_>,
        (until, wait): (Instant, Duration),
        read: impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        let mut call = Call::new(&request);
        let mut doubt = Doubt { client: self, place: None };
        let duplicate = Cell::new(false);
        let read = |response: &Response<'_>| {
            duplicate.set(is_duplicate(response));
            read(response)
        };
        let result = loop {
            doubt.place = partition.zip(numbered(&request));
            let patience = call.patience(self.inner.config.attempt_timeout);
            let turn = patience.map_or(until, |p| until.min(Instant::now() + p + wait));
            let failure = match self.attempt(partition, &request, (turn, until), &read).await {
                Ok(answer) => break call.answered(answer, duplicate.get()),
                Err(failure) => failure,
            };
            let next = call.failed(failure, &mut self.inner.prng.borrow_mut());
            match next {
                Next::Stop(error) => break Err(error),
                Next::Again { pause, .. } if Instant::now() + pause >= until => {
                    break Err(call.out_of_time());
                }
                Next::Again { pause, first } => {
                    sleep(pause).await;
                    if first.route {
                        self.inner.follows.set(true);
                        let map = Box::pin(self.routing(until)).await.ok();
                        let found = map.and_then(|map| map.partition_about(&request));
                        partition = partition.or(found);
                    }
                    if first.map {
                        self.inner.routing_is_old.set(true);
                    }
                    let place = partition.zip(numbered(&request)).filter(|_| first.session);
                    if let Some((partition, options)) = place {
                        self.inner.sequences.borrow_mut().renounce(partition, options.session);
                        request = Box::pin(self.number(partition, request, until)).await?;
                    }
                }
            }
        };
        if let Some((partition, options)) = doubt.place.take() {
            self.inner.sequences.borrow_mut().ended(partition, options, &result);
        }
        result
    }

    async fn attempt<T>(
        &self,
        partition: Option<PartitionId>,
        request: &Request<'_>,
        (turn, until): (Instant, Instant),
        read: &impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        let pipeline = self.pipeline_for(partition, turn).await.map_err(Failure::of_connecting)?;
        let asked = Instant::now();
        let result = Self::exchange(&pipeline, request, (turn, until), read).await;
        match &result {
            Err(Failure::Refused { code, .. }) if another_may_serve(*code) => {
                self.refuses(&pipeline, partition, *code);
            }
            Err(failure) => self.leave_if_silent(&pipeline, asked, failure),
            Ok(_) => {}
        }
        result
    }

    /// A server that answers others takes its time over this request, and would on any connection.
    /// One that fell silent just after it was sent had answered others a moment before.
    fn leave_if_silent(&self, pipeline: &Pipeline, asked: Instant, failure: &Failure) {
        if !failure.is_silence() || pipeline.silent_for() < asked.elapsed() / 2 {
            return;
        }
        // Others may still hear on it; who comes next had better not count on it.
        self.inner.pipelines.borrow_mut().retain(|address, known| {
            let same = known.is(pipeline);
            if same {
                self.inner.candidates.borrow_mut().failed(address);
            }
            !same
        });
    }

    /// The server said that another may serve what it was asked for.
    fn refuses(&self, pipeline: &Pipeline, partition: Option<PartitionId>, code: ErrorCode) {
        let pipelines = self.inner.pipelines.borrow();
        let Some((address, _)) = pipelines.iter().find(|(_, known)| known.is(pipeline)) else {
            return;
        };
        let mut candidates = self.inner.candidates.borrow_mut();
        candidates.refuses(address);
        // A leader that is cut off says the latter.
        if matches!(code, ErrorCode::NotLeader | ErrorCode::TooFewReplicas) {
            let routing = self.inner.routing.borrow();
            let owner = routing.as_ref().zip(partition).and_then(|(map, of)| map.address_of(of));
            candidates.does_not_lead(address, owner, &self.inner.config.addrs);
        }
    }

    async fn exchange<T>(
        pipeline: &Pipeline,
        request: &Request<'_>,
        (turn, until): (Instant, Instant),
        read: &impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        Self::exchange_with(0, pipeline, request, (turn, until), |_, response| {
            let response = accepted(response)?;
            read(&response).ok_or_else(|| Failure::Lost(unexpected(&response)))
        })
        .await
    }

    /// Sends a request with flags, and reads its answer and the age of that.
    async fn exchange_with<T>(
        flags: u16,
        pipeline: &Pipeline,
        request: &Request<'_>,
        (turn, until): (Instant, Instant),
        read: impl FnOnce(u32, Response<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let now = Instant::now();
        let patience = turn.saturating_duration_since(now) + GRACE;
        let deadline_ms = deadline_ms(until.saturating_duration_since(now));
        let sent = Cell::new(false);
        let asking = pipeline.call_noting(flags, deadline_ms, request, &sent);
        let answer = match timeout(patience, asking).await {
            Err(_elapsed) if !sent.get() => return Err(Failure::NotSent(ClientError::Timeout)),
            Err(_elapsed) => return Err(Failure::Lost(ClientError::Timeout)),
            Ok(Err(Unanswered::Invalid(error))) => return Err(Failure::Invalid(error)),
            Ok(Err(Unanswered::NotSent(error))) => return Err(Failure::NotSent(error)),
            Ok(Err(Unanswered::Lost(error))) => return Err(Failure::Lost(error)),
            Ok(Ok(answer)) => answer,
        };
        let response = answer.response().map_err(Failure::of_answer)?;
        let result = read(answer.age_ms(), response);
        if let Err(Failure::Lost(error)) = &result {
            // Who answers something else than was asked may be mistaken about the others as well.
            pipeline.break_down(error);
        }
        result
    }

    /// Whether requests go where the map says.
    fn is_aware(&self) -> bool {
        self.inner.config.shard_aware || self.inner.follows.get()
    }

    fn known_addresses(&self) -> Vec<String> {
        let routing = self.inner.routing.borrow();
        Routing::addresses(&self.inner.config.addrs, routing.as_deref())
    }

    /// A connection for a partition: that of its shard if it can be had, else any.
    async fn pipeline_for(
        &self,
        partition: Option<PartitionId>,
        until: Instant,
    ) -> Result<Pipeline, ClientError> {
        let Some(partition) = partition.filter(|_| self.is_aware()) else {
            return self.any_pipeline(until).await;
        };
        self.renew_routing(until).await;
        let routing = self.inner.routing.borrow().clone();
        if let Some(owner) = routing.as_ref().and_then(|routing| routing.address_of(partition)) {
            // An address that swallows packets must leave time for another.
            let left = until.saturating_duration_since(Instant::now());
            match self.open(owner, Instant::now() + left / 2).await {
                Ok(pipeline) => return Ok(pipeline),
                Err(_) => {
                    if let Some(routing) = self.inner.routing.borrow_mut().as_mut() {
                        Rc::make_mut(routing).mark_unreachable(owner);
                    }
                }
            }
        }
        self.any_pipeline(until).await
    }

    async fn any_pipeline(&self, until: Instant) -> Result<Pipeline, ClientError> {
        let addrs = self.inner.candidates.borrow().order(self.known_addresses());
        let mut last = ClientError::Protocol("no address is configured".to_owned());
        for (at, address) in addrs.iter().enumerate() {
            match self.open(address, self.turn(until, addrs.len() - at)).await {
                Ok(pipeline) => return Ok(pipeline),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// When to go on from the first of `remaining` addresses.
    fn turn(&self, until: Instant, remaining: usize) -> Instant {
        let now = Instant::now();
        let left = until.saturating_duration_since(now);
        now + share(left, remaining, self.inner.config.attempt_timeout)
    }

    fn opened(&self, address: &str) -> Option<Pipeline> {
        self.inner.pipelines.borrow().get(address).filter(|open| open.is_alive()).cloned()
    }

    async fn open(&self, address: &str, until: Instant) -> Result<Pipeline, ClientError> {
        if let Some(open) = self.opened(address) {
            return Ok(open);
        }
        let dial = Rc::clone(self.inner.dials.borrow_mut().entry(address.to_owned()).or_default());
        let failures = dial.failures.get();
        let left = || until.saturating_duration_since(Instant::now());
        let _pass =
            timeout(left(), dial.gate.enter()).await.map_err(|_elapsed| ClientError::Timeout)?;
        if let Some(open) = self.opened(address) {
            return Ok(open);
        }
        if dial.failures.get() != failures
            && let Some(failed) = &*dial.failed.borrow()
        {
            // As it went for whoever connected while this task waited, so it would for this one.
            return Err(failed.error());
        }
        let limit = left().min(self.inner.config.connect_timeout);
        if limit.is_zero() {
            return Err(ClientError::Timeout);
        }
        match halves::connect_within(address, &self.inner.config, limit, &dial.lookup).await {
            Ok((sender, receiver, server)) => {
                self.inner.candidates.borrow_mut().reached(address);
                let pipeline = Pipeline::new(sender, receiver, server);
                self.inner.pipelines.borrow_mut().insert(address.to_owned(), pipeline.clone());
                Ok(pipeline)
            }
            Err(error) => {
                self.inner.candidates.borrow_mut().failed(address);
                dial.failures.set(dial.failures.get() + 1);
                *dial.failed.borrow_mut() = Some(Broken::new(address, &error));
                Err(error)
            }
        }
    }

    /// Renews the map when something hinted that the one in use is old.
    async fn renew_routing(&self, until: Instant) {
        if self.inner.routing_is_old.replace(false) {
            self.ask_for_map(until).await;
        }
    }

    /// Asks once for a new map. Without an answer the old one serves on.
    async fn ask_for_map(&self, until: Instant) {
        let turn = self.inner.asks_for_map.get();
        self.inner.asks_for_map.set(turn.wrapping_add(1));
        let is_open = |address: &str| self.opened(address).is_some();
        let known = self.known_addresses();
        let known = self.inner.candidates.borrow().order_for_map(known, turn, is_open);
        for (at, address) in known.iter().enumerate() {
            let turn = self.turn(until, known.len() - at);
            let Ok(pipeline) = self.open(address, turn).await else { continue };
            let asked = Instant::now();
            let answer =
                Self::exchange(&pipeline, &Request::ClusterMap, (turn, turn), &answers::map).await;
            match answer {
                Ok(map) => {
                    self.inner.candidates.borrow_mut().gave_map(address);
                    let routing = &mut *self.inner.routing.borrow_mut();
                    match routing {
                        Some(routing) => Rc::make_mut(routing).renew(map),
                        None => *routing = Some(Rc::new(Routing::new(map))),
                    }
                    return;
                }
                Err(failure) => self.leave_if_silent(&pipeline, asked, &failure),
            }
        }
    }
}

/// Connecting to one address: one task does, the others wait for it and use the same connection, or
/// fail as it did. Who wants another address does not wait: a node that is silent takes all the time
/// it is given.
#[derive(Debug, Default)]
struct Dial {
    gate: Gate,
    lookup: Lookup,
    failures: Cell<u64>,
    failed: RefCell<Option<Broken>>,
}

/// A numbered write under way. When its task is dropped before the end, nobody knows the outcome,
/// and the next write of the partition must not take its number.
struct Doubt<'a> {
    client: &'a Client,
    place: Option<(PartitionId, WriteOptions)>,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some((partition, options)) = self.place.take() {
            self.client.inner.sequences.borrow_mut().renounce(partition, options.session);
        }
    }
}
