//! One shard's executor: carries events to the [`Shard`] and executes what it wants done.
//!
//! Everything that decides is in the shard; this file only moves bytes. Its rhythm is the *turn*:
//! tasks that became ready (frames read, I/O done, messages) hand their events to the shard and
//! ask for a turn; the turn task runs behind all of them, lets the shard seal one commit group for
//! all that came, starts its I/O, and only then writes the answers to the sockets, one write per
//! connection.
//!
//! The turn rests on a habit of the runtimes: a task that is woken runs behind those that are ready.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use ironring_core::Instant;
use ironring_core::io::{IoDone, IoRequest};
use ironring_log::LogStatus;
use ironring_net::connection::Connection;

use super::batch::{self, Batch};
use super::clock;
use super::connection::{ConnState, next_receives};
use super::data_dir;
use super::files::Files;
use super::idle::Idle;
use super::mesh::Mesh;
use super::node::Shared;
use super::nodes::Nodes;
use super::poller::Poller;
use super::receive::Receive;
use super::runtime::Runtime;
use super::stall::{Stalls, ThreadUsage};
use crate::metrics::StallCounters;
use crate::shard::{ConnId, ConnectionBytes, Effects, Event, Phase, Shard};

/// Longest sleep of the timer task: a deadline that moved closer meanwhile is late by no more.
const TIMER_NAP: Duration = Duration::from_millis(20);
/// Operations worth a submission of their own before the turn ends.
const EARLY_OPS: usize = 4;
/// How often counters are published.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits for answers to be taken.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// One shard with its surroundings. Lives on one executor, behind an `Rc`.
pub struct Executor<R: Runtime> {
    /// What it runs on.
    pub runtime: Rc<R>,
    /// The decisions.
    pub shard: RefCell<Shard>,
    /// What the shard wants done.
    pub effects: RefCell<Effects>,
    /// Its files.
    pub files: Files<R>,
    /// The way to the other shards.
    pub mesh: Mesh,
    /// The way to other nodes.
    pub nodes: Nodes<R>,
    /// What all shards share.
    pub shared: Arc<Shared>,
    /// Which sockets are ready.
    pub poller: Poller<R>,
    /// How long to look for work before sleeping.
    pub idle: RefCell<Idle>,
    /// Open connections.
    pub conns: RefCell<BTreeMap<ConnId, Rc<ConnState>>>,
    /// Memory for large requests while they are received.
    pub receive: RefCell<Receive>,
    /// What connections take now.
    pub connection_bytes: Cell<ConnectionBytes>,
    number: u16,
    next_conn: Cell<u64>,
    turn_wanted: Cell<bool>,
    turn_waker: RefCell<Option<Waker>>,
    /// Many sends or receives at once.
    pub batch: Batch,
    /// Connections with answers to write.
    dirty: RefCell<Vec<Rc<ConnState>>>,
    /// True from the moment a stop was asked for.
    pub stopping: Cell<bool>,
    io_in_flight: Cell<u64>,
    log_was_made: Cell<bool>,
    probe_seen: Cell<u64>,
    stalls: RefCell<Stalls>,
}

impl<R: Runtime> Executor<R> {
    /// Surrounds a shard.
    #[must_use]
    pub fn new(
        runtime: Rc<R>,
        shard: Shard,
        files: Files<R>,
        mesh: Mesh,
        nodes: Nodes<R>,
        poller: Poller<R>,
        shared: Arc<Shared>,
    ) -> Rc<Executor<R>> {
        Rc::new(Executor {
            runtime,
            number: shard.id().0,
            receive: RefCell::new(Receive::new(shard.request_bytes_max())),
            connection_bytes: Cell::default(),
            poller,
            idle: RefCell::new(Idle::new(shared.spin_max)),
            shard: RefCell::new(shard),
            effects: RefCell::default(),
            files,
            mesh,
            nodes,
            shared,
            conns: RefCell::default(),
            next_conn: Cell::new(0),
            turn_wanted: Cell::new(false),
            turn_waker: RefCell::new(None),
            batch: Batch::default(),
            dirty: RefCell::default(),
            stopping: Cell::new(false),
            io_in_flight: Cell::new(0),
            log_was_made: Cell::new(false),
            probe_seen: Cell::new(0),
            stalls: RefCell::default(),
        })
    }

    /// The shard's number.
    pub fn shard_number(&self) -> u16 {
        self.number
    }

    /// A name for a new connection.
    pub fn name_connection(&self) -> ConnId {
        self.next_conn.set(self.next_conn.get() + 1);
        ConnId(self.next_conn.get())
    }

