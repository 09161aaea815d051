//! Scenario files: what load to put on which server. One TOML schema, strict: a field it does not
//! know is an error. Flags of the command line are laid over it afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ironring_core::limits::{APPEND_RECORDS_MAX, VALUE_BYTES_MAX};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::units;

/// Most connections one run may open.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Most requests one connection may have unanswered.
pub const PIPELINE_MAX: usize = 4096;
/// Most generator threads.
pub const THREADS_MAX: usize = 64;

/// Which protocol the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolName {
    /// ironring's client protocol.
    Ironring,
    /// RESP: Redis and Valkey.
    Redis,
    /// The NATS text protocol with JetStream acknowledgements.
    Nats,
    /// etcd's JSON gateway: HTTP/1.1.
    Etcd,
}

/// How request times are decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By a schedule, whatever the server does.
    Open,
    /// By the answers: each one releases the next request.
    Closed,
}

/// Gaps between the requests of an open loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ArrivalKind {
    /// All gaps are equal.
    Constant,
    /// Gaps are exponentially distributed: independent users.
    Poisson,
}

/// Which keys are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KeyDistribution {
    /// All alike.
    Uniform,
    /// A few keys get most requests, spread over the key space.
    Zipf,
    /// Writes go round the key space; reads prefer what was written last.
    Latest,
}

/// Which shard a connection is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Whichever the address leads to; a request for a key of another shard crosses over.
    Any,
    /// One shard after the other, and only for keys that shard owns: what a client with the
    /// cluster map does.
    Owner,
    /// The shard at the address, and only for keys it leads.
    Leader,
}

/// A whole scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Name in reports and file names.
    pub name: String,
    /// What it is meant to show.
    pub description: String,
    /// What the server speaks.
    pub protocol: ProtocolName,
    /// Where the server listens, `host:port`.
    pub addr: String,
    /// Measured time.
    #[serde(with = "units::duration")]
    pub duration: Duration,
    /// Time before it that is not measured.
    #[serde(with = "units::duration")]
    pub warmup: Duration,
    /// Seed of every random choice; 0 draws one, which the result names.
    pub seed: u64,
    /// When and how many.
    pub load: Load,
    /// Which keys.
    pub keys: Keys,
    /// How large.
    pub values: Values,
    /// Which operations, by weight.
    pub mix: Mix,
    /// How durable.
    pub write: Write,
    /// For topic operations.
    pub topic: Topic,
}

/// When requests are sent and over how many connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// Open or closed loop.
    pub mode: Mode,
    /// Requests per second over all connections; open loop only.
    pub rate: f64,
    /// Gaps of the open loop.
    pub arrivals: ArrivalKind,
    /// Connections over all threads.
    pub connections: usize,
    /// Most unanswered requests per connection. The closed loop keeps exactly so many.
    pub pipeline: usize,
    /// A request is counted as timed out after this long; a scheduled request that could not
    /// even be sent for this long is shed.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Generator threads, one runtime each.
    pub threads: usize,
    /// CPUs to pin the threads to, in order; empty: not pinned.
    pub pin: Vec<usize>,
    /// Busy-wait for the next scheduled request instead of sleeping. Sends are on time to the
    /// microsecond, for a whole CPU.
    pub spin: bool,
    /// Which shards connections are made to. Only ironring has shards.
    pub placement: Placement,
}

/// The key space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// How many different keys.
    pub count: u64,
    /// Which are asked for.
    pub distribution: KeyDistribution,
    /// Skew of `zipf` and `latest`: above 0; 0.99 is what YCSB uses.
    pub theta: f64,
    /// Write every key once before the warm-up, so that reads find them.
    pub prefill: bool,
}

/// Sizes of values and topic records, in bytes. Exactly one form is used: `file`, else
/// `min`/`max`, else `size`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Values {
    /// All of this size.
    pub size: usize,
    /// Smallest of a uniform range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<usize>,
    /// Largest of a uniform range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
    /// A text file with a size, or a size and a weight, per line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// Weights of the operations; the share of one is its weight over the sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// Store a value.
    pub put: u32,
    /// Read a value.
    pub get: u32,
    /// Remove a key.
    pub delete: u32,
    /// Append a batch of records to a topic.
    pub append: u32,
    /// Read a batch of records from a topic.
    pub read: u32,
}

/// What writes ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Write {
    /// `async`, `local`, `quorum` or `all`. Only ironring is told; a peer's durability is the
    /// server's own setting.
    pub durability: String,
}

