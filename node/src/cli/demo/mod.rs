//! `ironring demo`: what a newcomer runs first. Starts a cluster, loads it, kills the node that leads
//! it, starts that again, adds another node, and checks every acknowledged write byte for byte.

mod child;
mod interrupt;
mod ledger;
mod load;
mod nodes;
mod report;
mod roll_call;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::error::{CliError, DEMO_FAILED};
use super::output::Output;
use crate::cluster::status::{ClusterStatus, MemberView};
use interrupt::Interrupt;
use ledger::{Ledger, Verified};
use load::{Load, Phase, Spec};
use nodes::{Nodes, Totals};
use report::{Course, Growth, Kill};

/// Flags of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Nodes to begin with; 1: a node alone, which is killed and recovers
    #[arg(long, default_value = "3", value_parser = ["1", "3", "5"])]
    pub nodes: String,
    /// Least seconds of load: a quarter each before the kill, after it, after the restart and
    /// after another node was added; for as long again at most, partitions that still move to that node are waited for
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub seconds: u32,
    /// Client connections, each with one request at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Bytes of each value
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub value_bytes: u32,
    /// Shards of each node; 0: one per CPU
    #[arg(long, default_value_t = 1)]
    pub shards: u16,
    /// Directory to make the nodes' temporary directory in; it should be on the disk of interest
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the nodes serving, and their data, until interrupted; keep the data when the demo fails
    #[arg(long)]
    pub keep: bool,
}

/// How long the cluster may take to be as it should, wherever that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long partitions may go on moving, in quarters of the load; what has not moved then is told.
const MOVING_MAX_QUARTERS: u32 = 5;
/// Moves have ended when there was none for so long: the controller plans every two seconds at least.
const MOVES_SETTLE: Duration = Duration::from_secs(3);

/// Runs the demo; fails when an acknowledged write is lost.
///
/// # Errors
/// When the cluster does not do what it should, the check fails, or somebody interrupts it.
pub fn run(args: &DemoArgs, output: Output) -> Result<(), CliError> {
    let interrupt = Interrupt::new()?;
    let base = args.dir.clone().unwrap_or_else(default_base);
    let base = base.canonicalize().map_err(|e| CliError::io(base.display(), &e))?;
    let tmp = tempfile::Builder::new()
        .prefix("ironring-demo-")
        .tempdir_in(&base)
        .map_err(|e| CliError::io("no temporary directory can be made", &e))?;
    let mut nodes = Nodes::new(tmp.path().to_owned(), args.shards, interrupt)?;
    let ended = Demo { args, output, nodes: &mut nodes }.run();
    let sound = match &ended {
        // Nodes that are interrupted together with the demo make failures of their own.
        Err(_) if nodes.interrupt().came() => Err(interrupt::error()),
        Err(error) => Err(error.clone()),
        Ok(verified) => check(verified),
    };
    if let Err(error) = sound {
        drop(nodes);
        return Err(after_failure(error, args.keep || ended.is_ok(), tmp));
    }
    if args.keep {
        output.note("serving until interrupted (Ctrl-C)");
        while nodes.interrupt().nap(PATIENCE).is_ok() {}
    }
    nodes.stop();
    Ok(())
}

/// What was wrong, and where the data is when it is kept.
fn after_failure(mut error: CliError, keep: bool, tmp: tempfile::TempDir) -> CliError {
    if keep && let Some(fault) = error.faults.first_mut() {
        fault.hint = format!("the data is kept in {}", tmp.keep().display());
    }
    error
}

/// Whether every client was told the truth.
fn check(verified: &Verified) -> Result<(), CliError> {
    let Verified { lost, wrong, refused_found, .. } = verified;
    if verified.sound() {
        return Ok(());
    }
    let what = format!(
        "{lost} acknowledged writes are lost, {wrong} are wrong and {refused_found} are there that \
         were refused"
    );
    Err(CliError::local(&DEMO_FAILED, what))
}

/// A disk, if possible: the temporary directory may be memory, where direct I/O shows nothing.
fn default_base() -> PathBuf {
    let target = Path::new("target");
    if target.is_dir() { target.to_owned() } else { std::env::temp_dir() }
}

/// The demo under way.
struct Demo<'a> {
    args: &'a DemoArgs,
    output: Output,
    nodes: &'a mut Nodes,
}

