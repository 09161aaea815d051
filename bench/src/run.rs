//! `run`: one scenario, once.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::RunArgs;
use crate::engine::{self, Measured, Surroundings};
use crate::error::BenchError;
use crate::latency::hgrm;
use crate::protocol::Target;
use crate::protocol::etcd::EtcdTarget;
use crate::protocol::ironring::IronringTarget;
use crate::protocol::nats::NatsTarget;
use crate::protocol::resp::RespTarget;
use crate::recorder::Recorder;
use crate::render;
use crate::result::{self, Content, Provenance, ResultFile, RunResult};
use crate::scenario::{ProtocolName, Scenario};

/// How a command that gave figures went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The figures may be used as they are.
    Good,
    /// The generator may have been the bottleneck, or a comparison found a regression.
    Doubtful,
}

/// Which phases of a scenario to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phases {
    /// The prefill, if the scenario wants one, and the measurement.
    All,
    /// Only the prefill.
    Prefill,
    /// Only the measurement: the keys are there.
    Measure,
}

/// Runs phases of a scenario against whatever it names. `None` when nothing was measured.
///
/// # Errors
/// The server cannot be reached or misbehaves.
pub fn execute(
    scenario: &Scenario,
    seed: u64,
    around: Surroundings,
    phases: Phases,
) -> Result<Option<Measured>, BenchError> {
    match scenario.protocol {
        ProtocolName::Ironring => {
            on(&IronringTarget::prepare(scenario)?, scenario, seed, around, phases)
        }
        ProtocolName::Redis => {
            let target = RespTarget { addr: scenario.addr.clone() };
            on(&target, scenario, seed, around, phases)
        }
        ProtocolName::Etcd => {
            let target = EtcdTarget { addr: scenario.addr.clone() };
            on(&target, scenario, seed, around, phases)
        }
        ProtocolName::Nats => {
            let target = NatsTarget::prepare(&scenario.addr, scenario.topic.replicas)?;
            on(&target, scenario, seed, around, phases)
        }
    }
}

fn on<T: Target>(
    target: &T,
    scenario: &Scenario,
    seed: u64,
    around: Surroundings,
    phases: Phases,
) -> Result<Option<Measured>, BenchError> {
    if scenario.keys.prefill && phases != Phases::Measure {
        engine::prefill(target, scenario, seed, around.quiet)?;
    }
    if phases == Phases::Prefill {
        return Ok(None);
    }
    engine::measure(target, scenario, seed, around).map(Some)
}

/// The scenario's seed, or a fresh one where it leaves that open. Never 0.
#[must_use]
pub fn seed_of(scenario: &Scenario) -> u64 {
    if scenario.seed != 0 {
        return scenario.seed;
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed again.
    u64::from(since_epoch.subsec_nanos()) + 1
}

/// The command.
///
/// # Errors
/// No result came about.
pub fn command(args: RunArgs) -> Result<Verdict, BenchError> {
    let scenario = args.overrides.resolve(args.scenario.as_ref())?;
    let seed = seed_of(&scenario);
    let around = Surroundings { server_pid: args.server_pid, quiet: args.output.quiet };
    let measured = execute(&scenario, seed, around, Phases::All)?
        .expect("only Phases::Prefill measures nothing");
    let run = RunResult::of(&scenario, seed, &measured);
    print!("{}", render::run(&run));
    if let Some(prefix) = &args.hgrm {
        write_hgrm(prefix, &measured.recorder)?;
    }
    let clean = run.self_check.is_clean();
    if run.achieved_per_s == 0.0 {
        return Err(BenchError::Server("no request was answered in the measured time".to_owned()));
    }
    if let Some(out) = &args.output.out {
        let provenance = Provenance::here(&args.output.data_path);
        result::write(out, &ResultFile { provenance, content: Content::Run(Box::new(run)) })?;
    }
    Ok(if clean { Verdict::Good } else { Verdict::Doubtful })
}

fn write_hgrm(prefix: &Path, recorder: &Recorder) -> Result<(), BenchError> {
    let (response, service) = recorder.all_latency();
    for (name, histogram) in [("response", response), ("service", Some(service))] {
        let Some(histogram) = histogram else { continue };
        let mut path = prefix.as_os_str().to_owned();
        path.push(format!(".{name}.hgrm"));
        let path = PathBuf::from(path);
        std::fs::write(&path, hgrm(&histogram)).map_err(BenchError::file(&path))?;
    }
    Ok(())
}
