//! The node's clocks: the only place they are read.

use ironring_core::{Instant, Now, WallTime};
use nix::time::{ClockId, clock_gettime};

/// Both clocks. CLOCK_BOOTTIME runs through suspend, so a lease or deadline cannot be stretched by
/// it. The wall clock is the coarse one: record times have millisecond resolution.
#[must_use]
pub fn now() -> Now {
    let wall =
        clock_gettime(ClockId::CLOCK_REALTIME_COARSE).expect("every supported kernel has it");
    Now {
        mono: mono(),
        wall: WallTime(wall.tv_sec() as u64 * 1000 + wall.tv_nsec() as u64 / 1_000_000),
    }
}

/// The clock that only runs on: cheaper than both.
#[must_use]
pub fn mono() -> Instant {
    let mono = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every supported kernel has it");
    Instant(mono.tv_sec() as u64 * 1_000_000_000 + mono.tv_nsec() as u64)
}
