//! A client over `std::net`, one request at a time. For tools and tests.
//!
//! [`Client`] retries and keeps its connections; [`RawConnection`] is one connection for callers
//! that make their own frames.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a client waits for sockets: it reads the clock and sleeps"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ironring_core::prng::Prng;
use ironring_core::{ErrorCode, PartitionId, SessionId, Token};

use super::answers;
use super::call::{
    Call, Failure, Next, Sequences, accepted, another_may_serve, is_duplicate, numbered,
    options_of, unexpected, with_options,
};
use super::candidates::{Candidates, share};
use super::{ClientConfig, ClientError, GRACE, Routing, ServerInfo, deadline_ms};
use crate::codec::{decode_response, encode_request};
use crate::frame::{HEADER_BYTES, Header, set_flags};
use crate::message::{ClusterMap, Request, Response, TopicInfo, WriteOptions};
use crate::wire::within;

mod keys;
mod raw;
mod scan;
#[cfg(test)]
mod tests;
mod topics;

pub use raw::RawConnection;
pub use scan::Scan;

/// A client of one cluster. Not shared between threads: each has its own.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    prng: Prng,
    connections: BTreeMap<String, RawConnection>,
    routing: Option<Routing>,
    routing_is_old: bool,
    /// Which of the known addresses is asked next for a map.
    asks_for_map: usize,
    candidates: Candidates,
    sequences: Sequences,
    topics: BTreeMap<String, TopicInfo>,
    correlation: u64,
    frame: Vec<u8>,
}

impl Client {
    /// Connects to the first address that answers. Each is tried once.
    ///
    /// # Errors
    /// When none can be reached in time, or all are of another cluster, version or protocol.
    pub fn connect(config: ClientConfig) -> Result<Client, ClientError> {
        let prng = Prng::new(config.seed);
        let mut client = Client {
            config,
            prng,
            connections: BTreeMap::new(),
            routing: None,
            routing_is_old: false,
            asks_for_map: 0,
            candidates: Candidates::default(),
            sequences: Sequences::default(),
            topics: BTreeMap::new(),
            correlation: 0,
            frame: Vec::new(),
        };
        let until = Instant::now() + client.config.deadline;
        client.any_connection(until)?;
        Ok(client)
    }

