//! Whether the generator, rather than the server, limited a result.

use serde::{Deserialize, Serialize};

use crate::engine::ThreadUse;
use crate::latency::Latency;
use crate::units::show_ns;

/// A sleeping generator thread that uses more of its CPU than this may have been the bottleneck.
pub const CPU_SHARE_MAX: f64 = 0.90;
/// A thread that waited for a CPU for more of the time than this was disturbed.
pub const WAIT_SHARE_MAX: f64 = 0.05;
/// Send lag below this is never held against a result.
pub const LAG_P99_FLOOR_NS: u64 = 100_000;
/// Send lag may be this part of the latency that was measured.
pub const LAG_SHARE_MAX: f64 = 0.10;
/// A schedule is kept when at least this part of it was answered in time.
pub const ACHIEVED_MIN: f64 = 0.99;

/// The generator's view of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfCheck {
    /// Share of its CPU the busiest thread used.
    pub cpu_share: f64,
    /// Whether threads busy-waited, so that the share says nothing.
    pub spinning: bool,
    /// Share of the time the most disturbed thread waited for a CPU, where the kernel tells.
    pub wait_share: Option<f64>,
    /// Generator CPU per reply, in microseconds.
    pub cpu_us_per_op: f64,
    /// How late requests were sent although a connection had room; open loop only.
    pub lag: Option<Latency>,
    /// Reasons to believe the generator was the limit. None: the result is clean.
    pub bottleneck: Vec<String>,
    /// What else a reader must know: the server did not do all that was asked.
    pub caveats: Vec<String>,
}

/// What the judgement rests on.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// Each thread's use of its CPU.
    pub threads: &'a [ThreadUse],
    /// Whether threads busy-waited.
    pub spinning: bool,
    /// Send lag of an open loop.
    pub lag: Option<Latency>,
    /// Latency from the intended time, or the service time in a closed loop.
    pub p99_ns: u64,
    /// Replies inside the window.
    pub completed: u64,
    /// Requests the schedule asked for inside the window; 0 in a closed loop.
    pub scheduled: u64,
    /// Scheduled requests never sent.
    pub sheds: u64,
    /// Requests without a reply in time.
    pub timeouts: u64,
    /// Requests the server refused.
    pub refused: u64,
}

impl SelfCheck {
    /// Whether the generator was not the bottleneck.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.bottleneck.is_empty()
    }

    /// Judges a run.
    #[must_use]
    pub fn of(evidence: Evidence<'_>) -> SelfCheck {
        let share = |part_ns: u64, used: &ThreadUse| part_ns as f64 / used.wall_ns.max(1) as f64;
        let largest = |shares: &mut dyn Iterator<Item = f64>| shares.fold(0.0, f64::max);
        let threads = evidence.threads;
        let cpu_share = largest(&mut threads.iter().map(|t| share(t.times.cpu_ns, t)));
        let waits: Option<Vec<f64>> =
            threads.iter().map(|t| t.times.wait_ns.map(|wait| share(wait, t))).collect();
        let cpu_ns: u64 = threads.iter().map(|t| t.times.cpu_ns).sum();
        let mut check = SelfCheck {
            cpu_share,
            spinning: evidence.spinning,
            wait_share: waits.map(|waits| largest(&mut waits.into_iter())),
            cpu_us_per_op: cpu_ns as f64 / 1e3 / evidence.completed.max(1) as f64,
            lag: evidence.lag.clone(),
            bottleneck: Vec::new(),
            caveats: caveats(&evidence),
        };
        check.bottleneck = check.judge(evidence.p99_ns);
        check
    }

    fn judge(&self, p99_ns: u64) -> Vec<String> {
        let mut found = Vec::new();
        if !self.spinning && self.cpu_share > CPU_SHARE_MAX {
            found.push(format!(
                "a generator thread used {:.0} % of its CPU: add threads or lower the load",
                self.cpu_share * 100.0
            ));
        }
        if let Some(wait_share) = self.wait_share.filter(|share| *share > WAIT_SHARE_MAX) {
            found.push(format!(
                "a generator thread waited {:.0} % of the time for a CPU others used: pin it to \
                 an idle one",
                wait_share * 100.0
            ));
        }
        if let Some(lag) = &self.lag {
            let allowed = (p99_ns as f64 * LAG_SHARE_MAX) as u64;
            if lag.p99_ns > allowed.max(LAG_P99_FLOOR_NS) {
                found.push(format!(
                    "1 % of the requests were sent {} late or later, with a p99 latency of {}: \
                     use --spin, more threads or a lower rate",
                    show_ns(lag.p99_ns),
                    show_ns(p99_ns)
                ));
            }
        }
        found
    }
}