/// What topic operations use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topic {
    /// Its name; made when it does not exist.
    pub name: String,
    /// Partitions it is made with; connection `i` uses partition `i` modulo this.
    pub partitions: u32,
    /// Records per append.
    pub records_per_append: usize,
    /// Most bytes per read.
    pub read_bytes_max: u32,
    /// Copies a NATS stream has.
    pub replicas: u8,
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario {
            name: "custom".to_owned(),
            description: String::new(),
            protocol: ProtocolName::Ironring,
            addr: "127.0.0.1:7411".to_owned(),
            duration: Duration::from_secs(30),
            warmup: Duration::from_secs(3),
            seed: 0,
            load: Load::default(),
            keys: Keys::default(),
            values: Values::default(),
            mix: Mix::default(),
            write: Write::default(),
            topic: Topic::default(),
        }
    }
}

impl Default for Load {
    fn default() -> Load {
        Load {
            mode: Mode::Open,
            rate: 1000.0,
            arrivals: ArrivalKind::Poisson,
            connections: 64,
            pipeline: 16,
            timeout: Duration::from_secs(1),
            threads: 1,
            pin: Vec::new(),
            spin: false,
            placement: Placement::Any,
        }
    }
}

impl Default for Keys {
    fn default() -> Keys {
        Keys { count: 100_000, distribution: KeyDistribution::Uniform, theta: 0.99, prefill: false }
    }
}

impl Default for Values {
    fn default() -> Values {
        Values { size: 1024, min: None, max: None, file: None }
    }
}

impl Default for Mix {
    /// No operation at all: a scenario names its own. [`Scenario::check`] takes a mix without
    /// weights for puts only.
    fn default() -> Mix {
        Mix { put: 0, get: 0, delete: 0, append: 0, read: 0 }
    }
}

impl Default for Write {
    fn default() -> Write {
        Write { durability: "local".to_owned() }
    }
}

impl Default for Topic {
    fn default() -> Topic {
        Topic {
            name: "bench".to_owned(),
            partitions: 8,
            records_per_append: 1000,
            read_bytes_max: 1 << 20,
            replicas: 1,
        }
    }
}

impl Mix {
    /// Sum of the weights.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.put, self.get, self.delete, self.append, self.read]
            .iter()
            .map(|w| u64::from(*w))
            .sum()
    }

    /// Whether a topic is needed.
    #[must_use]
    pub fn uses_topic(&self) -> bool {
        self.append + self.read > 0
    }
}

impl Values {
    /// Checks the form and names the largest fixed or ranged size; sizes of a file are checked
    /// when it is read.
    fn check(&self) -> Result<(), String> {
        let in_limit = |name: &str, size: usize| {
            (size <= VALUE_BYTES_MAX)
                .then_some(())
                .ok_or_else(|| format!("values.{name} = {size}: at most {VALUE_BYTES_MAX}"))
        };
        in_limit("size", self.size)?;
        match (self.min, self.max) {
            (None, None) => Ok(()),
            (Some(_), Some(_)) if self.file.is_some() => {
                Err("values: use either min and max, or file".to_owned())
            }
            (Some(min), Some(max)) if min <= max => in_limit("max", max),
            (Some(min), Some(max)) => Err(format!("values: min {min} is above max {max}")),
            _ => Err("values: min and max belong together".to_owned()),
        }
    }
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Load {
    fn check(&self) -> Result<(), String> {
        require((1..=CONNECTIONS_MAX).contains(&self.connections), || {
            format!("load.connections = {}: 1 to {CONNECTIONS_MAX}", self.connections)
        })?;
        require((1..=PIPELINE_MAX).contains(&self.pipeline), || {
            format!("load.pipeline = {}: 1 to {PIPELINE_MAX}", self.pipeline)
        })?;
        require((1..=THREADS_MAX).contains(&self.threads), || {
            format!("load.threads = {}: 1 to {THREADS_MAX}", self.threads)
        })?;
        require(self.threads <= self.connections, || {
            format!("{} threads need at least as many connections", self.threads)
        })?;
        require(self.pin.is_empty() || self.pin.len() >= self.threads, || {
            format!("load.pin names {} CPUs for {} threads", self.pin.len(), self.threads)
        })?;
        require(!self.timeout.is_zero(), || "load.timeout must be above 0".to_owned())?;
        require(self.mode == Mode::Closed || (self.rate.is_finite() && self.rate > 0.0), || {
            format!("load.rate = {}: an open loop needs a rate above 0", self.rate)
        })
    }
}

impl Scenario {
    /// Reads and checks a scenario file. Paths in it are relative to the file.
    ///
    /// # Errors
    /// The file cannot be read, or the message names line, column and field.
    pub fn load(path: &Path) -> Result<Scenario, BenchError> {
        let text = std::fs::read_to_string(path).map_err(BenchError::file(path))?;
        let mut scenario: Scenario = toml::from_str(&text)
            .map_err(|e| BenchError::Usage(format!("{}: {e}", path.display())))?;
        if let (Some(file), Some(folder)) = (&mut scenario.values.file, path.parent()) {
            *file = folder.join(&*file);
        }
        Ok(scenario)
    }

