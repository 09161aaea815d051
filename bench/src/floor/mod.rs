//! `floor`: what disk and network give before any storage server adds its part.

pub mod echo;
pub mod fio;

use serde::{Deserialize, Serialize};

use crate::cli::FloorArgs;
use crate::engine::{self, Surroundings};
use crate::error::BenchError;
use crate::render::{PERCENTILE_HEADINGS, Table, percentiles};
use crate::result::{self, Content, Provenance, ResultFile, RunResult};
use crate::scenario::{Keys, Load, Mix, Mode, Scenario};
use crate::units::show_rate;
use std::time::Duration;

use echo::{EchoServer, EchoTarget};
use fio::{FioResult, JOBS, PreparedFile};

/// Connections the echo is measured with.
const ECHO_CONNECTIONS: [usize; 3] = [1, 64, 256];

/// The floor of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloorResult {
    /// fio's version; `None` when the disk was not measured.
    pub fio: Option<String>,
    /// The disk.
    pub disk: Vec<FioResult>,
    /// Requests of 1 KiB answered with a receipt, closed loop, one request per connection.
    pub echo: Vec<RunResult>,
}

/// The command.
///
/// # Errors
/// fio failed, or io_uring is not to be had.
pub fn command(args: &FloorArgs) -> Result<(), BenchError> {
    let mut floor = FloorResult { fio: None, disk: Vec::new(), echo: Vec::new() };
    if !args.no_fio {
        floor.fio = fio::version();
        if floor.fio.is_some() {
            floor.disk = disk(args)?;
            print!("{}", fio::table(&floor.disk));
        } else {
            eprintln!("note: fio is not on PATH: the disk is not measured");
        }
    }
    if !args.no_echo {
        for connections in ECHO_CONNECTIONS {
            floor.echo.push(network(args, connections)?);
        }
        print!("{}", echo_table(&floor.echo));
    }
    if let Some(out) = &args.out {
        let provenance = Provenance::here(&args.data_root);
        result::write(out, &ResultFile { provenance, content: Content::Floor(Box::new(floor)) })?;
    }
    Ok(())
}

fn disk(args: &FloorArgs) -> Result<Vec<FioResult>, BenchError> {
    let file = PreparedFile::create(&args.data_root, args.file_size)?;
    JOBS.iter()
        .map(|job| {
            if !args.quiet {
                eprintln!("fio: {} for {} s", job.name, args.seconds);
            }
            file.run(job, args.seconds)
        })
        .collect()
}

fn network(args: &FloorArgs, connections: usize) -> Result<RunResult, BenchError> {
    let server = EchoServer::start(Some(args.server_cpu))?;
    let mut scenario = Scenario {
        name: format!("echo-{connections}"),
        description: "puts of 1 KiB to a server that stores nothing".to_owned(),
        addr: server.addr().to_string(),
        duration: Duration::from_secs(args.seconds.into()),
        warmup: Duration::from_secs(1),
        seed: 1,
        load: Load {
            mode: Mode::Closed,
            connections,
            pipeline: 1,
            pin: vec![args.client_cpu],
            ..Load::default()
        },
        keys: Keys::default(),
        mix: Mix { put: 1, ..Mix::default() },
        ..Scenario::default()
    };
    scenario.check()?;
    let target = EchoTarget { addr: server.addr(), timeout: scenario.load.timeout };
    let around = Surroundings { server_pid: None, quiet: args.quiet };
    let measured = engine::measure(&target, &scenario, scenario.seed, around)?;
    Ok(RunResult::of(&scenario, scenario.seed, &measured))
}