fn caveats(evidence: &Evidence<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut count = |number: u64, what: &str| {
        if number > 0 {
            found.push(format!("{number} {what}"));
        }
    };
    count(evidence.sheds, "scheduled requests were never sent: every connection stayed full");
    count(evidence.timeouts, "requests timed out");
    count(evidence.refused, "requests were refused");
    let achieved = evidence.completed as f64 / evidence.scheduled as f64;
    if evidence.scheduled > 0 && achieved < ACHIEVED_MIN {
        found.push(format!(
            "only {:.1} % of the scheduled rate was reached: percentiles describe an overload",
            achieved * 100.0
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::system::ThreadTimes;

    const WALL_NS: u64 = 1_000_000_000;

    fn used(cpu: f64, wait: Option<f64>) -> ThreadUse {
        let part = |share: f64| (share * WALL_NS as f64) as u64;
        ThreadUse {
            wall_ns: WALL_NS,
            times: ThreadTimes { cpu_ns: part(cpu), wait_ns: wait.map(part) },
        }
    }

    fn evidence(threads: &[ThreadUse]) -> Evidence<'_> {
        Evidence {
            threads,
            spinning: false,
            lag: None,
            p99_ns: 1_000_000,
            completed: 1000,
            scheduled: 0,
            sheds: 0,
            timeouts: 0,
            refused: 0,
        }
    }

    fn lag(ns: u64) -> Option<Latency> {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        histogram.record_n(ns, 100).unwrap();
        Latency::of(&histogram)
    }

    #[test]
    fn a_quiet_generator_gives_a_clean_result() {
        let threads = [used(0.5, Some(0.01)), used(0.3, Some(0.0))];
        let check = SelfCheck::of(evidence(&threads));
        assert!(check.is_clean() && check.caveats.is_empty());
        assert!((check.cpu_share - 0.5).abs() < 1e-9, "the busiest thread counts");
        assert!((check.cpu_us_per_op - 800.0).abs() < 1e-6);
    }

    #[test]
    fn one_saturated_thread_is_enough_to_spoil_a_result_unless_it_spins() {
        let threads = [used(0.2, None), used(0.95, None)];
        assert!(!SelfCheck::of(evidence(&threads)).is_clean());
        let spinning = Evidence { spinning: true, ..evidence(&threads) };
        assert!(SelfCheck::of(spinning).is_clean());
    }

    #[test]
    fn a_stolen_cpu_spoils_a_result_and_unknown_waiting_does_not() {
        assert!(!SelfCheck::of(evidence(&[used(0.2, Some(0.2))])).is_clean());
        let unknown = SelfCheck::of(evidence(&[used(0.2, None)]));
        assert!(unknown.is_clean() && unknown.wait_share.is_none());
    }

    #[test]
    fn lag_counts_against_the_latency_it_is_part_of() {
        let threads = [used(0.1, None)];
        let with = |lag_ns, p99_ns| {
            SelfCheck::of(Evidence { lag: lag(lag_ns), p99_ns, ..evidence(&threads) }).is_clean()
        };
        assert!(with(90_000, 100_000), "below the floor");
        assert!(!with(200_000, 1_000_000), "a fifth of the p99");
        assert!(with(200_000, 10_000_000), "a fiftieth of the p99");
    }

    #[test]
    fn what_the_server_did_not_do_is_said_but_is_not_the_generators_fault() {
        let threads = [used(0.1, None)];
        let check = SelfCheck::of(Evidence {
            sheds: 3,
            timeouts: 2,
            refused: 1,
            scheduled: 2000,
            ..evidence(&threads)
        });
        assert!(check.is_clean());
        assert_eq!(check.caveats.len(), 4, "{:?}", check.caveats);
        assert!(check.caveats[3].contains("50.0 %"));
    }
}
