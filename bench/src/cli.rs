//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::error::BenchError;
use crate::scenario::{ArrivalKind, KeyDistribution, Mode, Placement, ProtocolName, Scenario};
use crate::study::Fault;
use crate::units::{parse_bytes, parse_duration};

/// Measures ironring, and its peers, with one honest load generator.
///
/// Open loop by default: requests have intended send times, and latency counts from them.
#[derive(Debug, Parser)]
#[command(name = "ironring-bench", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run one scenario.
    Run(RunArgs),
    /// Find the rate a server sustains, then measure at 50, 70 and 90 % of it.
    Sweep(SweepArgs),
    /// Show two results of the same kind side by side.
    Compare(CompareArgs),
    /// Turn a result into one self-contained HTML page.
    Report(ReportArgs),
    /// Measure what disk and network give without any storage server: fio, and an echo.
    Floor(FloorArgs),
    /// Measure ironring and other servers in alternating rounds.
    Peers(PeersArgs),
    /// Answer a question about a node that takes more than one run, on a node of its own.
    Study(StudyArgs),
}

/// Where results go.
#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// Write the result as JSON here.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// A path on the disk the server uses, to describe that disk in the result.
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub data_path: PathBuf,
    /// Show no progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// Fail (exit 1) when the generator may have been the bottleneck.
    #[arg(long)]
    pub strict: bool,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Scenario file; without one, a put scenario that flags describe.
    #[arg(value_name = "SCENARIO.toml")]
    pub scenario: Option<PathBuf>,
    /// What to change in it.
    #[command(flatten)]
    pub overrides: Overrides,
    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Write percentile files NAME.response.hgrm and NAME.service.hgrm with this prefix.
    #[arg(long, value_name = "PREFIX")]
    pub hgrm: Option<PathBuf>,
    /// Process of the server, to account its CPU per request.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
}

/// Flags laid over a scenario.
#[derive(Clone, Debug, Default, Args)]
pub struct Overrides {
    /// What the server speaks.
    #[arg(long)]
    pub protocol: Option<ProtocolName>,
    /// Where it listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: Option<String>,
    /// Connections over all threads.
    #[arg(long, short = 'c')]
    pub connections: Option<usize>,
    /// Most unanswered requests per connection.
    #[arg(long, short = 'P')]
    pub pipeline: Option<usize>,
    /// Measured time.
    #[arg(long, short = 'd', value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Time before it that is not measured.
    #[arg(long, value_parser = parse_duration)]
    pub warmup: Option<Duration>,
    /// Requests per second; makes the loop open.
    #[arg(long, conflicts_with = "closed")]
    pub rate: Option<f64>,
    /// Gaps between the requests of an open loop.
    #[arg(long)]
    pub arrivals: Option<ArrivalKind>,
    /// Closed loop: replies release requests. Hides stalls; for peak throughput only.
    #[arg(long)]
    pub closed: bool,
    /// When a request counts as timed out.
    #[arg(long, value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Generator threads.
    #[arg(long, short = 't')]
    pub threads: Option<usize>,
    /// CPUs to pin them to, such as 1,3.
    #[arg(long, value_name = "CPUS", value_delimiter = ',')]
    pub pin: Vec<usize>,
    /// Busy-wait for the schedule instead of sleeping.
    #[arg(long)]
    pub spin: bool,
    /// Which shards connections are made to.
    #[arg(long)]
    pub placement: Option<Placement>,
    /// Bytes per value or topic record.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub value_size: Option<u64>,
    /// How many different keys.
    #[arg(long)]
    pub keys: Option<u64>,
    /// Which of them are asked for.
    #[arg(long)]
    pub distribution: Option<KeyDistribution>,
    /// Put every key once before the warm-up.
    #[arg(long)]
    pub prefill: bool,
    /// When a write is acknowledged: async, local, quorum or all.
    #[arg(long)]
    pub durability: Option<String>,
    /// Weights of the operations, such as put=50,get=50.
    #[arg(long, value_name = "OP=WEIGHT", value_delimiter = ',', value_parser = parse_weight)]
    pub mix: Vec<(String, u32)>,
    /// Records per topic append.
    #[arg(long, value_name = "COUNT")]
    pub batch: Option<usize>,
    /// Seed of every random choice.
    #[arg(long)]
    pub seed: Option<u64>,
}

