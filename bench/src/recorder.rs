//! What one generator thread saw: latencies, counts, and their course over time.
//!
//! A request belongs to the measurement when its base time (the intended send time in an open
//! loop, the send time in a closed one) lies in the window, whenever its reply comes. Throughput
//! counts the replies that came inside the window. Refused requests are counted apart and have no
//! latency: a fast refusal must not improve a percentile. Requests that timed out or were shed do
//! have one, the time somebody waited in vain.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::lane::Pending;
use crate::units;
use crate::workload::OpKind;

/// Significant digits of the latency histograms.
const DIGITS: u8 = 3;
/// Significant digits of the per-interval histograms, of which there are many.
const INTERVAL_DIGITS: u8 = 2;
/// Latencies up to this are recorded as they are, longer ones as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// Most intervals of the course over time.
const INTERVALS_MAX: u64 = 240;
/// Shortest interval.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Most different reasons of refusal that are told apart.
const REASONS_MAX: usize = 32;

/// The measured time, on the run's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First nanosecond.
    pub start_ns: u64,
    /// One past the last.
    pub end_ns: u64,
}

impl Window {
    /// Whether `at_ns` lies inside.
    #[must_use]
    pub fn contains(&self, at_ns: u64) -> bool {
        at_ns >= self.start_ns && at_ns < self.end_ns
    }

    /// Its length.
    #[must_use]
    pub fn length_ns(&self) -> u64 {
        self.end_ns - self.start_ns
    }

    /// Length of the intervals it is cut into.
    #[must_use]
    pub fn interval_ns(&self) -> u64 {
        self.length_ns().div_ceil(INTERVALS_MAX).max(units::ns(INTERVAL_MIN))
    }
}

/// How a reply is to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Done.
    Ok,
    /// Done; there is no such key.
    Missing,
    /// Not done, for this reason.
    Refused(&'a str),
}

/// Latencies of one kind of operation.
#[derive(Clone, Debug)]
pub struct KindLatency {
    /// From the intended send time; empty in a closed loop.
    pub response: Histogram<u64>,
    /// From the actual send time.
    pub service: Histogram<u64>,
}

/// Plain counts of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Replies that came inside the window, without refusals.
    pub completed: u64,
    /// The same per kind.
    pub completed_by_kind: [u64; 5],
    /// Reads and deletes of a key that does not exist.
    pub missing: u64,
    /// Requests without a reply in time.
    pub timeouts: u64,
    /// Scheduled requests never sent, for want of room.
    pub sheds: u64,
    /// Replies that came after their request was counted as timed out.
    pub late_replies: u64,
    /// Refusals by reason.
    pub refused: BTreeMap<String, u64>,
}

/// What one thread saw.
#[derive(Clone, Debug)]
pub struct Recorder {
    window: Window,
    open: bool,
    kinds: [Option<Box<KindLatency>>; 5],
    intervals: Vec<Histogram<u64>>,
    lag: Histogram<u64>,
    counts: Counts,
}

fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, units::ns(LATENCY_MAX), digits)
        .expect("the bounds are constants that hdrhistogram accepts")
}

impl Recorder {
    /// A recorder of an open or closed loop's window.
    #[must_use]
    pub fn new(window: Window, open: bool) -> Recorder {
        let intervals = window.length_ns().div_ceil(window.interval_ns()) as usize;
        Recorder::with_intervals(window, open, intervals)
    }

    /// A recorder that keeps only refusals, for requests before any measurement.
    #[must_use]
    pub fn unmeasured() -> Recorder {
        let never = Window { start_ns: u64::MAX, end_ns: u64::MAX };
        Recorder::with_intervals(never, false, 0)
    }

    fn with_intervals(window: Window, open: bool, intervals: usize) -> Recorder {
        Recorder {
            window,
            open,
            kinds: [const { None }; 5],
            intervals: vec![histogram(INTERVAL_DIGITS); intervals],
            lag: histogram(DIGITS),
            counts: Counts::default(),
        }
    }

    /// A reply came.
    pub fn reply(&mut self, request: Pending, outcome: Outcome<'_>, now_ns: u64) {
        if let Outcome::Refused(reason) = outcome {
            self.refuse(reason);
            return;
        }
        if self.window.contains(now_ns) {
            self.counts.completed += 1;
            self.counts.completed_by_kind[request.kind.index()] += 1;
            self.counts.missing += u64::from(outcome == Outcome::Missing);
            let interval = (now_ns - self.window.start_ns) / self.window.interval_ns();
            self.intervals[interval as usize].saturating_record(now_ns - request.intended_ns);
        }
        self.latency(request, now_ns);
    }

    /// No reply came in time.
    pub fn timed_out(&mut self, request: Pending, now_ns: u64) {
        if self.window.contains(request.intended_ns) {
            self.counts.timeouts += 1;
        }
        self.latency(request, now_ns);
    }