    /// Hands one event to the shard and asks for a turn.
    pub fn handle(self: &Rc<Self>, event: Event<'_>) {
        let now = clock::now();
        self.idle.borrow_mut().busy(now.mono);
        self.handle_at(now, event);
    }

    /// The same for what only time brings: it does not count as work.
    pub fn handle_at(self: &Rc<Self>, now: ironring_core::Now, event: Event<'_>) {
        let mut fx = self.effects.borrow_mut();
        self.shard.borrow_mut().handle(now, event, &mut fx);
        drop(fx);
        self.want_turn();
    }

    /// Looks at what somebody has published: the newest metadata, or that something waits on the board.
    pub fn take_news(self: &Rc<Self>) {
        if let Some(metadata) = self.mesh.take_metadata() {
            self.nodes.follow(&metadata);
            self.runtime.others_wait(metadata.members().count() > 1);
            self.handle(Event::Metadata(metadata));
        }
        for message in self.mesh.take_told() {
            self.nodes.hear(self, message);
        }
        self.nodes.poke();
    }

    /// Asks for a turn after the tasks that are ready.
    pub fn want_turn(&self) {
        if !self.turn_wanted.replace(true)
            && let Some(waker) = self.turn_waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// A connection has answers to write.
    pub fn mark_dirty(&self, conn: &Rc<ConnState>) {
        if !conn.dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(conn));
        }
    }

    /// Runs turns until the shard has stopped.
    pub async fn turns(self: Rc<Self>) {
        loop {
            std::future::poll_fn(|cx| {
                if self.turn_wanted.get() {
                    return Poll::Ready(());
                }
                *self.turn_waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            self.turn_wanted.set(false);
            let started_io = self.turn();
            if started_io {
                // The device works while the answers take their system calls.
                self.runtime.submit().await;
            }
            self.write_answers();
            self.nodes.peers.flush();
            if self.holds_group(clock::mono()) {
                // Nothing else tells the rounds, which may be about to sleep.
                self.poller.wake();
            }
        }
    }

    /// Whether the shard holds a group back for records about to come: the wait is far shorter than
    /// what the timer task can keep.
    pub fn holds_group(&self, now: Instant) -> bool {
        self.shard.borrow().holds_group(now)
    }

    /// Ends the turn in the shard and starts its I/O; true when there was some.
    fn turn(self: &Rc<Self>) -> bool {
        let mut fx = self.effects.borrow_mut();
        let connections = self.connection_bytes.get();
        let mut shard = self.shard.borrow_mut();
        shard.count_connections(connections);
        shard.count_inboxes(self.mesh.waiting_bytes());
        shard.handle(clock::now(), Event::TurnEnd, &mut fx);
        let bytes_max = shard.output_bytes_max();
        drop(shard);
        if !self.note_log() {
            // What the shard says waits: it must not be believed of a log that could be made anew.
            drop(fx);
            return self.start_all_io();
        }
        if fx.valid_until.take().is_some_and(|until| until <= clock::mono()) {
            fx.doubt();
        }
        // The turn may have finished what others wait for.
        next_receives(self);
        for (to, message) in fx.messages.drain(..) {
            self.mesh.send(to, message);
        }
        self.nodes.send(self, &mut fx);
        if fx.has_replies() {
            let now = clock::mono();
            let conns = self.conns.borrow();
            fx.take_replies(|id, frame| {
                // A connection that is gone takes no answers.
                if let Some(conn) = conns.get(&id) {
                    conn.protocol.borrow_mut().output().respond_frame(now, frame, bytes_max);
                    self.mark_dirty(conn);
                }
            });
        }
        for line in self.shard.borrow_mut().take_lines() {
            tracing::error!(shard = self.number, "{line}");
        }
        // A spawned task runs to its first wait at once, and an operation that never waits ends
        // in an event: nothing may be borrowed from here on.
        let (aside, no_more) =
            (std::mem::take(&mut fx.set_aside), std::mem::take(&mut fx.drop_aside));
        drop(fx);
        if aside {
            self.set_aside();
        }
        if no_more {
            self.drop_aside();
        }
        self.start_all_io()
    }

    /// Before anything the shard says leaves the node, that its log was made is durable. False: it is
    /// not, and the node is to stop.
    fn note_log(&self) -> bool {
        if self.log_was_made.get() || *self.shard.borrow().log().status() != LogStatus::Open {
            return true;
        }
        let noted = data_dir::note_made(self.files.dir());
        if let Err(error) = &noted {
            tracing::error!(shard = self.number, %error, "the log's mark cannot be written");
            self.shared.stop();
        }
        self.log_was_made.set(noted.is_ok());
        noted.is_ok()
    }

    /// The shard's log is lost: its files make way for a new one.
    fn set_aside(self: &Rc<Self>) {
        let failure = self.shard.borrow().failure().map_or_else(String::new, ToString::to_string);
        tracing::error!(shard = self.number, "{failure}; the log is rebuilt from other replicas");
        let me = Rc::clone(self);
        self.runtime.spawn(async move {
            match me.files.set_aside().await {
                Ok(()) => me.handle(Event::Start { format: true }),
                Err(error) => {
                    tracing::error!(shard = me.number, %error, "the log cannot be set aside");
                    me.handle(Event::NotSetAside);
                }
            }
        });
    }

    /// The new log is whole: the files of the lost one are not needed any more.
    fn drop_aside(&self) {
        let (shard, dir) = (self.number, self.files.dir().to_owned());
        tracing::info!(shard, "the log is rebuilt");
        // Deleting large files takes its time.
        std::thread::spawn(move || {
            if let Err(error) = data_dir::drop_aside(&dir) {
                tracing::error!(shard, %error, "the files of the lost log are not deleted");
            }
        });
    }

    /// Starts what has gathered of I/O in the middle of a round, when it is worth a submission. The
    /// turn has the last word for group commits only; reads that waited for the end of a long round
    /// would all be with the device at one time, and the processor idle then.
    pub fn start_io_early(self: &Rc<Self>) {
        if self.effects.borrow().io.len() >= EARLY_OPS && self.start_all_io() {
            self.runtime.drive();
        }
    }

    fn start_all_io(self: &Rc<Self>) -> bool {
        let mut started = false;
        loop {
            let next = self.effects.borrow_mut().io.pop();
            let Some(request) = next else { return started };
            started = true;
            self.start_io(request);
        }
    }

    fn start_io(self: &Rc<Self>, request: IoRequest) {
        let me = Rc::clone(self);
        me.io_in_flight.set(me.io_in_flight.get() + 1);
        self.runtime.spawn(async move {
            let result = me.files.execute(request.op).await;
            me.io_in_flight.set(me.io_in_flight.get() - 1);
            me.handle(Event::Io(IoDone { id: request.id, result }));
        });
    }

    fn write_answers(self: &Rc<Self>) {
        let mut dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        dirty.iter().for_each(|conn| conn.dirty.set(false));
        let now = clock::mono();
        if dirty.len() >= batch::WORTH_IT {
            let takes: Vec<_> = dirty.extract_if(.., |conn| conn.takes_answers()).collect();
            let mut results = Vec::with_capacity(takes.len().min(batch::TOGETHER));
            for together in takes.chunks(batch::TOGETHER) {
                self.send_together(together, &mut results);
                for (conn, result) in together.iter().zip(&results) {
                    conn.write(self, now, Some(*result));
                }
            }
        }
        for conn in dirty {
            conn.write(self, now, None);
        }
    }

    fn send_together(&self, conns: &[Rc<ConnState>], results: &mut Vec<nix::Result<usize>>) {
        let mut protocols: Vec<_> = conns.iter().map(|conn| conn.protocol.borrow_mut()).collect();
        let what: Vec<_> = (conns.iter().zip(&mut protocols))
            .map(|(conn, protocol)| (conn.socket(), protocol.output().bytes()))
            .collect();
        self.batch.send(&what, results);
    }

    /// Wakes the shard when its deadlines come, publishes counters, and notices a stop.
    /// Returns when the shard has stopped or failed.
    pub async fn timer(self: Rc<Self>) -> Phase {
        let mut publish_at = Instant(0);
        let mut stop_by: Option<Instant> = None;
        loop {
            let now = clock::now();
            if let Some(stall) = self.stalls.borrow_mut().wake(now.mono, ThreadUsage::read) {
                tracing::warn!(shard = self.number, "{stall}");
            }
            // What the kernel was too busy to take is offered again, though no socket is ready.
            self.runtime.drive();
            if self.shard.borrow().next_deadline().is_some_and(|at| at <= now.mono) {
                self.handle_at(now, Event::Timer);
            }
            if now.mono >= publish_at {
                self.publish();
                publish_at = now.mono + PUBLISH_EVERY;
            }
            self.expire_connections(now.mono);
            self.answer_probe(now);
            if self.shared.stop_wanted() && !self.stopping.replace(true) {
                stop_by = Some(now.mono + STOP_PATIENCE);
                self.handle_at(now, Event::Stop);
            }
            let phase = self.shard.borrow().phase();
            if phase == Phase::Failed {
                self.publish();
                return phase;
            }
            if phase == Phase::Stopped && self.io_in_flight.get() == 0 {
                let patience_over = stop_by.is_some_and(|by| now.mono >= by);
                if self.finish_connections() || patience_over {
                    self.publish();
                    return phase;
                }
            }
            let next = self.shard.borrow().next_deadline();
            let nap = next.map_or(TIMER_NAP, |at| at.since(now.mono).min(TIMER_NAP));
            let nap = nap.max(Duration::from_micros(200));
            self.stalls.borrow_mut().sleep(nap);
            self.runtime.sleep(nap).await;
        }
    }

    /// Tells every connection that the node stops; true when all of them are finished.
    fn finish_connections(self: &Rc<Self>) -> bool {
        let conns: Vec<Rc<ConnState>> = self.conns.borrow().values().cloned().collect();
        for conn in &conns {
            conn.protocol.borrow_mut().shut_down();
            self.mark_dirty(conn);
        }
        self.want_turn();
        conns.iter().all(|c| c.protocol.borrow().is_finished())
    }

    fn expire_connections(self: &Rc<Self>, now: Instant) {
        let due: Vec<Rc<ConnState>> = {
            let conns = self.conns.borrow();
            let timeouts = &self.shared.timeouts;
            let late = |c: &Connection| c.timeout_at(timeouts).is_some_and(|at| at <= now);
            let receive = self.receive.borrow();
            for conn in conns.values().filter(|conn| conn.holds_up(now, &receive)) {
                conn.protocol.borrow_mut().give_up();
            }
            let due = |c: &&Rc<ConnState>| {
                let protocol = c.protocol.borrow();
                protocol.close_reason().is_some() || (!c.waits_for_memory() && late(&protocol))
            };
            conns.values().filter(due).cloned().collect()
        };
        for conn in due {
            let reason = conn.protocol.borrow_mut().on_timeout(now, &self.shared.timeouts);
            if let Some(reason) = reason {
                tracing::debug!(conn = conn.id.0, %reason, "connection closed");
            }
            conn.settle(self);
        }
    }

    /// Passes a probe of readiness on to the shard, and its answer back.
    fn answer_probe(self: &Rc<Self>, now: ironring_core::Now) {
        let wanted = self.shared.probe_wanted.load(Ordering::Relaxed);
        if wanted > self.probe_seen.replace(wanted) {
            self.handle_at(now, Event::Probe { ticket: wanted });
        }
        let shard = self.shard.borrow();
        self.shared.sockets[usize::from(shard.id().0)]
            .probe_done
            .store(shard.probe_done(), Ordering::Relaxed);
    }

    fn publish(&self) {
        let mut snapshot = self.shard.borrow().snapshot();
        if let (0, Some(meta)) = (snapshot.shard, &self.shard.borrow().models().meta) {
            self.shared.topics.store(meta.topics().count() as u64, Ordering::Relaxed);
        }
        let conns = self.conns.borrow();
        snapshot.clients.connections = conns.len() as u64;
        snapshot.peers.connections = self.nodes.peers.links() as u64;
        (snapshot.peers.bytes_in, snapshot.peers.bytes_out) = self.nodes.peers.bytes();
        snapshot.clients.in_flight =
            conns.values().map(|c| u64::from(c.protocol.borrow_mut().output().in_flight())).sum();
        let (count, longest) = self.stalls.borrow().counted();
        snapshot.stalls = StallCounters { count, longest_seconds: longest.as_secs_f64() };
        let sockets = &self.shared.sockets[usize::from(snapshot.shard)];
        sockets.fill(&mut snapshot.clients);
        snapshot.clients.input_waits = self.receive.borrow().waits();
        self.shared.board.set_moves(snapshot.shard, self.shard.borrow().move_progress());
        let room = self.shard.borrow().room();
        self.shared.board.set_condition(snapshot.shard, room, snapshot.compare.undecided);
        self.shared.publish(snapshot);
        if self.receive.borrow().is_pressed(self.connection_bytes.get()) {
            // Those that do nothing hold memory as well.
            conns.values().for_each(|conn| conn.count_memory(self));
        }
        drop(conns);
        if let Some(seen) = self.shared.unaccounted_bytes() {
            self.shard.borrow_mut().leave_room(seen);
        }
    }
}
