//! Ctrl-C and SIGTERM: whatever the demo is waiting for, it ends what it started and goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cli::error::{CliError, DEMO_FAILED};
use crate::driver::signals;

/// Longest time a signal is not noticed.
const NAP_MAX: Duration = Duration::from_millis(50);
/// How often a thread that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Whether somebody wants the demo to end.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on signals only set the flag. Call before any other thread is started.
    ///
    /// # Errors
    /// When the system does not let signals be handled.
    pub fn new() -> Result<Interrupt, CliError> {
        let flag = signals::stop_flag();
        flag.map(Interrupt).map_err(|e| CliError::io("signals cannot be handled", &e))
    }

    /// Whether there was one.
    #[must_use]
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps.
    ///
    /// # Errors
    /// When there was an interrupt meanwhile, or before.
    pub fn nap(&self, time: Duration) -> Result<(), CliError> {
        let until = Instant::now() + time;
        loop {
            if self.came() {
                return Err(error());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP_MAX));
        }
    }

    /// Waits until a thread has ended; what it came to.
    ///
    /// # Errors
    /// When there was an interrupt meanwhile, or before: the thread is left to the end of the process.
    pub fn join<T>(&self, thread: JoinHandle<T>) -> Result<T, CliError> {
        while !thread.is_finished() {
            self.nap(LOOK_EVERY)?;
        }
        Ok(thread.join().expect("a thread that panics ends the process"))
    }
}

/// The demo was interrupted.
#[must_use]
pub fn error() -> CliError {
    CliError::hinted(&DEMO_FAILED, "interrupted", "nothing is left behind")
}
