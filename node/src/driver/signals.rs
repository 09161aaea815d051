//! SIGTERM and SIGINT stop the node; a second one within the stop changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

/// Blocks the stop signals in this thread and all it starts, and sets the flag it returns when one
/// comes. Call before any other thread is started.
///
/// # Errors
/// When the system refuses the mask or the thread.
pub fn stop_flag() -> std::io::Result<Arc<AtomicBool>> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while let Ok(signal) = set.wait() {
            tracing::info!("{signal}: stopping");
            flag.store(true, Ordering::Relaxed);
        }
    })?;
    Ok(stop)
}