/// The echo as a table.
#[must_use]
pub fn echo_table(runs: &[RunResult]) -> String {
    let heading = ["echo 1 KiB (connections)", "requests", "generator CPU"];
    let mut table = Table::new(&[&heading, &PERCENTILE_HEADINGS[..]].concat());
    for run in runs {
        let figures = [
            run.scenario.load.connections.to_string(),
            show_rate(run.achieved_per_s),
            format!("{:.0} %", run.self_check.cpu_share * 100.0),
        ];
        table.row(figures.into_iter().chain(percentiles(run.latency())));
    }
    table.show()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Recorder;

    fn measured(change: impl FnOnce(&mut Scenario)) -> (Scenario, Recorder) {
        let server = EchoServer::start(None).unwrap();
        let mut scenario = Scenario {
            duration: Duration::from_millis(200),
            warmup: Duration::from_millis(20),
            ..Scenario::default()
        };
        change(&mut scenario);
        scenario.check().unwrap();
        let target = EchoTarget { addr: server.addr(), timeout: scenario.load.timeout };
        let around = Surroundings { server_pid: Some(std::process::id()), quiet: true };
        engine::prefill(&target, &scenario, 1, true).unwrap();
        let measured = engine::measure(&target, &scenario, 1, around).unwrap();
        assert!(measured.server_cpu_ns.is_some());
        assert_eq!(measured.threads.len(), scenario.load.threads);
        (scenario, measured.recorder)
    }

    #[test]
    fn a_closed_loop_goes_through_sockets_and_back() {
        let (_, recorder) = measured(|s| {
            s.load.mode = Mode::Closed;
            s.load.connections = 3;
            s.load.threads = 2;
            s.load.timeout = Duration::from_secs(60);
            s.keys.count = 100;
        });
        let counts = recorder.counts();
        assert!(counts.completed > 0, "{counts:?}");
        assert_eq!((counts.timeouts, counts.late_replies), (0, 0));
        assert!(counts.refused.is_empty());
        assert!(recorder.all_latency().0.is_none());
    }

    #[test]
    fn every_scheduled_request_of_an_open_loop_is_accounted_for() {
        for spin in [false, true] {
            let (_, recorder) = measured(|s| {
                s.load.rate = 2000.0;
                s.load.arrivals = crate::scenario::ArrivalKind::Constant;
                s.load.connections = 2;
                s.load.spin = spin;
                s.load.timeout = Duration::from_secs(60);
                s.keys.count = 100;
            });
            let (response, _) = recorder.all_latency();
            assert_eq!(response.unwrap().len(), 400, "0.2 s at 2000/s, spin {spin}");
            assert_eq!(recorder.counts().sheds, 0);
        }
    }

    #[test]
    fn every_connection_is_closed_when_a_run_ends() {
        let open = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let names = links.filter_map(|link| std::fs::read_link(link.path()).ok());
            names.filter(|name| name.to_string_lossy().starts_with("socket:")).count()
        };
        let before = open();
        measured(|s| {
            s.load.mode = Mode::Closed;
            s.load.connections = 100;
            s.load.timeout = Duration::from_secs(60);
            s.keys.count = 100;
        });
        // Other tests have sockets of their own, but none of them so many. The server, in this process
        // too, hears of the end a moment later.
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while open() >= before + 50 {
            assert!(std::time::Instant::now() < until, "{} are open, {before} were", open());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_silent_server_leaves_nothing_but_timeouts_and_sheds() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut scenario = Scenario {
            duration: Duration::from_millis(200),
            warmup: Duration::ZERO,
            ..Scenario::default()
        };
        scenario.load.arrivals = crate::scenario::ArrivalKind::Constant;
        scenario.load.connections = 2;
        scenario.load.pipeline = 5;
        scenario.load.timeout = Duration::from_millis(40);
        scenario.check().unwrap();
        let target = EchoTarget { addr, timeout: scenario.load.timeout };
        let around = Surroundings { server_pid: None, quiet: true };
        let measured = engine::measure(&target, &scenario, 1, around).unwrap();
        let counts = measured.recorder.counts();
        assert_eq!(counts.completed, 0);
        assert!(counts.timeouts <= 10, "no more than what fits unanswered was sent");
        assert_eq!(counts.timeouts + counts.sheds, 200, "0.2 s at 1000/s");
        assert_eq!(measured.recorder.all_latency().0.unwrap().len(), 200);
        let run = RunResult::of(&scenario, 1, &measured);
        assert!(!run.self_check.caveats.is_empty());
    }

    #[test]
    fn a_server_that_hangs_up_fails_the_run_with_a_reason() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let accepting = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let mut scenario = Scenario::default();
        scenario.load.connections = 1;
        scenario.check().unwrap();
        let target = EchoTarget { addr, timeout: Duration::from_secs(1) };
        let around = Surroundings { server_pid: None, quiet: true };
        let error = engine::measure(&target, &scenario, 1, around).unwrap_err().to_string();
        accepting.join().unwrap();
        assert!(error.contains("connection 0"), "{error}");
    }
}