impl Demo<'_> {
    /// From the first node to the screen.
    fn run(mut self) -> Result<Verified, CliError> {
        let formed = self.form()?;
        let addrs = self.nodes.addresses().map(|(_, at)| at.clients.to_string()).collect();
        let DemoArgs { connections, value_bytes, .. } = *self.args;
        let spec = Spec { addrs, connections, value_bytes };
        let quarter = Duration::from_secs(self.args.seconds.into()) / 4;
        self.output.note(&format!(
            "{connections} connections put values of {value_bytes} bytes, each waiting for its ack"
        ));
        let mut load = Load::start(&spec);
        self.nodes.interrupt().nap(quarter)?;

        let alone = self.nodes.len() == 1;
        let (mut kill, mut totals) = self.kill(&mut load)?;
        if !alone {
            self.until_led_by_others(&mut kill)?;
            self.rest(kill.at, quarter)?;
        }
        let restarted = Instant::now();
        self.start_again(&mut load, &mut kill, &spec)?;
        self.rest(restarted, quarter)?;
        let grown = Instant::now();
        let growth = if alone { None } else { Some(self.grow(&mut load, quarter)?) };
        self.rest(grown, quarter)?;

        let ledger = load.stop(self.nodes.interrupt())?;
        for index in 0..self.nodes.len() {
            totals += self.nodes.totals(index)?;
        }
        let (ledger, verified) = self.verify(ledger, spec)?;
        let course = Course { formed, kill, growth, totals };
        let report = report::DemoReport::new(&ledger, &verified, &course, self.nodes);
        self.output.print(&report).map_err(|e| CliError::io("stdout", &e))?;
        Ok(verified)
    }

    /// Starts the nodes it begins with; how long that took.
    fn form(&mut self) -> Result<Duration, CliError> {
        let wanted: usize = self.args.nodes.parse().expect("clap takes numbers only");
        self.output.note(&format!("starting {wanted} node(s), {} shard(s) each", self.args.shards));
        let begin = Instant::now();
        while self.nodes.len() < wanted {
            self.nodes.add()?;
        }
        self.nodes.until("every partition has its voters", PATIENCE, |status| {
            let all = status.members.len() == wanted && status.metadata.voters.len() == wanted;
            (all && status.healthy).then_some(())
        })?;
        Ok(begin.elapsed())
    }

    /// Kills the node that leads the metadata group; what was written before by it.
    fn kill(&mut self, load: &mut Load) -> Result<(Kill, Totals), CliError> {
        let (status, leader) =
            self.nodes.until("somebody leads the metadata group", PATIENCE, |status| {
                Some((status.clone(), leader(status)?.clone()))
            })?;
        let missing = || CliError::local(&DEMO_FAILED, "the leader is no node of the demo");
        let index = self.nodes.index_of(&leader).ok_or_else(missing)?;
        let totals = self.nodes.totals(index)?;
        load.enter(Phase::Killed);
        let at = Instant::now();
        self.nodes.kill(index);
        let kill = Kill {
            at,
            index,
            node: leader.name.clone(),
            led: leader.leads,
            most: status.members.iter().map(|member| member.leads).max().unwrap_or(0),
            partitions: status.partitions.total,
            others_led: None,
            started: Duration::ZERO,
            healthy: Duration::ZERO,
            back: Duration::ZERO,
        };
        self.output.note(&format!("killed {kill}"));
        Ok((kill, totals))
    }

    /// Waits until others lead the group and every partition.
    fn until_led_by_others(&mut self, kill: &mut Kill) -> Result<(), CliError> {
        let node = kill.node.clone();
        self.nodes.until("others lead what it led", PATIENCE, |status| {
            let now = leader(status)?;
            let gone = status.members.iter().find(|m| m.name == node)?;
            let led = now.name != node && gone.leads == 0 && status.partitions.leaderless == 0;
            led.then_some(())
        })?;
        kill.others_led = Some(kill.at.elapsed());
        Ok(())
    }

    /// Starts the killed node again and waits until it has everything again.
    fn start_again(
        &mut self,
        load: &mut Load,
        kill: &mut Kill,
        spec: &Spec,
    ) -> Result<(), CliError> {
        self.output.note(&format!("starting {} again", kill.node));
        load.enter(Phase::Back);
        let begin = Instant::now();
        self.nodes.start_again(kill.index)?;
        kill.started = begin.elapsed();
        self.nodes
            .until("the killed node is back", PATIENCE, |status| status.healthy.then_some(()))?;
        kill.healthy = begin.elapsed();
        roll_call::all_have_all(spec, self.nodes.interrupt())?;
        kill.back = begin.elapsed();
        Ok(())
    }

    /// Adds a node and lets partitions move to it.
    fn grow(&mut self, load: &mut Load, quarter: Duration) -> Result<Growth, CliError> {
        self.output.note("adding a node; partitions move to it");
        load.enter(Phase::Growing);
        let begin = Instant::now();
        let node = self.nodes.add()?;
        let mut growth = Growth::new(node.clone());
        let until = begin + quarter * MOVING_MAX_QUARTERS;
        let mut none_since: Option<Instant> = None;
        loop {
            let status = self.nodes.until("the new node is a member", PATIENCE, |status| {
                status.members.iter().any(|m| m.name == node).then(|| status.clone())
            })?;
            if growth.look(&status, begin.elapsed()) {
                none_since = None;
            } else if growth.moved > 0 {
                let since = *none_since.get_or_insert_with(Instant::now);
                if since.elapsed() > MOVES_SETTLE {
                    return Ok(growth);
                }
            }
            if Instant::now() > until {
                return Ok(growth);
            }
            self.rest(Instant::now(), Duration::from_millis(50))?;
        }
    }

    /// Waits for the rest of a time that has begun.
    fn rest(&mut self, begin: Instant, time: Duration) -> Result<(), CliError> {
        self.nodes.all_run()?;
        self.nodes.interrupt().nap(time.saturating_sub(begin.elapsed()))
    }

    fn verify(&self, ledger: Ledger, spec: Spec) -> Result<(Ledger, Verified), CliError> {
        self.output.note("verifying every write");
        let verify = std::thread::spawn(move || (ledger.verify(&spec), ledger));
        let (verified, ledger) = self.nodes.interrupt().join(verify)?;
        Ok((ledger, verified?))
    }
}

/// The member that leads the metadata group.
fn leader(status: &ClusterStatus) -> Option<&MemberView> {
    let id = status.metadata.leader?;
    status.members.iter().find(|member| member.id == id)
}
