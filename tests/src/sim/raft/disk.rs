//! A directory of the metadata group on a simulated disk.
//!
//! Files of the log are on a [`SimDisk`]. Of other files, what was written is durable when the write
//! ends, and names when the directory is synced; at a power failure every name is what it was at the
//! last sync or what it became since, each on its own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use ironring_core::io::{BufAlloc, HeapAlloc, IoError, IoOk, IoOp, IoRequest, OpId};
use ironring_core::prng::Prng;
use ironring_node::raft::host::Host;
use ironring_node::raft::{Done, RaftDisk};
use tokio::sync::Notify;

use super::virtual_time::VirtualTime;
use crate::sim::disk::faults::FaultPlan;
use crate::sim::disk::{Latency, SimDisk};

type Names = BTreeMap<String, Rc<Vec<u8>>>;

/// One node's directory; outlives the node.
pub struct NodeDisk {
    time: VirtualTime,
    log: RefCell<SimDisk>,
    live: RefCell<Names>,
    durable: RefCell<Names>,
    rng: RefCell<Prng>,
    effects: Cell<u64>,
    /// Power fails when so many effects have begun.
    fails_at: Cell<u64>,
    failed: Notify,
    broken: Cell<bool>,
    full: Cell<bool>,
}

impl NodeDisk {
    /// An empty directory.
    #[must_use]
    pub fn new(time: VirtualTime, seed: u64) -> Rc<NodeDisk> {
        let latency = Latency { stall_one_in: 2000, ..Latency::default() };
        Rc::new(NodeDisk {
            time,
            log: RefCell::new(SimDisk::new(seed, 1 << 30, latency, FaultPlan::none())),
            live: RefCell::default(),
            durable: RefCell::default(),
            rng: RefCell::new(Prng::new(seed ^ 0x5EED)),
            effects: Cell::new(0),
            fails_at: Cell::new(u64::MAX),
            failed: Notify::new(),
            broken: Cell::new(false),
            full: Cell::new(false),
        })
    }

    /// Effects so far: operations that change something.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.effects.get()
    }

    /// Power fails at the `n`th effect from here on: it and everything behind it never ends.
    pub fn fail_power_at(&self, n: u64) {
        self.fails_at.set(self.effects.get() + n);
    }

    /// Waits until power has failed.
    pub async fn power_failed(&self) {
        while self.effects.get() < self.fails_at.get() {
            self.failed.notified().await;
        }
    }

    /// Every operation fails from here on.
    pub fn break_down(&self) {
        self.broken.set(true);
    }

    /// Whether there is room for files that are no log's; it stays so over a power failure.
    pub fn fill(&self, full: bool) {
        self.full.set(full);
    }

    /// Names of all files that are no log's.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.live.borrow().keys().cloned().collect()
    }

    /// The node is dead, and the machine was without power.
    pub fn power_loss(&self) {
        self.fails_at.set(u64::MAX);
        self.broken.set(false);
        self.log.borrow_mut().power_loss();
        let (live, durable) = (self.live.take(), self.durable.take());
        let names: BTreeSet<String> = live.keys().chain(durable.keys()).cloned().collect();
        let mut rng = self.rng.borrow_mut();
        let left: Names = names
            .into_iter()
            .filter_map(|name| {
                let side = if rng.chance(1, 2) { &live } else { &durable };
                let bytes = side.get(&name).cloned()?;
                Some((name, bytes))
            })
            .collect();
        *self.live.borrow_mut() = left.clone();
        *self.durable.borrow_mut() = left;
    }

    /// Names of snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Vec<String> {
        self.live.borrow().keys().filter(|name| name.ends_with(".snap")).cloned().collect()
    }

    /// Changes a byte of a file that is no log's, durably.
    pub fn damage(&self, name: &str, at: usize) {
        for side in [&self.live, &self.durable] {
            if let Some(bytes) = side.borrow_mut().get_mut(name) {
                let mut changed = bytes.to_vec();
                changed[at] ^= 0x40;
                *bytes = Rc::new(changed);
            }
        }
    }

    /// Ways in which the log broke the rules of the seam.
    #[must_use]
    pub fn misuse(&self) -> Vec<String> {
        self.log.borrow().misuse.clone()
    }

    /// An effect begins: it may be the one at which power fails.
    async fn effect(&self) -> Result<(), IoError> {
        self.effects.set(self.effects.get() + 1);
        self.gone().await;
        if self.broken.get() {
            return Err(IoError::Os { errno: 5, message: "input/output error".to_owned() });
        }
        Ok(())
    }

    /// Never ends once power has failed.
    async fn gone(&self) {
        if self.effects.get() >= self.fails_at.get() {
            self.failed.notify_one();
            future::pending::<()>().await;
        }
    }

    async fn work(&self) {
        let micros = 50 + self.rng.borrow_mut().below(400);
        self.time.sleep(Duration::from_micros(micros)).await;
        self.gone().await;
    }
}

/// A node's hold on its directory.
pub struct DiskHandle(pub Rc<NodeDisk>);

impl RaftDisk for DiskHandle {
    fn execute(&self, op: IoOp) -> Done<'_, IoOk> {
        Box::pin(async move {
            let disk = &self.0;
            if !matches!(op, IoOp::List | IoOp::Open { .. } | IoOp::ReadAt { .. }) {
                disk.effect().await?;
            }
            let request = IoRequest { id: OpId(0), op };
            let (due, ticket) = disk.log.borrow_mut().submit(disk.time.now(), request);
            disk.time.sleep(due.since(disk.time.now())).await;
            disk.gone().await;
            let done = disk.log.borrow_mut().complete(ticket);
            done.result
        })
    }

    fn names(&self) -> Done<'_, Vec<String>> {
        Box::pin(async { Ok(self.0.live.borrow().keys().cloned().collect()) })
    }

    fn write(&self, name: String, bytes: Vec<u8>) -> Done<'_, ()> {
        Box::pin(async move {
            self.0.effect().await?;
            // What is there while it is written: any part of it.
            let part = self.0.rng.borrow_mut().below(bytes.len() as u64 + 1) as usize;
            let torn = Rc::new(bytes[..part].to_vec());
            self.0.live.borrow_mut().insert(name.clone(), torn);
            self.0.work().await;
            if self.0.full.get() {
                return Err(IoError::NoSpace);
            }
            self.0.live.borrow_mut().insert(name, Rc::new(bytes));
            Ok(())
        })
    }

    fn read(&self, name: String) -> Done<'_, Vec<u8>> {
        Box::pin(async move {
            self.0.work().await;
            let live = self.0.live.borrow();
            live.get(&name).map(|bytes| bytes.to_vec()).ok_or(IoError::NotFound)
        })
    }

    fn rename(&self, from: String, to: String) -> Done<'_, ()> {
        Box::pin(async move {
            self.0.effect().await?;
            let mut live = self.0.live.borrow_mut();
            let bytes = live.remove(&from).ok_or(IoError::NotFound)?;
            live.insert(to, bytes);
            Ok(())
        })
    }

    fn remove(&self, name: String) -> Done<'_, ()> {
        Box::pin(async move {
            self.0.effect().await?;
            self.0.live.borrow_mut().remove(&name).map(|_| ()).ok_or(IoError::NotFound)
        })
    }

    fn sync_dir(&self) -> Done<'_, ()> {
        Box::pin(async move {
            self.0.effect().await?;
            self.0.work().await;
            *self.0.durable.borrow_mut() = self.0.live.borrow().clone();
            Ok(())
        })
    }

    fn alloc(&self) -> Box<dyn BufAlloc> {
        Box::new(HeapAlloc)
    }
}
