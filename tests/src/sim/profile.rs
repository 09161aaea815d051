//! What a simulation is about: which load, which faults, how lives end.

use ironring_core::prng::Prng;
use ironring_core::{ErrorCode, Instant};

use crate::sim::disk::faults::{Fault, FaultPlan};
use crate::sim::workload::{Load, Mix};

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing: the load alone.
    Calm,
    /// The process is killed and the machine loses power.
    Crash,
    /// Crashes, and operations that fail loudly.
    DiskFaults,
    /// Crashes, and bytes that change silently.
    Corruption,
    /// Crashes on a disk that is nearly full.
    Full,
}

impl Trouble {
    /// Every kind, by the name of its profile.
    pub const ALL: [(&'static str, Trouble); 5] = [
        ("calm", Trouble::Calm),
        ("crash", Trouble::Crash),
        ("disk-faults", Trouble::DiskFaults),
        ("corruption", Trouble::Corruption),
        ("full", Trouble::Full),
    ];

    /// The kind a profile's name stands for.
    #[must_use]
    pub fn named(name: &str) -> Option<Trouble> {
        Trouble::ALL.iter().find(|(known, _)| *known == name).map(|(_, trouble)| *trouble)
    }
}

/// The settings of one run.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// What goes wrong.
    pub trouble: Trouble,
    /// What clients do.
    pub load: Load,
    /// How many fresh requests all clients send together.
    pub requests: u32,
    /// Lives that end in a crash, at most.
    pub crashes_max: u32,
    /// Share of crashes that are power failures, in percent; the others kill the process.
    pub power_loss_percent: u64,
    /// Bytes each shard's device holds.
    pub disk_bytes: u64,
    /// One request in so many breaks its client's connection afterwards; 0: none.
    pub disconnect_one_in: u64,
    /// What the disk does wrong.
    pub faults: FaultPlan,
    /// One sealed moment in so many flips a bit on the medium, in millionths per request.
    pub decay_per_million: u64,
}

impl Profile {
    /// The settings of one seed: every seed has its own sizes and rates.
    #[must_use]
    pub fn draw(trouble: Trouble, mut mix: Mix, disk_bytes: u64, rng: &mut Prng) -> Profile {
        // A third of the runs overwrite large values: segments fill, and compaction has work.
        let bulky = rng.chance(1, 3);
        if bulky {
            mix.put_large *= 8;
        }
        let load = Load {
            clients: 1 + rng.below(6) as u32,
            depth: 1 + rng.below(12) as u32,
            keys: 1 << (2 + rng.below(if bulky { 4 } else { 6 })),
            topics: u32::from(mix.append > 0) * (1 + rng.below(2) as u32),
            mix,
            async_percent: [0, 0, 10, 50][rng.below(4) as usize],
            large_bytes_max: if bulky { 64 << 10 } else { 8 << rng.below(14) },
            chunked_bytes_max: 1 << 20,
        };
        let crashes_max = if trouble == Trouble::Calm { 0 } else { 1 + rng.below(4) as u32 };
        Profile {
            trouble,
            load,
            requests: 30 << rng.below(if bulky { 7 } else { 5 }),
            crashes_max,
            power_loss_percent: 60,
            disk_bytes,
            disconnect_one_in: [0, 40][rng.below(2) as usize],
            faults: faults(trouble, rng),
            decay_per_million: if trouble == Trouble::Corruption { 2_000 } else { 0 },
        }
    }

    /// Error codes that need no explanation in such a run.
    #[must_use]
    pub fn tolerated(&self) -> Vec<ErrorCode> {
        let mut codes = vec![
            ErrorCode::Overloaded,
            ErrorCode::NotReady,
            // A partition begins its term when there is space for it.
            ErrorCode::NotLeader,
            ErrorCode::DeadlineExceeded,
            ErrorCode::Unknown,
        ];
        match self.trouble {
            Trouble::Calm | Trouble::Crash => {}
            Trouble::DiskFaults => {
                codes.extend([ErrorCode::ShardFenced, ErrorCode::NoSpace, ErrorCode::Corrupt]);
            }
            Trouble::Corruption => codes.extend([ErrorCode::ShardFenced, ErrorCode::Corrupt]),
            // Without space a log is not even made.
            Trouble::Full => codes.extend([ErrorCode::NoSpace, ErrorCode::ShardFenced]),
        }
        codes
    }
}

fn faults(trouble: Trouble, rng: &mut Prng) -> FaultPlan {
    let mut plan = FaultPlan { until: Instant(u64::MAX), per_life_max: 1, ..FaultPlan::none() };
    match trouble {
        Trouble::Calm => {}
        Trouble::Crash => plan = plan.with(Fault::SlowSync, 200),
        Trouble::Full => plan = plan.with(Fault::NoSpace, 20_000).with(Fault::SlowSync, 200),
        Trouble::DiskFaults => {
            plan.per_life_max = 1 + rng.below(3) as u32;
            let loud = [
                (Fault::ReadError, 3_000),
                (Fault::WriteError, 1_500),
                (Fault::SyncError, 3_000),
                (Fault::ShortRead, 2_000),
                (Fault::ShortWrite, 1_000),
                (Fault::NoSpace, 5_000),
                (Fault::SlowSync, 500),
                (Fault::ReadFlip, 2_000),
            ];
            for (fault, rate) in loud {
                if rng.chance(1, 2) {
                    plan = plan.with(fault, rate);
                }
            }
        }
        Trouble::Corruption => {
            let silent = [Fault::MediaFlip, Fault::Misdirected, Fault::LostWrite];
            let one = silent[rng.below(3) as usize];
            plan = plan.with(one, 2_000 << rng.below(3));
        }
    }
    plan
}
