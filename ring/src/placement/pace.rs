//! How fast moves may go, and when they will be done.
//!
//! [`Pace`] is a token bucket of bytes. Its rate is a share of a measured bandwidth: 10 % in the
//! gradual mode, 50 % in the aggressive one; the progressive mode begins like the gradual one and
//! rises with the idleness of the foreground to 80 %. It rises by at most 10 points a second and
//! falls at once, since a client that waits is worse than a move that does.
//!
//! [`Progress`] counts bytes of one move or of a plan. All times are arguments; nothing here counts
//! in floating point, so every driver and the simulator see the same pauses.

use std::time::Duration;

use ironring_core::Instant;
use serde::{Deserialize, Serialize};

const NANOS: i128 = 1_000_000_000;

/// How much of the machine moves may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PaceMode {
    /// 10 % of the bandwidth.
    #[default]
    Gradual,
    /// 50 % of the bandwidth.
    Aggressive,
    /// 10 % beside a busy foreground, up to 80 % beside an idle one.
    Progressive,
}

impl PaceMode {
    /// All modes.
    pub const ALL: [PaceMode; 3] = [PaceMode::Gradual, PaceMode::Aggressive, PaceMode::Progressive];

    /// Its name, as operators spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PaceMode::Gradual => "gradual",
            PaceMode::Aggressive => "aggressive",
            PaceMode::Progressive => "progressive",
        }
    }
}

/// The throttle of the moves of one node or one link. A caller asks before each chunk.
#[derive(Clone, Debug)]
pub struct Pace {
    mode: PaceMode,
    bandwidth_bytes_per_s: u64,
    foreground_bytes_per_s: u64,
    share_permille: u64,
    /// Byte-nanoseconds per second: bytes times 10^9. Negative after a chunk larger than the level.
    level: i128,
    /// Bytes that may pass besides.
    allowed: u64,
    filled_at: Instant,
    /// Up to when the rise of the share was counted: whole points only, so it trails `filled_at`.
    risen_at: Instant,
    paused: bool,
}

impl Pace {
    /// Least rate in bytes per second, whatever was measured: a move that stands still for ever
    /// holds its log back and says nothing.
    pub const MIN_RATE_BYTES_PER_S: u64 = 1 << 20;
    /// What can be saved up while nothing moves, in time at the rate.
    pub const BURST: Duration = Duration::from_millis(100);
    /// Most bytes that may be saved up by [`Pace::allow`].
    pub const ALLOWED_MAX: u64 = 16 << 20;
    const GRADUAL_PERMILLE: u64 = 100;
    const AGGRESSIVE_PERMILLE: u64 = 500;
    const IDLE_PERMILLE: u64 = 800;
    const RISE_PERMILLE_PER_S: u64 = 100;

    /// A throttle with an empty bucket. `bandwidth_bytes_per_s` is what the slower of disk and
    /// network was measured to do; 0 when unknown.
    #[must_use]
    pub fn new(mode: PaceMode, bandwidth_bytes_per_s: u64, now: Instant) -> Pace {
        let mut pace = Pace {
            mode,
            bandwidth_bytes_per_s,
            foreground_bytes_per_s: 0,
            share_permille: Self::GRADUAL_PERMILLE,
            level: 0,
            allowed: 0,
            filled_at: now,
            risen_at: now,
            paused: false,
        };
        pace.settle();
        pace
    }

    /// Another mode, from now on.
    pub fn set_mode(&mut self, now: Instant, mode: PaceMode) {
        self.fill(now);
        self.mode = mode;
        self.share_permille = Self::GRADUAL_PERMILLE;
        self.settle();
    }

    /// Another measurement of the bandwidth, in bytes per second.
    pub fn set_bandwidth(&mut self, now: Instant, bytes_per_s: u64) {
        self.fill(now);
        self.bandwidth_bytes_per_s = bytes_per_s;
        self.settle();
    }

    /// What the foreground does, in bytes per second of the same bandwidth. Only the progressive
    /// mode asks; report it about once a second.
    pub fn observe_foreground(&mut self, now: Instant, bytes_per_s: u64) {
        self.fill(now);
        self.foreground_bytes_per_s = bytes_per_s;
        self.settle();
    }

    /// Stops granting; what is saved up is kept.
    pub fn pause(&mut self, now: Instant) {
        self.fill(now);
        self.paused = true;
    }

    /// Grants again. The pause itself saved nothing up.
    pub fn resume(&mut self, now: Instant) {
        self.fill(now);
        self.paused = false;
    }

    /// The rate in force, in bytes per second; 0 while paused.
    #[must_use]
    pub fn rate_bytes_per_s(&self) -> u64 {
        if self.paused {
            return 0;
        }
        let share = u128::from(self.bandwidth_bytes_per_s) * u128::from(self.share_permille) / 1000;
        u64::try_from(share).unwrap_or(u64::MAX).max(Self::MIN_RATE_BYTES_PER_S)
    }