    /// Changes how long calls take at most, from here on.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.config.deadline = deadline;
    }

    /// What the servers connected to said of themselves, by address.
    pub fn servers(&self) -> impl Iterator<Item = (&str, &ServerInfo)> {
        self.connections.iter().map(|(address, raw)| (address.as_str(), raw.server()))
    }

    /// Sends a ping and returns how long the answer took, with any connection or retry it needed.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub fn ping(&mut self) -> Result<Duration, ClientError> {
        let begin = Instant::now();
        self.call(None, Request::Ping, answers::pong)?;
        Ok(begin.elapsed())
    }

    /// Counters of the node, a JSON object.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub fn stats(&mut self) -> Result<String, ClientError> {
        self.call(None, Request::Stats, answers::stats)
    }

    /// Asks for the cluster map, and uses it from here on.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub fn cluster_map(&mut self) -> Result<ClusterMap, ClientError> {
        self.cluster_map_until(self.until())
    }

    fn cluster_map_until(&mut self, until: Instant) -> Result<ClusterMap, ClientError> {
        let map = self.call_until(until, None, Request::ClusterMap, answers::map)?;
        self.routing = Some(Routing::new(map.clone()));
        self.routing_is_old = false;
        Ok(map)
    }

    /// The map as far as it is known, asked for when it is not.
    fn routing(&mut self, until: Instant) -> Result<&Routing, ClientError> {
        if self.routing.is_none() {
            self.cluster_map_until(until)?;
        }
        Ok(self.routing.as_ref().expect("cluster_map_until sets it"))
    }

    /// The partition a key belongs to.
    ///
    /// # Errors
    /// When the cluster map is not known and cannot be had.
    pub fn partition_of(&mut self, key: &[u8]) -> Result<PartitionId, ClientError> {
        Ok(self.routing(self.until())?.partition_of(key))
    }

    /// The partition of a key when the configuration makes use of it.
    fn partition_for(
        &mut self,
        key: &[u8],
        until: Instant,
    ) -> Result<Option<PartitionId>, ClientError> {
        if self.config.session || self.config.shard_aware {
            return Ok(Some(self.routing(until)?.partition_of(key)));
        }
        Ok(None)
    }

    /// What a write asks for, before it is numbered.
    fn options(&self, durability: Option<ironring_core::Durability>) -> WriteOptions {
        let durability = durability.unwrap_or(self.config.durability);
        WriteOptions { durability, session: SessionId::NONE, sequence: 0 }
    }

    /// When a call that begins is over. Everything it takes shares that.
    fn until(&self) -> Instant {
        Instant::now() + self.config.deadline
    }

    /// Sends a request that is a whole call.
    fn call<T>(
        &mut self,
        partition: Option<PartitionId>,
        request: Request<'_>,
        read: impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        self.call_until(self.until(), partition, request, read)
    }

    /// Sends a request until it is answered, refused for good, or out of time. `read` takes what
    /// was asked for out of the response, or nothing when the response is of another kind.
    fn call_until<T>(
        &mut self,
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
        let place = partition.filter(|_| self.config.session && options_of(&request).is_some());
        let request = match place {
            Some(partition) => self.number(partition, request, until)?,
            None => request,
        };
        self.repeat(partition, request, (until, wait), read)
    }

    /// Gives a write its place in the session, which is opened when there is none.
    fn number<'a>(
        &mut self,
        partition: PartitionId,
        request: Request<'a>,
        until: Instant,
    ) -> Result<Request<'a>, ClientError> {
        let Some(options) = options_of(&request) else { return Ok(request) };
        let (session, sequence) = match self.sequences.next(partition) {
            Some(next) => next,
            None => {
                let times = (until, Duration::ZERO);
                let opened = self.repeat(None, Request::OpenSession, times, answers::session)?;
                self.sequences.opened(opened);
                (opened, 1)
            }
        };
        Ok(with_options(request, WriteOptions { session, sequence, ..options }))
    }

    /// Attempts until there is a definite end, and tells the sequences what it was.
    fn repeat<T>(
        &mut self,
        mut partition: Option<PartitionId>,
        mut request: Request<'_>,
        (until, wait): (Instant, Duration),
        read: impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        let mut call = Call::new(&request);
        let duplicate = Cell::new(false);
        let read = |response: &Response<'_>| {
            duplicate.set(is_duplicate(response));
            read(response)
        };
        let result = loop {
            let patience = call.patience(self.config.attempt_timeout);
            let turn = patience.map_or(until, |p| until.min(Instant::now() + p + wait));
            let failure = match self.attempt(partition, &request, (turn, until), &read) {
                Ok(answer) => break call.answered(answer, duplicate.get()),
                Err(failure) => failure,
            };
            match call.failed(failure, &mut self.prng) {
                Next::Stop(error) => break Err(error),
                Next::Again { pause, .. } if Instant::now() + pause >= until => {
                    break Err(call.out_of_time());
                }
                Next::Again { pause, first } => {
                    std::thread::sleep(pause);
                    self.routing_is_old |= first.map;
                    if first.route {
                        self.config.shard_aware = true;
                        let map = self.routing(until).ok();
                        let found = map.and_then(|map| map.partition_about(&request));
                        partition = partition.or(found);
                    }
                    let place = partition.zip(options_of(&request)).filter(|_| first.session);
                    if let Some((partition, options)) = place {
                        self.sequences.renounce(partition, options.session);
                        request = self.number(partition, request, until)?;
                    }
                }
            }
        };
        if let Some((partition, options)) = partition.zip(numbered(&request)) {
            self.sequences.ended(partition, options, &result);
        }
        result
    }

    fn attempt<T>(
        &mut self,
        partition: Option<PartitionId>,
        request: &Request<'_>,
        (turn, until): (Instant, Instant),
        read: &impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        let address = self.connection_for(partition, turn).map_err(Failure::of_connecting)?;
        let result = self.exchange(&address, request, (turn, until), read);
        match &result {
            Err(failure @ Failure::Lost(_)) => self.give_up(&address, failure),
            Err(Failure::Refused { code, .. }) if another_may_serve(*code) => {
                self.refuses(&address, partition, *code);
            }
            _ => {}
        }
        result
    }

    /// The server said that another may serve what it was asked for.
    fn refuses(&mut self, address: &str, partition: Option<PartitionId>, code: ErrorCode) {
        self.candidates.refuses(address);
        // A leader that is cut off says the latter.
        if matches!(code, ErrorCode::NotLeader | ErrorCode::TooFewReplicas) {
            let routing = self.routing.as_ref();
            let owner = routing.zip(partition).and_then(|(map, of)| map.address_of(of));
            self.candidates.does_not_lead(address, owner, &self.config.addrs);
        }
    }

    /// Closes a connection: whatever is left on it belongs to nobody any more.
    fn give_up(&mut self, address: &str, failure: &Failure) {
        self.connections.remove(address);
        if failure.is_silence() {
            self.candidates.failed(address);
        }
    }

    fn exchange<T>(
        &mut self,
        address: &str,
        request: &Request<'_>,
        (turn, until): (Instant, Instant),
        read: &impl Fn(&Response<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        self.exchange_with(0, address, request, (turn, until), |_, response| {
            let response = accepted(response)?;
            read(&response).ok_or_else(|| Failure::Lost(unexpected(&response)))
        })
    }

    /// Sends a request with flags to an open connection, and reads its answer.
    fn exchange_with<T>(
        &mut self,
        flags: u16,
        address: &str,
        request: &Request<'_>,
        (turn, until): (Instant, Instant),
        read: impl FnOnce(&Header, Response<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let raw = self.connections.get_mut(address).expect("connection_for returned its address");
        let left = until.saturating_duration_since(Instant::now());
        self.correlation += 1;
        self.frame.clear();
        encode_request(&mut self.frame, self.correlation, deadline_ms(left), request)
            .map_err(|error| Failure::Invalid(error.into()))?;
        if flags != 0 {
            set_flags(&mut self.frame, flags);
        }
        let max = raw.server().frame_bytes_max as usize;
        within(self.frame.len() - HEADER_BYTES, max, "frame body")
            .map_err(|error| Failure::Invalid(error.into()))?;
        raw.send(&self.frame, turn + GRACE).map_err(Failure::Lost)?;
        loop {
            let (header, body) = raw.receive(turn + GRACE).map_err(Failure::Lost)?;
            if header.correlation != self.correlation && header.correlation != 0 {
                continue;
            }
            let response = decode_response(&header, body);
            if header.correlation == 0 {
                // Not about a request: the connection is about to close.
                let error = response.map_or_else(ClientError::from, |other| unexpected(&other));
                return Err(Failure::Lost(error));
            }
            return read(&header, response.map_err(Failure::of_answer)?);
        }
    }

    /// Address of an open connection for a partition: that of its shard if it can be had, else any.
    fn connection_for(
        &mut self,
        partition: Option<PartitionId>,
        until: Instant,
    ) -> Result<String, ClientError> {
        if let Some(partition) = partition.filter(|_| self.config.shard_aware) {
            self.renew_routing(until);
            let owner = self.routing.as_ref().and_then(|routing| routing.address_of(partition));
            if let Some(owner) = owner.map(str::to_owned) {
                // An address that swallows packets must leave time for another.
                let left = until.saturating_duration_since(Instant::now());
                match self.open(&owner, (Instant::now() + left / 2).min(until)) {
                    Ok(()) => return Ok(owner),
                    Err(_) => {
                        if let Some(routing) = &mut self.routing {
                            routing.mark_unreachable(&owner);
                        }
                    }
                }
            }
        }
        self.any_connection(until)
    }

    fn any_connection(&mut self, until: Instant) -> Result<String, ClientError> {
        let known = Routing::addresses(&self.config.addrs, self.routing.as_ref());
        let addrs = self.candidates.order(known);
        let count = addrs.len();
        let mut last = ClientError::Protocol("no address is configured".to_owned());
        for (at, address) in addrs.into_iter().enumerate() {
            match self.open(&address, self.turn(until, count - at)) {
                Ok(()) => return Ok(address),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// When to go on from the first of `remaining` addresses.
    fn turn(&self, until: Instant, remaining: usize) -> Instant {
        let now = Instant::now();
        let left = until.saturating_duration_since(now);
        now + share(left, remaining, self.config.attempt_timeout)
    }

    /// Makes sure that there is a connection to `address` that the server has not closed.
    fn open(&mut self, address: &str, until: Instant) -> Result<(), ClientError> {
        if self.connections.get_mut(address).is_some_and(|raw| raw.is_alive()) {
            return Ok(());
        }
        self.connections.remove(address);
        let now = Instant::now();
        if until <= now {
            return Err(ClientError::Timeout);
        }
        let until = until.min(now + self.config.connect_timeout);
        match RawConnection::connect(address, &self.config.hello(), until) {
            Ok(raw) => {
                self.candidates.reached(address);
                self.connections.insert(address.to_owned(), raw);
                Ok(())
            }
            Err(error) => {
                self.candidates.failed(address);
                Err(error)
            }
        }
    }

    /// Renews the map when something hinted that the one in use is old.
    fn renew_routing(&mut self, until: Instant) {
        if std::mem::take(&mut self.routing_is_old) {
            self.ask_for_map(until);
        }
    }

    /// Asks once for a new map. Without an answer the old one serves on.
    fn ask_for_map(&mut self, until: Instant) {
        let turn = self.asks_for_map;
        self.asks_for_map = turn.wrapping_add(1);
        let is_open = |address: &str| self.connections.contains_key(address);
        let known = Routing::addresses(&self.config.addrs, self.routing.as_ref());
        let known = self.candidates.order_for_map(known, turn, is_open);
        let count = known.len();
        for (at, address) in known.into_iter().enumerate() {
            let turn = self.turn(until, count - at);
            if self.open(&address, turn).is_err() {
                continue;
            }
            match self.exchange(&address, &Request::ClusterMap, (turn, turn), &answers::map) {
                Ok(map) => {
                    self.candidates.gave_map(&address);
                    match &mut self.routing {
                        Some(routing) => return routing.renew(map),
                        None => return self.routing = Some(Routing::new(map)),
                    }
                }
                Err(failure) => self.give_up(&address, &failure),
            }
        }
    }

    /// The partition that a topic partition lives in, when the configuration makes use of it.
    fn partition_for_topic(
        &mut self,
        topic: &TopicInfo,
        index: u32,
        until: Instant,
    ) -> Result<Option<PartitionId>, ClientError> {
        if self.config.session || self.config.shard_aware {
            let partitions = self.routing(until)?.map().partitions;
            let token = Token::of_topic_partition(topic.id, index);
            return Ok(Some(token.partition(partitions)));
        }
        Ok(None)
    }
}
