//! Notices that a shard's tasks did not run for long, and says what its thread did meanwhile.
//!
//! Whatever holds a shard up, clients and other nodes wait for it; a node that is silent for
//! `controller.leader_timeout_ms` loses what it leads. The kernel's counters of the thread tell the
//! reasons apart: it computed; memory it needed was not there; others had its processor; or else it
//! waited inside a system call, or the whole machine stood still.

use std::fmt;
use std::time::Duration;

use ironring_core::Instant;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// A timer that is so late is worth a line in the log.
pub const LATE: Duration = Duration::from_millis(200);
/// The counters are read at most this often: two calls, and a file that the kernel makes up.
const READ_EVERY: Duration = Duration::from_millis(20);

/// The thread, as the kernel has counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// Processor time it took.
    pub cpu: Duration,
    /// Pages it waited for until they came from a disk.
    pub major_faults: u64,
    /// Time it was ready to run, and others had its processor. Zero where the kernel does not count it.
    pub ready: Duration,
    /// Times its processor was given to others though it had more to do; also when it offered it.
    pub preempted: u64,
    /// Times it waited in the kernel.
    pub waited: u64,
}

impl ThreadUsage {
    /// Of the thread that asks. All zero when the kernel does not tell.
    #[must_use]
    pub fn read() -> ThreadUsage {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else { return ThreadUsage::default() };
        let micros = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        let cpu = micros(usage.user_time()) + micros(usage.system_time());
        ThreadUsage {
            cpu: Duration::from_micros(count(cpu)),
            major_faults: count(usage.major_page_faults()),
            ready: ready().unwrap_or_default(),
            preempted: count(usage.involuntary_context_switches()),
            waited: count(usage.voluntary_context_switches()),
        }
    }

    fn since(self, before: ThreadUsage) -> ThreadUsage {
        ThreadUsage {
            cpu: self.cpu.saturating_sub(before.cpu),
            major_faults: self.major_faults.saturating_sub(before.major_faults),
            ready: self.ready.saturating_sub(before.ready),
            preempted: self.preempted.saturating_sub(before.preempted),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// How long this thread was ready to run without a processor, of all its life.
fn ready() -> Option<Duration> {
    let all = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = all.split_whitespace().nth(1)?;
    Some(Duration::from_nanos(nanos.parse().ok()?))
}

/// A time in which a shard's tasks did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// How late the timer was.
    pub late: Duration,
    /// What the thread did since the counters were read last: when the timer went off before, or
    /// less than 20 ms earlier.
    pub did: ThreadUsage,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ThreadUsage { cpu, major_faults, ready, preempted, waited } = self.did;
        write!(
            f,
            "held up for {} ms: {} ms of processor time, {} ms ready without a processor \
             ({preempted} times), {major_faults} pages read from a disk, {waited} waits in the kernel",
            self.late.as_millis(),
            cpu.as_millis(),
            ready.as_millis(),
        )
    }
}

/// The stalls of one shard. Its timer goes round: it wakes, works, and sleeps for a nap.
#[derive(Debug, Default)]
pub struct Stalls {
    woke_at: Option<Instant>,
    nap: Duration,
    read_at: Option<Instant>,
    usage: ThreadUsage,
    count: u64,
    longest: Duration,
}

impl Stalls {
    /// The timer has gone off; the stall, when that is very late. Counted from when it went off
    /// before: work of the timer's own that takes long holds the shard's tasks up as well.
    pub fn wake(&mut self, now: Instant, usage: impl FnOnce() -> ThreadUsage) -> Option<Stall> {
        let due = self.woke_at.replace(now).map(|at| at + self.nap);
        let late = due.map_or(Duration::ZERO, |due| now.since(due));
        let stalled = late >= LATE;
        if !stalled && self.read_at.is_some_and(|at| now.since(at) < READ_EVERY) {
            return None;
        }
        self.read_at = Some(now);
        let before = std::mem::replace(&mut self.usage, usage());
        stalled.then(|| {
            self.count += 1;
            self.longest = self.longest.max(late);
            Stall { late, did: self.usage.since(before) }
        })
    }

    /// The timer is set to go off after `nap`.
    pub fn sleep(&mut self, nap: Duration) {
        self.nap = nap;
    }

    /// How many there were, and the longest.
    #[must_use]
    pub fn counted(&self) -> (u64, Duration) {
        (self.count, self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(0) + Duration::from_millis(ms)
    }

    fn used(cpu_ms: u64, major_faults: u64) -> ThreadUsage {
        let cpu = Duration::from_millis(cpu_ms);
        let ready = 3 * cpu;
        ThreadUsage { cpu, major_faults, ready, preempted: 3, waited: 4 }
    }

    #[test]
    fn only_a_timer_that_is_very_late_is_a_stall() {
        let mut stalls = Stalls::default();
        assert_eq!(stalls.wake(at(5_000), || used(2, 0)), None, "it was never set");
        stalls.sleep(Duration::from_millis(20));
        assert_eq!(stalls.wake(at(5_219), || used(7, 1)), None);
        // Read a moment ago: what was read then is what counts.
        stalls.sleep(Duration::from_millis(10));
        assert_eq!(stalls.wake(at(5_229), || panic!("too often")), None);
        stalls.sleep(Duration::from_millis(20));
        let stall = stalls.wake(at(5_849), || used(12, 41)).expect("it was late");
        let late = Duration::from_millis(600);
        let did = ThreadUsage {
            cpu: Duration::from_millis(5),
            major_faults: 40,
            ready: Duration::from_millis(15),
            preempted: 0,
            waited: 0,
        };
        assert_eq!(stall, Stall { late, did });
        assert_eq!(stalls.counted(), (1, late));
        assert_eq!(
            stall.to_string(),
            "held up for 600 ms: 5 ms of processor time, 15 ms ready without a processor (0 times), \
             40 pages read from a disk, 0 waits in the kernel"
        );
    }

    #[test]
    fn time_that_passes_before_the_timer_is_set_again_counts() {
        let mut stalls = Stalls::default();
        assert_eq!(stalls.wake(at(0), || used(0, 0)), None);
        // The thread stood still here, between its work and this.
        stalls.sleep(Duration::from_millis(20));
        let stall = stalls.wake(at(1_020), || used(1, 0)).expect("it was late");
        assert_eq!(stall.late, Duration::from_secs(1));
    }

    #[test]
    fn the_kernel_counts_this_thread() {
        let before = ThreadUsage::read();
        // Ends when the kernel has counted some of it.
        while ThreadUsage::read().since(before).cpu.is_zero() {
            std::hint::black_box((0..1000_u64).sum::<u64>());
        }
        assert!(ThreadUsage::read().cpu > before.cpu);
    }
}