fn parse_weight(text: &str) -> Result<(String, u32), String> {
    let (name, weight) = text.split_once('=').ok_or("write for example put=50")?;
    let weight = weight.parse().map_err(|e| format!("weight of {name}: {e}"))?;
    if !["put", "get", "delete", "append", "read"].contains(&name) {
        return Err(format!("`{name}` is no operation: use put, get, delete, append or read"));
    }
    Ok((name.to_owned(), weight))
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

impl Overrides {
    /// Lays the flags over a scenario.
    pub fn apply(self, scenario: &mut Scenario) {
        let load = &mut scenario.load;
        set(&mut scenario.protocol, self.protocol);
        set(&mut scenario.addr, self.addr);
        set(&mut load.connections, self.connections);
        set(&mut load.pipeline, self.pipeline);
        set(&mut scenario.duration, self.duration);
        set(&mut scenario.warmup, self.warmup);
        if let Some(rate) = self.rate {
            load.mode = Mode::Open;
            load.rate = rate;
        }
        if self.closed {
            load.mode = Mode::Closed;
        }
        set(&mut load.arrivals, self.arrivals);
        set(&mut load.timeout, self.timeout);
        set(&mut load.threads, self.threads);
        if !self.pin.is_empty() {
            load.pin = self.pin;
        }
        load.spin |= self.spin;
        set(&mut load.placement, self.placement);
        if let Some(size) = self.value_size {
            scenario.values.size = size as usize;
            (scenario.values.min, scenario.values.max, scenario.values.file) = (None, None, None);
        }
        set(&mut scenario.keys.count, self.keys);
        set(&mut scenario.keys.distribution, self.distribution);
        scenario.keys.prefill |= self.prefill;
        set(&mut scenario.write.durability, self.durability);
        if !self.mix.is_empty() {
            let of = |name| self.mix.iter().filter(|(n, _)| n == name).map(|(_, w)| w).sum();
            let mix = &mut scenario.mix;
            (mix.put, mix.get, mix.delete) = (of("put"), of("get"), of("delete"));
            (mix.append, mix.read) = (of("append"), of("read"));
        }
        set(&mut scenario.topic.records_per_append, self.batch);
        set(&mut scenario.seed, self.seed);
    }

    /// The scenario of a file, or the default one, with the flags laid over it, checked, and with
    /// a seed.
    ///
    /// # Errors
    /// The file is wrong or the whole makes no sense.
    pub fn resolve(self, file: Option<&PathBuf>) -> Result<Scenario, BenchError> {
        let mut scenario = match file {
            Some(path) => Scenario::load(path)?,
            None => Scenario::default(),
        };
        self.apply(&mut scenario);
        scenario.check()?;
        Ok(scenario)
    }
}

/// `sweep`.
#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// Scenario file; without one, a put scenario that flags describe.
    #[arg(value_name = "SCENARIO.toml")]
    pub scenario: Option<PathBuf>,
    /// What to change in it.
    #[command(flatten)]
    pub overrides: Overrides,
    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Rate of the first step.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 1000.0)]
    pub from: f64,
    /// A rate with a higher p99 than this is not sustained; default: ten times the p99 of the
    /// first rate that is.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub p99_max: Option<Duration>,
    /// Measured time of each step of the search.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub step: Duration,
    /// Process of the server, to account its CPU per request.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
}

/// `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The result to hold the other against.
    #[arg(value_name = "A.json")]
    pub before: PathBuf,
    /// The other result.
    #[arg(value_name = "B.json")]
    pub after: PathBuf,
    /// Fail (exit 1) when throughput or p99 got worse by more than this.
    #[arg(long, value_name = "PERCENT")]
    pub fail_above: Option<f64>,
}

