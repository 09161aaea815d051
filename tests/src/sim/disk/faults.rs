//! What goes wrong with a simulated disk, how often, and a record of each time it did.

use ironring_core::io::FileName;
use ironring_core::prng::Prng;
use ironring_core::{FilePos, Instant};

/// A way for a disk to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Fault {
    /// A read fails with EIO; the next one may succeed.
    ReadError,
    /// A write fails with EIO and leaves its range undefined.
    WriteError,
    /// A sync fails with EIO and drops what it was to make durable.
    SyncError,
    /// A read ends early.
    ShortRead,
    /// A write ends early.
    ShortWrite,
    /// An allocating operation finds the device full although it is not.
    NoSpace,
    /// A sync or durable write takes seconds.
    SlowSync,
    /// A read returns one wrong bit; the medium is intact.
    ReadFlip,
    /// One bit changes on the medium.
    MediaFlip,
    /// A write lands at another place, and is acknowledged.
    Misdirected,
    /// A write is acknowledged and does not happen.
    LostWrite,
}

impl Fault {
    /// Every fault, in order of number.
    pub const ALL: [Fault; 11] = [
        Fault::ReadError,
        Fault::WriteError,
        Fault::SyncError,
        Fault::ShortRead,
        Fault::ShortWrite,
        Fault::NoSpace,
        Fault::SlowSync,
        Fault::ReadFlip,
        Fault::MediaFlip,
        Fault::Misdirected,
        Fault::LostWrite,
    ];

    /// Name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::ReadError => "read_error",
            Fault::WriteError => "write_error",
            Fault::SyncError => "sync_error",
            Fault::ShortRead => "short_read",
            Fault::ShortWrite => "short_write",
            Fault::NoSpace => "no_space",
            Fault::SlowSync => "slow_sync",
            Fault::ReadFlip => "read_flip",
            Fault::MediaFlip => "media_flip",
            Fault::Misdirected => "misdirected_write",
            Fault::LostWrite => "lost_write",
        }
    }

    /// True when stored bytes change without an error: acknowledged data may be gone, and the only
    /// thing left to ask is that this is noticed.
    #[must_use]
    pub fn is_silent(self) -> bool {
        matches!(self, Fault::MediaFlip | Fault::Misdirected | Fault::LostWrite)
    }
}

/// When a fault may happen, and how many times at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    /// Chance per eligible operation, in millionths, by [`Fault`] number.
    pub per_million: [u32; Fault::ALL.len()],
    /// At most this many faults in one life of the process (slow syncs not counted).
    pub per_life_max: u32,
    /// No faults after this time, so that a run can end and be audited.
    pub until: Instant,
}

impl FaultPlan {
    /// No fault ever.
    #[must_use]
    pub fn none() -> FaultPlan {
        FaultPlan::default()
    }

    /// The same plan with one more fault.
    #[must_use]
    pub fn with(mut self, fault: Fault, per_million: u32) -> FaultPlan {
        self.per_million[fault as usize] = per_million;
        self
    }
}

/// A fault that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// When the operation was submitted.
    pub at: Instant,
    /// What went wrong.
    pub fault: Fault,
    /// The file, when the fault concerns one.
    pub file: Option<FileName>,
    /// First byte concerned.
    pub pos: FilePos,
    /// Where a misdirected write landed.
    pub landed: Option<(FileName, FilePos)>,
}

/// Draws faults by plan and remembers them.
#[derive(Clone, Debug)]
pub struct Faults {
    /// What may happen; a test may change it at any time.
    pub plan: FaultPlan,
    /// Everything that happened, in order.
    pub injected: Vec<Injected>,
    this_life: u32,
    rng: Prng,
}

impl Faults {
    /// Faults by `plan`, drawn from `seed`.
    #[must_use]
    pub fn new(plan: FaultPlan, seed: u64) -> Faults {
        Faults { plan, injected: Vec::new(), this_life: 0, rng: Prng::new(seed) }
    }

    /// The budget of the next life begins.
    pub fn restart(&mut self) {
        self.this_life = 0;
    }

    /// Which of `candidates`, if any, hits this operation.
    pub fn draw(&mut self, now: Instant, candidates: &[Fault]) -> Option<Fault> {
        if now > self.plan.until {
            return None;
        }
        for &fault in candidates {
            let rate = self.plan.per_million[fault as usize];
            if rate == 0 || !self.rng.chance(u64::from(rate), 1_000_000) {
                continue;
            }
            if fault != Fault::SlowSync {
                if self.this_life >= self.plan.per_life_max {
                    continue;
                }
                self.this_life += 1;
            }
            return Some(fault);
        }
        None
    }

    /// Remembers a fault that happened.
    pub fn record(&mut self, at: Instant, fault: Fault, file: Option<FileName>, pos: FilePos) {
        self.injected.push(Injected { at, fault, file, pos, landed: None });
    }

    /// How often a fault happened.
    #[must_use]
    pub fn count(&self, fault: Fault) -> u64 {
        self.injected.iter().filter(|i| i.fault == fault).count() as u64
    }

    /// True when stored bytes were damaged silently.
    #[must_use]
    pub fn any_silent(&self) -> bool {
        self.injected.iter().any(|i| i.fault.is_silent())
    }
}
