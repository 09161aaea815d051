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
    /// What the thread did since the counters were read last, at most 20 ms before it was due.
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

/// The stalls of one shard.
#[derive(Debug, Default)]
pub struct Stalls {
    due: Option<Instant>,
    read_at: Option<Instant>,
    usage: ThreadUsage,
    count: u64,
    longest: Duration,
}

impl Stalls {
    /// The timer is set to go off at `due`.
    pub fn expect(&mut self, now: Instant, due: Instant, usage: impl FnOnce() -> ThreadUsage) {
        self.due = Some(due);
        if self.read_at.is_none_or(|at| now.since(at) >= READ_EVERY) {
            self.read_at = Some(now);
            self.usage = usage();
        }
    }

    /// The timer has gone off; the stall, when it was very late.
    pub fn wake(&mut self, now: Instant, usage: impl FnOnce() -> ThreadUsage) -> Option<Stall> {
        let late = now.since(self.due.take()?);
        if late < LATE {
            return None;
        }
        self.count += 1;
        self.longest = self.longest.max(late);
        let before = std::mem::replace(&mut self.usage, usage());
        self.read_at = Some(now);
        Some(Stall { late, did: self.usage.since(before) })
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
        assert_eq!(stalls.wake(at(5_000), || used(0, 0)), None, "none was set");
        stalls.expect(at(0), at(20), || used(7, 1));
        assert_eq!(stalls.wake(at(219), || panic!("nobody asks")), None);
        // Read a moment ago: what was read then is what counts.
        stalls.expect(at(10), at(30), || panic!("too often"));
        let stall = stalls.wake(at(630), || used(12, 41)).expect("it was late");
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
        assert_eq!(stalls.wake(at(9_000), || used(0, 0)), None, "it is not set");
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