    /// A scheduled request was given up before it was sent.
    pub fn shed(&mut self, kind: OpKind, intended_ns: u64, now_ns: u64) {
        if self.window.contains(intended_ns) {
            self.counts.sheds += 1;
            self.kind(kind).response.saturating_record(now_ns - intended_ns);
        }
    }

    /// A reply to a request that had timed out.
    pub fn late_reply(&mut self, now_ns: u64) {
        self.counts.late_replies += u64::from(self.window.contains(now_ns));
    }

    /// A scheduled request was sent this much later than it could have been.
    pub fn lagged(&mut self, intended_ns: u64, lag_ns: u64) {
        if self.window.contains(intended_ns) {
            self.lag.saturating_record(lag_ns);
        }
    }

    fn latency(&mut self, request: Pending, now_ns: u64) {
        if !self.window.contains(request.intended_ns) {
            return;
        }
        let open = self.open;
        let kind = self.kind(request.kind);
        kind.service.saturating_record(now_ns - request.sent_ns);
        if open {
            kind.response.saturating_record(now_ns - request.intended_ns);
        }
    }

    fn kind(&mut self, kind: OpKind) -> &mut KindLatency {
        self.kinds[kind.index()].get_or_insert_with(|| {
            Box::new(KindLatency { response: histogram(DIGITS), service: histogram(DIGITS) })
        })
    }

    fn refuse(&mut self, reason: &str) {
        let refused = &mut self.counts.refused;
        if let Some(count) = refused.get_mut(reason) {
            *count += 1;
        } else if refused.len() < REASONS_MAX {
            refused.insert(reason.to_owned(), 1);
        } else {
            *refused.entry("other".to_owned()).or_insert(0) += 1;
        }
    }

    /// Adds what another thread saw in the same window.
    pub fn merge(&mut self, other: &Recorder) {
        assert_eq!(self.window, other.window, "threads of one run share its window");
        for kind in OpKind::ALL {
            if let Some(theirs) = &other.kinds[kind.index()] {
                let ours = self.kind(kind);
                add(&mut ours.response, &theirs.response);
                add(&mut ours.service, &theirs.service);
            }
        }
        for (ours, theirs) in self.intervals.iter_mut().zip(&other.intervals) {
            add(ours, theirs);
        }
        add(&mut self.lag, &other.lag);
        let (ours, theirs) = (&mut self.counts, &other.counts);
        ours.completed += theirs.completed;
        for (a, b) in ours.completed_by_kind.iter_mut().zip(theirs.completed_by_kind) {
            *a += b;
        }
        ours.missing += theirs.missing;
        ours.timeouts += theirs.timeouts;
        ours.sheds += theirs.sheds;
        ours.late_replies += theirs.late_replies;
        for (reason, count) in &theirs.refused {
            *ours.refused.entry(reason.clone()).or_insert(0) += count;
        }
    }

    /// The measured time.
    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    /// The counts.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Send lag of an open loop.
    #[must_use]
    pub fn lag(&self) -> &Histogram<u64> {
        &self.lag
    }

    /// Latencies of one kind of operation, if there was any.
    #[must_use]
    pub fn kind_latency(&self, kind: OpKind) -> Option<&KindLatency> {
        self.kinds[kind.index()].as_deref()
    }

    /// Latencies of all kinds together: from the intended time (`None` in a closed loop) and
    /// from the send time.
    #[must_use]
    pub fn all_latency(&self) -> (Option<Histogram<u64>>, Histogram<u64>) {
        let (mut response, mut service) = (histogram(DIGITS), histogram(DIGITS));
        for kind in self.kinds.iter().flatten() {
            add(&mut response, &kind.response);
            add(&mut service, &kind.service);
        }
        (self.open.then_some(response), service)
    }

    /// Latencies from the base time of the replies of each interval, in order of time.
    #[must_use]
    pub fn intervals(&self) -> &[Histogram<u64>] {
        &self.intervals
    }
}