/// `report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// The result.
    #[arg(value_name = "RESULT.json")]
    pub result: PathBuf,
    /// The page; default: the result's name with .html.
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `floor`.
#[derive(Clone, Debug, Args)]
pub struct FloorArgs {
    /// Folder on the disk to measure. A file of --file-size is written there, and removed.
    #[arg(long, value_name = "DIR")]
    pub data_root: PathBuf,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 10)]
    pub seconds: u32,
    /// Size of the file fio works on.
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = parse_bytes)]
    pub file_size: u64,
    /// Skip fio.
    #[arg(long)]
    pub no_fio: bool,
    /// Skip the echo.
    #[arg(long)]
    pub no_echo: bool,
    /// CPU of the echo server.
    #[arg(long, default_value_t = 0)]
    pub server_cpu: usize,
    /// CPU of the generator.
    #[arg(long, default_value_t = 1)]
    pub client_cpu: usize,
    /// Write the result as JSON here.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Show no progress.
    #[arg(long, short)]
    pub quiet: bool,
}

/// `peers`.
#[derive(Clone, Debug, Args)]
pub struct PeersArgs {
    /// Folder under which every server gets its own; all on one disk.
    #[arg(long, value_name = "DIR")]
    pub data_root: PathBuf,
    /// Servers to measure, the first one against each of the others. Those that are not
    /// installed are left out, and the report says so.
    #[arg(long, value_delimiter = ',', default_value = "ironring,redis,nats,etcd")]
    pub systems: Vec<crate::peers::System>,
    /// Scenarios to measure; all when none is named.
    #[arg(long, value_delimiter = ',')]
    pub scenarios: Vec<String>,
    /// Rounds; each measures every server once.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Measured time of each scenario, server and round.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Warm-up before each.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// The ironring program; default: beside this one, else on PATH.
    #[arg(long, value_name = "PATH")]
    pub ironring: Option<PathBuf>,
    /// The redis-server or valkey-server program; default: on PATH.
    #[arg(long, value_name = "PATH")]
    pub redis: Option<PathBuf>,
    /// The nats-server program; default: on PATH.
    #[arg(long, value_name = "PATH")]
    pub nats: Option<PathBuf>,
    /// The etcd program; default: on PATH.
    #[arg(long, value_name = "PATH")]
    pub etcd: Option<PathBuf>,
    /// The etcdctl program: its own `check perf` is run on an etcd of its own, too. Takes a minute.
    #[arg(long, value_name = "PATH")]
    pub etcdctl: Option<PathBuf>,
    /// A further argument of `ironring start`; may be repeated.
    #[arg(long = "ironring-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub ironring_args: Vec<String>,
    /// CPU the servers are pinned to.
    #[arg(long, default_value_t = 0)]
    pub server_cpu: usize,
    /// CPU the generator is pinned to.
    #[arg(long, default_value_t = 1)]
    pub client_cpu: usize,
    /// Write the result as JSON here.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Show no progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// Seed of every random choice; every round uses the same.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep the servers' folders.
    #[arg(long)]
    pub keep: bool,
}

/// `study`.
#[derive(Clone, Debug, Args)]
pub struct StudyArgs {
    /// Which question.
    #[command(subcommand)]
    pub study: StudyVerb,
}

/// The studies.
#[derive(Clone, Debug, Subcommand)]
pub enum StudyVerb {
    /// Gets that miss the cache, beside fio's random reads.
    DiskGets(DiskGetsArgs),
    /// Durable puts by 1, 16, 64 and 256 connections on one and two shards.
    Scaling(ScalingArgs),
    /// Restarts after SIGKILL with and without checkpoints, beside fio's sequential reads.
    Recovery(RecoveryArgs),
    /// Disk use and latency while a live set is overwritten twenty times.
    Overwrite(OverwriteArgs),
    /// Memory and start-up time of many small keys, and the memory ceiling under pressure.
    Index(IndexArgs),
    /// What clients see when a node of three is killed, silenced or stopped.
    Failover(FailoverArgs),
    /// Puts on one, two and three nodes, beside etcd and NATS of three.
    Replication(ReplicationArgs),
    /// What clients see while a node is added, drained and replaced.
    Movement(MovementArgs),
}