    /// Takes `bytes` out of the bucket, or says how long to wait before asking again (`None` while
    /// paused: until resumed). A chunk is granted as soon as the bucket is not in debt, also when
    /// it is larger than what is saved up, and the debt is waited for afterwards: so any size of
    /// chunk passes, and the rate holds over time.
    pub fn take(&mut self, now: Instant, bytes: u64) -> Result<(), Option<Duration>> {
        self.fill(now);
        if self.paused {
            return Err(None);
        }
        if self.level < 0 && self.allowed == 0 {
            let rate = i128::from(self.rate_bytes_per_s());
            let wait = (-self.level + rate - 1) / rate;
            return Err(Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))));
        }
        let besides = bytes.min(self.allowed);
        self.allowed -= besides;
        self.level -= i128::from(bytes - besides) * NANOS;
        Ok(())
    }

    /// Takes `bytes` out of the bucket for something that is done in any case.
    pub fn charge(&mut self, now: Instant, bytes: u64) {
        self.fill(now);
        self.level -= i128::from(bytes) * NANOS;
    }

    /// Whether [`Pace::take`] would grant now.
    pub fn is_open(&mut self, now: Instant) -> bool {
        self.take(now, 0).is_ok()
    }

    /// Lets `bytes` more pass than the rate does: what is written while a move goes on is owed to
    /// who takes it besides what there was, and a move that had to carry both at its rate might
    /// never end.
    pub fn allow(&mut self, bytes: u64) {
        self.allowed = self.allowed.saturating_add(bytes).min(Self::ALLOWED_MAX);
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> PaceMode {
        self.mode
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.since(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        let rate = i128::from(self.rate_bytes_per_s());
        let most = rate * Self::BURST.as_nanos() as i128;
        let level = self.level + rate.saturating_mul(elapsed.as_nanos() as i128);
        self.level = if self.paused { self.level } else { level.min(most) };
        self.settle();
    }

    /// Moves the share towards what mode and foreground ask for.
    fn settle(&mut self) {
        let wanted = match self.mode {
            PaceMode::Gradual => Self::GRADUAL_PERMILLE,
            PaceMode::Aggressive => Self::AGGRESSIVE_PERMILLE,
            PaceMode::Progressive => {
                let span = Self::IDLE_PERMILLE - Self::GRADUAL_PERMILLE;
                Self::GRADUAL_PERMILLE + span * self.idle_permille() / 1000
            }
        };
        let step = Duration::from_nanos(1_000_000_000 / Self::RISE_PERMILLE_PER_S);
        let steps = self.filled_at.since(self.risen_at).as_nanos() as u64 / step.as_nanos() as u64;
        self.risen_at = Instant(self.risen_at.0 + steps * step.as_nanos() as u64);
        if self.mode == PaceMode::Progressive {
            self.share_permille = wanted.min(self.share_permille.saturating_add(steps));
        } else {
            self.share_permille = wanted;
        }
    }

    fn idle_permille(&self) -> u64 {
        let (used, all) = (self.foreground_bytes_per_s, self.bandwidth_bytes_per_s);
        if all == 0 {
            return 0;
        }
        (u128::from(all.saturating_sub(used)) * 1000 / u128::from(all)) as u64
    }
}

/// Bytes of a move or a plan: done, left, how fast and how long still.
#[derive(Clone, Debug)]
pub struct Progress {
    total_bytes: u64,
    done_bytes: u64,
    /// Bytes of the window that is not over, and when it began.
    window_bytes: u64,
    window_at: Instant,
    /// `None` before the first window is over.
    rate_bytes_per_s: Option<u64>,
}

/// What there is to say about a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressReport {
    /// Copied.
    pub done_bytes: u64,
    /// To be copied still, as far as known.
    pub left_bytes: u64,
    /// Bytes per second of late; 0 before anything was measured.
    pub rate_bytes_per_s: u64,
    /// Time to the end at that rate, in whole seconds, rounded up; `None` while the rate is 0.
    pub eta: Option<Duration>,
}

impl Progress {
    /// The rate is measured over windows of this length; each counts for an eighth.
    pub const WINDOW: Duration = Duration::from_secs(1);
    /// After so many windows without a byte the rate is 0.
    const FORGET_WINDOWS: u64 = 64;

    /// Nothing done of `total_bytes`.
    #[must_use]
    pub fn new(total_bytes: u64, now: Instant) -> Progress {
        Progress {
            total_bytes,
            done_bytes: 0,
            window_bytes: 0,
            window_at: now,
            rate_bytes_per_s: None,
        }
    }

    /// `bytes` more were copied.
    pub fn copied(&mut self, now: Instant, bytes: u64) {
        self.close_windows(now);
        self.done_bytes = self.done_bytes.saturating_add(bytes);
        self.window_bytes = self.window_bytes.saturating_add(bytes);
    }

    /// Another total: a partition that is written to grows while it is copied.
    pub fn set_total(&mut self, total_bytes: u64) {
        self.total_bytes = total_bytes;
    }

    /// The figures at `now`.
    pub fn report(&mut self, now: Instant) -> ProgressReport {
        self.close_windows(now);
        let left_bytes = self.total_bytes.saturating_sub(self.done_bytes);
        let rate = self.rate_bytes_per_s.unwrap_or(0);
        let eta = if left_bytes == 0 {
            Some(Duration::ZERO)
        } else {
            (rate > 0).then(|| Duration::from_secs(left_bytes.div_ceil(rate)))
        };
        ProgressReport { done_bytes: self.done_bytes, left_bytes, rate_bytes_per_s: rate, eta }
    }

    fn close_windows(&mut self, now: Instant) {
        let window = Self::WINDOW.as_nanos() as u64;
        let over = now.since(self.window_at).as_nanos() as u64 / window;
        if over == 0 {
            return;
        }
        if over > Self::FORGET_WINDOWS {
            self.rate_bytes_per_s = Some(0);
        } else {
            // The first of them has the bytes; the others had none.
            for at in 0..over {
                let bytes = if at == 0 { self.window_bytes } else { 0 };
                let rate = match self.rate_bytes_per_s {
                    None => bytes,
                    Some(old) if bytes >= old => old + (bytes - old) / 8,
                    Some(old) => old - (old - bytes).div_ceil(8),
                };
                self.rate_bytes_per_s = Some(rate);
            }
        }
        self.window_bytes = 0;
        self.window_at = Instant(self.window_at.0 + window * over);
    }
}
