//! `ironring demo`: what a newcomer runs first. Starts a node, loads it, kills it in the middle,
//! starts it again, and checks every acknowledged write byte for byte.

mod child;
mod ledger;
mod load;
mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use super::error::{CliError, START_FAILED};
use super::output::Output;
use child::{NodeChild, Totals};
use load::Load;
use report::DemoReport;

/// Flags of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Seconds of load; the node is killed in the middle
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub seconds: u32,
    /// Client connections, each with one request at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Bytes of each value
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub value_bytes: u32,
    /// Shards of the node; 0: one per CPU
    #[arg(long, default_value_t = 0)]
    pub shards: u16,
    /// Directory to make the node's temporary directory in; it should be on the disk of interest
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the node serving, and its data, until interrupted
    #[arg(long)]
    pub keep: bool,
}

/// How long the kernel may take to free a killed node's rings, and how often the demo looks.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);
const MEMORY_NAP: Duration = Duration::from_millis(50);
/// How long a node may take to serve.
const READY_PATIENCE: Duration = Duration::from_secs(120);

/// Runs the demo; fails when an acknowledged write is lost.
///
/// # Errors
/// When the node cannot start, or the check fails.
pub fn run(args: &DemoArgs, output: Output) -> Result<(), CliError> {
    let base = args.dir.clone().unwrap_or_else(default_base);
    let tmp = tempfile::Builder::new()
        .prefix("ironring-demo-")
        .tempdir_in(&base)
        .map_err(|e| CliError::io("no temporary directory can be made", &e))?;
    let data = tmp.path().join("data");
    output.note(&format!("starting a node in {}", data.display()));
    let mut first = NodeChild::start(&data, args.shards, None)?;
    first.wait_ready(READY_PATIENCE)?;
    let address = first.clients;

    let spec = load::Spec { address, connections: args.connections, value_bytes: args.value_bytes };
    let half = Duration::from_secs(u64::from(args.seconds)) / 2;
    output.note(&format!(
        "{} connections put values of {} bytes for {} s, each waiting for its durable ack",
        args.connections, args.value_bytes, args.seconds
    ));
    let load = Load::start(&spec);
    let begin = Instant::now();
    std::thread::sleep(half);
    let before = first.totals()?;
    let killed_at = Instant::now();
    first.kill();
    output.note("killed the node with SIGKILL under load; starting it again");
    let (second, recovery) = start_again(&data, args.shards, address)?;
    let down = killed_at.elapsed();
    let rest = (half * 2).saturating_sub(begin.elapsed());
    std::thread::sleep(rest.max(Duration::from_secs(1)));
    let ledger = load.stop();
    let loaded_for = begin.elapsed();
    let after = second.totals()?;
    output.note("verifying every write");
    let verified = ledger.verify(&spec)?;

    let totals = Totals::sum(&before, &after);
    let report = DemoReport::new(&ledger, &verified, &totals, loaded_for, down, recovery, &second);
    output.print(&report).map_err(|e| CliError::io("stdout", &e))?;
    if verified.lost + verified.wrong > 0 {
        let kept = tmp.keep();
        let what = format!(
            "{} acknowledged writes are lost and {} are wrong: the data is kept in {}",
            verified.lost,
            verified.wrong,
            kept.display()
        );
        return Err(CliError::local(&START_FAILED, what));
    }
    if args.keep {
        wait_for_interrupt(&output, &second)?;
    }
    second.stop();
    Ok(())
}

/// Starts the node where it was. The kernel takes back a killed process's rings some time after it
/// is gone: with a small limit of lockable memory there is no room for new ones until then.
fn start_again(
    data: &Path,
    shards: u16,
    address: SocketAddr,
) -> Result<(NodeChild, Duration), CliError> {
    let begin = Instant::now();
    loop {
        let started = NodeChild::start(data, shards, Some(address))
            .and_then(|mut node| node.wait_ready(READY_PATIENCE).map(|took| (node, took)));
        match started {
            Err(error)
                if error.text(false).contains("lockable memory")
                    && begin.elapsed() < MEMORY_PATIENCE =>
            {
                std::thread::sleep(MEMORY_NAP);
            }
            ended => return ended,
        }
    }
}

/// A disk, if possible: the temporary directory may be memory, where direct I/O shows nothing.
fn default_base() -> PathBuf {
    let target = PathBuf::from("target");
    if target.is_dir() { target } else { std::env::temp_dir() }
}

fn wait_for_interrupt(output: &Output, node: &NodeChild) -> Result<(), CliError> {
    let stop: Arc<AtomicBool> = crate::driver::signals::stop_flag()
        .map_err(|e| CliError::io("signals cannot be handled", &e))?;
    output.note(&format!("serving clients on {} until interrupted (Ctrl-C)", node.clients));
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