fn add(ours: &mut Histogram<u64>, theirs: &Histogram<u64>) {
    ours.add(theirs).expect("both have the same bounds");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{Lane, Matched};
    use crate::scenario::ArrivalKind;
    use crate::schedule::{Arrivals, Dispatcher, Sender};

    const MS: u64 = 1_000_000;
    const WINDOW: Window = Window { start_ns: 1000 * MS, end_ns: 11_000 * MS };

    fn request(intended_ns: u64, sent_ns: u64) -> Pending {
        Pending { kind: OpKind::Put, intended_ns, sent_ns }
    }

    #[test]
    fn warm_up_and_tail_are_left_out_by_base_time() {
        let mut r = Recorder::new(WINDOW, true);
        r.reply(request(999 * MS, 999 * MS), Outcome::Ok, 1001 * MS);
        r.reply(request(1000 * MS, 1000 * MS), Outcome::Ok, 1002 * MS);
        r.reply(request(10_999 * MS, 10_999 * MS), Outcome::Ok, 11_500 * MS);
        r.reply(request(11_000 * MS, 11_000 * MS), Outcome::Ok, 11_500 * MS);
        assert_eq!(r.counts().completed, 2, "replies inside the window");
        let (response, service) = r.all_latency();
        assert_eq!((response.unwrap().len(), service.len()), (2, 2), "requests inside the window");
    }

    #[test]
    fn refusals_have_no_latency_but_timeouts_and_sheds_do() {
        let mut r = Recorder::new(WINDOW, true);
        let at = 2000 * MS;
        r.reply(request(at, at), Outcome::Refused("overloaded"), at + MS);
        r.timed_out(request(at, at + 100 * MS), at + 1100 * MS);
        r.shed(OpKind::Put, at, at + 1000 * MS);
        r.reply(request(at, at), Outcome::Missing, at + MS);
        let (response, service) = r.all_latency();
        let response = response.unwrap();
        assert_eq!((response.len(), service.len()), (3, 2));
        assert!(response.max() >= 1099 * MS && service.max() >= 999 * MS);
        let counts = r.counts();
        assert_eq!((counts.timeouts, counts.sheds, counts.missing), (1, 1, 1));
        assert_eq!(counts.refused["overloaded"], 1);
    }

    #[test]
    fn threads_add_up() {
        let mut a = Recorder::new(WINDOW, false);
        let mut b = Recorder::new(WINDOW, false);
        for r in [&mut a, &mut b] {
            r.reply(request(2000 * MS, 2000 * MS), Outcome::Ok, 2003 * MS);
            r.reply(request(2000 * MS, 2000 * MS), Outcome::Refused("x"), 2003 * MS);
        }
        a.merge(&b);
        assert_eq!(a.counts().completed, 2);
        assert_eq!(a.counts().refused["x"], 2);
        assert_eq!(a.intervals()[1].len(), 2);
        assert_eq!(a.all_latency().1.len(), 2);
        assert!(a.all_latency().0.is_none(), "a closed loop has no intended times");
    }

    #[test]
    fn reasons_are_bounded() {
        let mut r = Recorder::new(WINDOW, false);
        for i in 0..1000 {
            r.reply(request(0, 0), Outcome::Refused(&format!("reason {i}")), 1);
        }
        assert_eq!(r.counts().refused.len(), REASONS_MAX + 1);
        assert_eq!(r.counts().refused.values().sum::<u64>(), 1000);
    }

    /// A server in virtual time with one connection: 100 us per request, and a stall.
    struct StallingServer {
        lane: Lane,
        recorder: Recorder,
        busy_until_ns: u64,
        replies: std::collections::VecDeque<u64>,
        stall: Window,
    }

    impl Sender for StallingServer {
        fn send(&mut self, intended_ns: u64, now_ns: u64) -> bool {
            if self.lane.begin(request(intended_ns, now_ns)).is_none() {
                return false;
            }
            let mut start = now_ns.max(self.busy_until_ns);
            if self.stall.contains(start) {
                start = self.stall.end_ns;
            }
            self.busy_until_ns = start + MS / 10;
            self.replies.push_back(self.busy_until_ns);
            true
        }

        fn shed(&mut self, intended_ns: u64, now_ns: u64) {
            self.recorder.shed(OpKind::Put, intended_ns, now_ns);
        }

        fn lagged(&mut self, intended_ns: u64, lag_ns: u64) {
            self.recorder.lagged(intended_ns, lag_ns);
        }
    }

    #[test]
    fn a_stall_shows_in_the_percentiles_from_the_intended_time() {
        // One second of ten is a stall; one request may be in flight. A generator that waits for
        // the reply before it looks at the clock again would see one slow request.
        let arrivals = Arrivals::new(ArrivalKind::Constant, 1000.0, 0, (0, 1), 1);
        let mut dispatcher = Dispatcher::new(arrivals, WINDOW.end_ns, 10_000 * MS);
        let mut server = StallingServer {
            lane: Lane::new(1, false),
            recorder: Recorder::new(WINDOW, true),
            busy_until_ns: 0,
            replies: std::collections::VecDeque::new(),
            stall: Window { start_ns: 5000 * MS, end_ns: 6000 * MS },
        };
        while !dispatcher.finished() || !server.replies.is_empty() {
            let reply = server.replies.front().copied().unwrap_or(u64::MAX);
            let wake = dispatcher.wake_ns().unwrap_or(u64::MAX);
            let now = reply.min(wake);
            if reply <= now {
                server.replies.pop_front();
                let Matched::Request(done) = server.lane.finish(None) else {
                    panic!("every reply has its request");
                };
                server.recorder.reply(done, Outcome::Ok, now);
            }
            dispatcher.pump(now, &mut server);
        }
        let (response, service) = server.recorder.all_latency();
        let response = response.unwrap();
        assert_eq!(response.len(), 10_000, "every intended request is in the histogram");
        assert!(service.value_at_quantile(0.999) < MS, "service time alone hides the stall");
        assert!(response.value_at_quantile(0.99) > 800 * MS, "the stall is 10 % of the run");
        assert!(response.value_at_quantile(0.50) < MS);
    }
}