impl StudyVerb {
    /// What every study takes.
    #[must_use]
    pub fn common(&self) -> &StudyCommon {
        match self {
            StudyVerb::DiskGets(args) => &args.common,
            StudyVerb::Scaling(args) => &args.common,
            StudyVerb::Recovery(args) => &args.common,
            StudyVerb::Overwrite(args) => &args.common,
            StudyVerb::Index(args) => &args.common,
            StudyVerb::Failover(args) => &args.common,
            StudyVerb::Replication(args) => &args.common,
            StudyVerb::Movement(args) => &args.common,
        }
    }
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: what --out writes.
    Json,
}

/// What every study takes.
#[derive(Clone, Debug, Args)]
pub struct StudyCommon {
    /// Folder under which the study makes its own, and removes it.
    #[arg(long, value_name = "DIR")]
    pub data_root: PathBuf,
    /// The ironring program; default: beside this one, else on PATH.
    #[arg(long, value_name = "PATH")]
    pub ironring: Option<PathBuf>,
    /// A smaller one of the same kind: minutes instead of many.
    #[arg(long)]
    pub quick: bool,
    /// A further argument of `ironring start`; may be repeated.
    #[arg(long = "ironring-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub ironring_args: Vec<String>,
    /// CPU the node is pinned to.
    #[arg(long, default_value_t = 0)]
    pub server_cpu: usize,
    /// CPU the generator is pinned to.
    #[arg(long, default_value_t = 1)]
    pub client_cpu: usize,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep the node's folder.
    #[arg(long)]
    pub keep: bool,
    /// How to print the result.
    #[arg(long = "output", short, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    /// Write the result as JSON here.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Show no progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// Fail (exit 1) when a requirement does not hold.
    #[arg(long)]
    pub strict: bool,
}

impl StudyCommon {
    /// The same, quietly, for part `part` of a study. Each part has another seed: the same requests
    /// again would find what the first ones left in the cache.
    #[must_use]
    pub fn with_seed_of(&self, part: u64) -> StudyCommon {
        StudyCommon { seed: self.seed + part, quiet: true, ..self.clone() }
    }
}

/// `study disk-gets`.
#[derive(Clone, Debug, Args)]
pub struct DiskGetsArgs {
    /// What every study takes.
    #[command(flatten)]
    pub common: StudyCommon,
    /// Bytes of values; the cache is a tenth. Default: 2560 MiB, quick 320 MiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub set: Option<u64>,
    /// Shards: 1 leaves the second CPU to the generator, 2 share both CPUs with it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=2))]
    pub shards: u16,
    /// Rounds; each measures the node and fio once.
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    pub rounds: usize,
    /// Measured time of each.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub duration: Duration,
}

/// `study scaling`.
#[derive(Clone, Debug, Args)]
pub struct ScalingArgs {
    /// What every study takes.
    #[command(flatten)]
    pub common: StudyCommon,
    /// Rounds; each measures every number of connections and shards once.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub rounds: usize,
    /// Measured time of each.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub duration: Duration,
}

/// `study recovery`.
#[derive(Clone, Debug, Args)]
pub struct RecoveryArgs {
    /// What every study takes.
    #[command(flatten)]
    pub common: StudyCommon,
    /// Bytes of values to fill with. Default: 4 GiB, quick 512 MiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub fill: Option<u64>,
    /// Restarts of each log.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub rounds: usize,
}