    /// Checks what the types cannot, after flags were laid over. A mix without weights becomes
    /// puts only.
    ///
    /// # Errors
    /// One sentence about the first thing that is wrong.
    pub fn check(&mut self) -> Result<(), BenchError> {
        if self.mix.total() == 0 {
            self.mix.put = 1;
        }
        self.problems().map_err(|e| BenchError::Usage(format!("scenario `{}`: {e}", self.name)))
    }

    fn problems(&self) -> Result<(), String> {
        self.load.check()?;
        self.values.check()?;
        require(!self.duration.is_zero(), || "duration must be above 0".to_owned())?;
        require(self.keys.count > 0, || "keys.count must be above 0".to_owned())?;
        require(self.keys.theta > 0.0 && self.keys.theta < 10.0, || {
            format!("keys.theta = {}: above 0 and below 10", self.keys.theta)
        })?;
        self.write.durability.parse::<ironring_core::Durability>()?;
        require(self.topic.partitions > 0, || "topic.partitions must be above 0".to_owned())?;
        require((1..=APPEND_RECORDS_MAX).contains(&self.topic.records_per_append), || {
            format!("topic.records_per_append: 1 to {APPEND_RECORDS_MAX}")
        })?;
        if self.load.placement == Placement::Owner {
            require(self.protocol == ProtocolName::Ironring && !self.mix.uses_topic(), || {
                "load.placement = \"owner\" is for keys of ironring".to_owned()
            })?;
            // Each connection takes the next key its shard owns, so some would be put twice and
            // others never.
            require(!self.keys.prefill, || {
                "load.placement = \"owner\" cannot fill: do that in a run before".to_owned()
            })?;
        }
        match self.protocol {
            ProtocolName::Ironring => Ok(()),
            ProtocolName::Redis | ProtocolName::Etcd => require(!self.mix.uses_topic(), || {
                "redis and etcd are measured with put, get and delete only".to_owned()
            }),
            ProtocolName::Nats => {
                require(self.mix.put + self.mix.get + self.mix.delete + self.mix.read == 0, || {
                    "nats is measured with append only".to_owned()
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Scenario, String> {
        let mut scenario: Scenario = toml::from_str(text).map_err(|e| e.to_string())?;
        scenario.check().map_err(|e| e.to_string())?;
        Ok(scenario)
    }

    #[test]
    fn an_empty_file_is_a_put_scenario_in_an_open_loop() {
        let s = parse("").unwrap();
        assert_eq!(s.mix.put, 1);
        assert_eq!(s.load.mode, Mode::Open);
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_place_and_the_known_names() {
        let error = parse("name = \"x\"\n[load]\nconections = 3\n").unwrap_err();
        assert!(error.contains("line 3"), "{error}");
        assert!(error.contains("conections") && error.contains("connections"), "{error}");
    }

    #[test]
    fn contradictions_are_named() {
        for (text, expected) in [
            ("[load]\nthreads = 3\nconnections = 2", "3 threads"),
            ("[load]\nrate = 0.0", "rate"),
            ("[load]\nthreads = 2\npin = [1]", "pin"),
            ("[load]\npipeline = 0", "pipeline"),
            ("[values]\nmin = 10", "belong together"),
            ("[values]\nmin = 10\nmax = 5", "above max"),
            ("[values]\nsize = 99999999", "at most"),
            ("[write]\ndurability = \"maybe\"", "maybe"),
            ("protocol = \"redis\"\n[mix]\nappend = 1", "redis"),
            ("protocol = \"etcd\"\n[mix]\nread = 1", "etcd"),
            ("protocol = \"nats\"\n[mix]\nput = 1", "nats"),
            ("duration = \"0s\"", "duration"),
            ("duration = \"quick\"", "quick"),
            ("[keys]\ncount = 0", "keys.count"),
            ("protocol = \"redis\"\n[load]\nplacement = \"owner\"", "placement"),
            ("[load]\nplacement = \"owner\"\n[keys]\nprefill = true", "fill"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?} gave {error}");
        }
    }

    #[test]
    fn a_resolved_scenario_survives_json_and_toml() {
        let s = parse("[values]\nmin = 1\nmax = 9\n[load]\nmode = \"closed\"").unwrap();
        let json = serde_json::to_string(&s).unwrap();
        assert_eq!(serde_json::from_str::<Scenario>(&json).unwrap(), s);
        assert_eq!(toml::from_str::<Scenario>(&toml::to_string(&s).unwrap()).unwrap(), s);
    }

    #[test]
    fn the_committed_scenarios_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") {
                let mut scenario = Scenario::load(&path).unwrap();
                scenario.check().unwrap();
                assert_eq!(path.file_stem().unwrap().to_str().unwrap(), scenario.name);
                assert!(!scenario.description.is_empty(), "{}", scenario.name);
                names.push(scenario.name);
            }
        }
        names.sort();
        let expected =
            ["durable-put", "get-disk", "get-memory", "mixed", "overwrite", "topic-append"];
        assert_eq!(names, expected);
    }
}