/// `study overwrite`.
#[derive(Clone, Debug, Args)]
pub struct OverwriteArgs {
    /// What every study takes.
    #[command(flatten)]
    pub common: StudyCommon,
    /// Bytes of live values. Default: 1 GiB, quick 128 MiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub live: Option<u64>,
    /// Bytes to write over them. Default: twenty times the live ones.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub written: Option<u64>,
}

/// `study failover`.
#[derive(Clone, Debug, Args)]
pub struct FailoverArgs {
    /// What every study takes.
    #[command(flatten)]
    pub common: StudyCommon,
    /// What to do to a node; may be repeated. Default: each.
    #[arg(long = "fault", value_name = "FAULT")]
    pub faults: Vec<Fault>,
    /// How often each. Default: 50, quick 5.
    #[arg(long)]
    pub repeats: Option<usize>,
    /// Puts a second that are due, all lanes together.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Lanes: each keeps to one partition and has one put under way.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub lanes: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1024)]
    pub value_bytes: usize,
}

/// `study replication`.
#[derive(Clone, Debug, Args)]
pub struct ReplicationArgs {
    /// What every study takes.
    #[command(flatten)]
    pub common: StudyCommon,
    /// Rounds; each measures every system once.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub rounds: usize,
    /// Measured time of each.
    #[arg(long, default_value = "8s", value_parser = parse_duration)]
    pub duration: Duration,
}

/// `study movement`.
#[derive(Clone, Debug, Args)]
pub struct MovementArgs {
    /// What every study takes.
    #[command(flatten)]
    pub common: StudyCommon,
    /// How fast replicas are moved: gradual, aggressive or progressive.
    #[arg(long, default_value = "gradual")]
    pub pace: String,
    /// Bytes of values there are before. Default: 512 MiB, quick 64 MiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub fill: Option<u64>,
    /// Requests a second that are due; default: half of what the cluster can do in a closed loop.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Lanes: each keeps to one partition and has one request under way.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub lanes: u32,
    /// Bytes of a value that is put while replicas move.
    #[arg(long, default_value_t = 1024)]
    pub value_bytes: usize,
    /// Time looked at before each change.
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    pub before: Duration,
}

/// `study index`.
#[derive(Clone, Debug, Args)]
pub struct IndexArgs {
    /// What every study takes.
    #[command(flatten)]
    pub common: StudyCommon,
    /// Keys. Default: 50 million, quick 2 million.
    #[arg(long)]
    pub keys: Option<u64>,
    /// How long clients push against the memory ceiling.
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    pub duration: Duration,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn resolved(flags: &[&str]) -> Result<Scenario, String> {
        let words = ["ironring-bench", "run"].iter().chain(flags);
        let cli = Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        let Verb::Run(args) = cli.verb else { panic!("not run") };
        args.overrides.resolve(args.scenario.as_ref()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_win_over_the_defaults() {
        let s = resolved(&[
            "--closed",
            "-c",
            "8",
            "-P",
            "2",
            "--mix",
            "put=1,get=3",
            "--value-size",
            "4KiB",
            "--duration",
            "500ms",
            "--pin",
            "1",
            "--durability",
            "async",
            "--seed",
            "9",
        ])
        .unwrap();
        assert_eq!((s.load.mode, s.load.connections, s.load.pipeline), (Mode::Closed, 8, 2));
        assert_eq!((s.mix.put, s.mix.get, s.values.size), (1, 3, 4096));
        assert_eq!((s.duration, s.load.pin, s.seed), (Duration::from_millis(500), vec![1], 9));
        assert_eq!(s.write.durability, "async");
    }

    #[test]
    fn a_rate_opens_the_loop_and_contradicts_closed() {
        assert_eq!(resolved(&["--rate", "5000"]).unwrap().load.rate, 5000.0);
        assert!(resolved(&["--rate", "5000", "--closed"]).is_err());
        assert!(resolved(&["--mix", "fly=1"]).unwrap_err().contains("fly"));
    }
}
