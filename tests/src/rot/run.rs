//! A run: nodes and clients, rounds of corruption and healing, and what it all came to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_core::prng::Prng;
use ironring_log::format::superblock::{COPIES, COPY_EXTENT_BYTES, SUPERBLOCK_FILE_BYTES};
use serde::Serialize;
use serde_json::json;

use super::clients::{self, CLIENTS, Phase, Seen};
use super::files::{self, Damage, Segment, Site, Verified};
use super::plan::{Kind, Round, rounds};
use crate::chaos::nodes::{ChaosError, Nodes, system};
use crate::chaos::workload::PARTITIONS;

/// How long what was corrupted may take to be found and repaired.
const HEALING_MAX: Duration = Duration::from_secs(240);
/// How long the log may rely on a segment that was corrupted and holds nothing that is needed: it goes
/// when two checkpoints lie behind it.
const LEAVING_MAX: Duration = Duration::from_secs(400);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Rounds of the scrub after which everything that was there has been read.
const SCRUB_ROUNDS: f64 = 2.0;
/// Segments a round corrupts under a node that runs: each has to be written again.
const SEGMENTS_MAX: u64 = 3;
/// What every node is set to: everything is read again within seconds, and a dead node is known soon.
const SETTINGS: [&str; 5] = [
    "log.scrub_bytes_per_second_min=16MiB",
    "memory.cache_bytes=8MiB",
    "controller.session_timeout_ms=3000",
    "log.reserve_segments=2",
    "repair.compare_interval_s=20",
];

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `ironring` program.
    pub program: PathBuf,
    /// What the plan and the clients' choices come from.
    pub seed: u64,
    /// Corruptions to put in, at least.
    pub corruptions: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Where the run's folder is made; the system's folder for temporary files by default.
    pub dir: Option<PathBuf>,
    /// Keep the run's folder although nothing was wrong.
    pub keep: bool,
}

/// What the nodes counted, over all their runs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counted {
    /// Places that did not verify while a log was open.
    pub places_found: u64,
    /// Superblock copies, segment headers and checkpoints that did not verify when one was opened.
    pub found_at_start: u64,
    /// Records that could not be read.
    pub records_lost: u64,
    /// Records taken from another replica.
    pub records_repaired: u64,
    /// Records of damaged segments that could be read, written again elsewhere.
    pub records_moved: u64,
    /// Damaged partitions that are whole again.
    pub partitions_repaired: u64,
    /// Damaged segments given back.
    pub segments_retired: u64,
    /// Logs that could not be opened.
    pub logs_lost: u64,
    /// Logs made anew from other replicas.
    pub logs_rebuilt: u64,
    /// Ranges compared with other replicas.
    pub ranges_compared: u64,
    /// Those that differed: none may, a copy that is repaired has what the others have.
    pub ranges_differing: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the plan and the clients' choices came from.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Seconds with corruption and healing.
    pub seconds: f64,
    /// Rounds, by kind.
    pub rounds: BTreeMap<&'static str, u64>,
    /// Corruptions put in, by kind of round.
    pub corruptions: BTreeMap<&'static str, u64>,
    /// All of them.
    pub put_in: u64,
    /// Those of segments a log still relied on in the end.
    pub left: u64,
    /// What the nodes counted.
    pub counted: Counted,
    /// Nodes that joined again empty, and were rebuilt.
    pub nodes_rebuilt: u64,
    /// The longest a round took until every replica was whole and voted again, in seconds.
    pub healing_max_s: f64,
    /// What clients saw.
    pub clients: Seen,
    /// What was verified of the stopped nodes' files, by node.
    pub files: Vec<Verified>,
    /// What was wrong besides.
    pub problems: Vec<String>,
    /// The run's folder, when it was kept: `corruptions.jsonl` and the nodes' data and logs.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Whether nothing was lost, nothing served wrong, and everything repaired.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        let seen = &self.clients;
        seen.lost.is_empty()
            && seen.wrong.is_empty()
            && seen.unproven.is_empty()
            && self.problems.is_empty()
            && self.left == 0
            && self.counted.ranges_differing == 0
            && self.files.len() == self.nodes
    }

    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = format!("seed {}, {} nodes, {:.0} s\n", self.seed, self.nodes, self.seconds);
        let of = |counts: &BTreeMap<&str, u64>| {
            let words: Vec<String> = counts.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
            words.join(", ")
        };
        let rounds: u64 = self.rounds.values().sum();
        let _ = writeln!(text, "rounds: {rounds} ({})", of(&self.rounds));
        let _ = writeln!(text, "corruptions: {} ({})", self.put_in, of(&self.corruptions));
        let c = &self.counted;
        let _ = writeln!(
            text,
            "found: {} places in open logs, {} at starts, {} records lost, {} logs lost",
            c.places_found, c.found_at_start, c.records_lost, c.logs_lost
        );
        let _ = writeln!(
            text,
            "repaired: {} records from replicas, {} moved, {} partitions, {} segments given back, {} \
             logs rebuilt, {} nodes rebuilt; left {}",
            c.records_repaired,
            c.records_moved,
            c.partitions_repaired,
            c.segments_retired,
            c.logs_rebuilt,
            self.nodes_rebuilt,
            self.left
        );
        let _ = writeln!(
            text,
            "compared: {} ranges with other replicas, {} differing",
            c.ranges_compared, c.ranges_differing
        );
        let _ = writeln!(text, "longest healing: {:.1} s", self.healing_max_s);
        let seen = &self.clients;
        let _ = writeln!(
            text,
            "meanwhile: {} reads and {} stale reads judged, {} requests failed, {} of unknown outcome",
            seen.reads, seen.stale_reads, seen.failed, seen.unknown
        );
        let _ = writeln!(
            text,
            "ledger: acked {}, verified {}, at each node alone {}, lost {}, served wrong {}",
            seen.acked,
            seen.verified,
            seen.verified_at_each,
            seen.lost.len(),
            seen.wrong.len()
        );
        for (node, files) in self.files.iter().enumerate() {
            let _ = writeln!(
                text,
                "files of n{}: {} segments, {} groups, {} records, {} checkpoints verified",
                node + 1,
                files.segments,
                files.groups,
                files.records,
                files.checkpoints
            );
        }
        for (what, all) in [
            ("LOST", &seen.lost),
            ("WRONG", &seen.wrong),
            ("UNPROVEN", &seen.unproven),
            ("PROBLEM", &self.problems),
        ] {
            for why in all.iter().take(20) {
                let _ = writeln!(text, "{what}: {why}");
            }
            if all.len() > 20 {
                let _ = writeln!(text, "{what}: and {} more", all.len() - 20);
            }
        }
        if let Some(kept) = &self.kept {
            let _ = writeln!(text, "kept: {}", kept.display());
        }
        text
    }
}

/// Makes a run.
///
/// # Errors
/// When there is nothing to judge: the cluster does not come up, or the system refuses something.
pub fn run(options: &Options) -> Result<Report, ChaosError> {
    let root = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    fs::create_dir_all(&root).map_err(system(root.display().to_string()))?;
    let folder = tempfile::Builder::new()
        .prefix(&format!("rot-{}-", options.seed))
        .tempdir_in(&root)
        .map_err(system(root.display().to_string()))?;
    let mut nodes = Nodes::none(&options.program, folder.path(), options.nodes)?;
    for _ in 0..options.nodes {
        nodes.add(&flags())?;
    }
    nodes.until_healthy()?;
    let addresses = nodes.addresses();
    clients::make_topic(&addresses).map_err(|error| ChaosError::Cluster(error.to_string()))?;
    let phase = Arc::new(Phase::default());
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let started = clients::start(options.seed, client, addresses.clone(), &phase);
        clients.push(started.map_err(system("starting a client"))?);
    }
    let mut rot = Rot::new(nodes, folder.path());
    let begin = Instant::now();
    let mut problems = Vec::new();
    let lived = rot
        .until(HEALING_MAX, "clients have written what is to be corrupted", |_| phase.all_ready())
        .and_then(|()| rot.until_whole(&vec![0.0; options.nodes]))
        .and_then(|_| rot.live(&rounds(options.seed, options.nodes, options.corruptions)));
    let seconds = begin.elapsed().as_secs_f64();
    if let Err(error) = lived {
        problems.push(error.to_string());
        rot.nodes.ask_all()?;
    }
    phase.rest();
    if let Err(error) = rot.nodes.until_healthy() {
        problems.push(error.to_string());
    }
    phase.read();
    let seen = join(clients, &mut problems);
    let files = rot.end(&mut problems);
    problems.extend(std::mem::take(&mut rot.nodes.problems));
    let mut report = Report {
        seed: options.seed,
        nodes: options.nodes,
        seconds,
        put_in: rot.corruptions.values().sum(),
        left: rot.sites.iter().filter(|site| site.is_left()).count() as u64,
        counted: rot.counted(),
        rounds: rot.rounds,
        corruptions: rot.corruptions,
        nodes_rebuilt: rot.nodes_rebuilt,
        healing_max_s: rot.healing_max.as_secs_f64(),
        clients: seen,
        files,
        problems,
        kept: None,
    };
    if options.keep || !report.is_fine() {
        report.kept = Some(folder.keep());
    }
    Ok(report)
}

/// Flags of every node.
fn flags() -> Vec<&'static str> {
    SETTINGS.iter().flat_map(|setting| ["--set", setting]).collect()
}

fn join(clients: Vec<JoinHandle<Seen>>, problems: &mut Vec<String>) -> Seen {
    let mut seen = Seen::default();
    for client in clients {
        match client.join() {
            Ok(one) => seen.add(one),
            Err(_) => problems.push("a client of the harness panicked".to_owned()),
        }
    }
    seen
}

/// A cluster that rots.
struct Rot {
    nodes: Nodes,
    /// What was done is written here.
    journal: PathBuf,
    lines: String,
    sites: Vec<Site>,
    rounds: BTreeMap<&'static str, u64>,
    corruptions: BTreeMap<&'static str, u64>,
    nodes_rebuilt: u64,
    healing_max: Duration,
    /// What each node's process counted when it was looked at last, and all of them together.
    last: Vec<BTreeMap<String, f64>>,
    sums: BTreeMap<String, f64>,
}

impl Rot {
    fn new(nodes: Nodes, folder: &Path) -> Rot {
        let count = nodes.addresses().len();
        Rot {
            nodes,
            journal: folder.join("corruptions.jsonl"),
            lines: String::new(),
            sites: Vec::new(),
            rounds: BTreeMap::new(),
            corruptions: BTreeMap::new(),
            nodes_rebuilt: 0,
            healing_max: Duration::ZERO,
            last: vec![BTreeMap::new(); count],
            sums: BTreeMap::new(),
        }
    }

    fn live(&mut self, rounds: &[Round]) -> Result<(), ChaosError> {
        for (number, round) in rounds.iter().enumerate() {
            self.count_all();
            let scrubbed = self.scrub_rounds();
            *self.rounds.entry(round.kind.name()).or_default() += 1;
            let put_in = self.inflict(number, round)?;
            *self.corruptions.entry(round.kind.name()).or_default() += put_in;
            let named = system(self.journal.display().to_string());
            fs::write(&self.journal, &self.lines).map_err(named)?;
            // A process that was started anew counts from the beginning.
            let since: Vec<f64> = scrubbed
                .into_iter()
                .enumerate()
                .map(|(node, n)| if round.kind.stops() && node == round.node { 0.0 } else { n })
                .collect();
            let took = self.until_whole(&since)?;
            self.healing_max = self.healing_max.max(took);
            eprintln!(
                "round {} of {}: {} on n{}, {put_in} put in, whole after {:.1} s",
                number + 1,
                rounds.len(),
                round.kind.name(),
                round.node + 1,
                took.as_secs_f64()
            );
        }
        self.until(LEAVING_MAX, "the logs rely on nothing that was corrupted", |rot| {
            rot.sites.retain(Site::is_left);
            rot.sites.is_empty()
        })
    }

    /// Corrupts files; how often.
    fn inflict(&mut self, number: usize, round: &Round) -> Result<u64, ChaosError> {
        let Round { kind, node, count, seed, .. } = *round;
        let mut prng = Prng::new(seed);
        if kind == Kind::Spread {
            return self.spread(number, round, &mut prng);
        }
        if kind == Kind::LoseUnder {
            let all = self.segments(node)?;
            let Some(segment) = draw_file(&all, &mut prng) else { return Ok(0) };
            let damage = match prng.chance(1, 2) {
                true => Damage::Delete,
                false => Damage::Truncate { len: prng.below(file_len(&segment.file)?) },
            };
            self.put(number, node, segment, damage)?;
            std::thread::sleep(Duration::from_millis(prng.below(1000)));
            self.stop(node, false)?;
            self.start(node)?;
            return Ok(1);
        }
        if kind.stops() {
            self.stop(node, round.politely)?;
        }
        let dir = self.shard_dir(node);
        let done = match kind {
            Kind::Flip | Kind::StoppedFlip => {
                let all = self.segments(node)?;
                let drawn = files::draw_flips(&all, &mut prng, (count, SEGMENTS_MAX));
                self.put_all(number, node, &all, drawn)?
            }
            Kind::Garbage | Kind::StoppedGarbage => {
                let all = self.segments(node)?;
                let drawn = files::draw_fills(&all, &mut prng, (count, SEGMENTS_MAX));
                self.put_all(number, node, &all, drawn)?
            }
            Kind::Truncate | Kind::DeleteSegment => {
                let all = self.segments(node)?;
                let mut done = 0;
                for _ in 0..count {
                    let Some(segment) = draw_file(&all, &mut prng) else { break };
                    let damage = match kind {
                        Kind::Truncate => {
                            Damage::Truncate { len: prng.below(file_len(&segment.file)?.max(1)) }
                        }
                        _ => Damage::Delete,
                    };
                    self.put(number, node, segment, damage)?;
                    done += 1;
                }
                done
            }
            Kind::Superblock => {
                let file = dir.join("superblock");
                let first = prng.below(COPIES as u64);
                let extent = COPY_EXTENT_BYTES as u64;
                let mut fill = |pos, len| Damage::Fill { pos, len, noise: Some(prng.next_u64()) };
                let damages = match seed % 3 {
                    0 => vec![fill(0, SUPERBLOCK_FILE_BYTES as u64)],
                    copies => (0..copies)
                        .map(|n| fill((first + n) % COPIES as u64 * extent, extent))
                        .collect(),
                };
                self.corrupt_files(number, node, &[file], &damages)?
            }
            Kind::Checkpoints => {
                let mut all = files::checkpoints(&dir).map_err(system("looking at checkpoints"))?;
                all.truncate(if prng.chance(1, 2) { 1 } else { all.len() });
                let mut done = 0;
                for file in all {
                    let len = file_len(&file)?;
                    let pos = prng.below(len);
                    let bit = Damage::Bit { pos, bit: prng.below(8) as u8 };
                    done += self.corrupt_files(number, node, &[file], &[bit])?;
                }
                done
            }
            Kind::DeleteLog => {
                let entries = fs::read_dir(&dir).map_err(system("looking at a log"))?;
                let all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
                self.corrupt_files(number, node, &all, &[Damage::Delete])?.min(1)
            }
            Kind::Wipe => self.wipe(number, node)?,
            Kind::Reinit => self.reinit(number, node, &mut prng)?,
            Kind::Spread | Kind::LoseUnder => unreachable!("done above"),
        };
        if kind.stops() && !matches!(kind, Kind::Wipe | Kind::Reinit) {
            self.start(node)?;
        }
        Ok(done)
    }

    /// Every node loses records, each of partitions the others hold whole.
    fn spread(&mut self, number: usize, round: &Round, prng: &mut Prng) -> Result<u64, ChaosError> {
        let nodes = self.last.len();
        let mut done = 0;
        for node in 0..nodes {
            let all = self.segments(node)?;
            let victim = |p: u32| (p as usize + round.node) % nodes == node;
            let drawn = files::draw_spread(&all, prng, round.count / nodes as u64, victim);
            done += self.put_all(number, node, &all, drawn)?;
        }
        Ok(done)
    }

    /// The node's whole directory is gone: it is given up, and another one joins under its name.
    fn wipe(&mut self, number: usize, node: usize) -> Result<u64, ChaosError> {
        let dir = self.nodes.data_dir(node);
        fs::remove_dir_all(&dir).map_err(system(dir.display().to_string()))?;
        self.note(number, node, &dir, json!("wipe"));
        let other = (node + 1) % self.last.len();
        let name = format!("n{}", node + 1);
        let gone = |rot: &mut Rot| {
            let members = rot.nodes.said(other, &["cluster", "members"]);
            let named = |m: &serde_json::Value| m["name"] == name.as_str();
            let there = members.is_ok_and(|all| all.as_array().is_none_or(|a| a.iter().any(named)));
            if there {
                // Refused until it is dead.
                let give_up = ["cluster", "leave", name.as_str(), "--lost", "--yes"];
                let _ = rot.nodes.said(other, &give_up);
            }
            !there
        };
        self.until(HEALING_MAX, "the wiped node is a member no more", gone)?;
        self.start_empty(node)?;
        self.nodes_rebuilt += 1;
        Ok(1)
    }

    /// What the node has of the metadata group is damaged: its operator empties it.
    fn reinit(&mut self, number: usize, node: usize, prng: &mut Prng) -> Result<u64, ChaosError> {
        let meta = self.nodes.data_dir(node).join("meta");
        let mut all = Vec::new();
        for entry in fs::read_dir(&meta).map_err(system(meta.display().to_string()))?.flatten() {
            all.push(entry.path());
        }
        all.sort();
        let files: Vec<PathBuf> = all.into_iter().filter(|file| file.is_file()).collect();
        let mut done = 0;
        for file in files {
            let len = file_len(&file)?;
            if len > 0 && prng.chance(1, 2) {
                let noise = Some(prng.next_u64());
                let fill = Damage::Fill { pos: 0, len, noise };
                done += self.corrupt_files(number, node, &[file], &[fill])?;
            }
        }
        let dir = self.nodes.data_dir(node).display().to_string();
        self.nodes
            .command(&["node", "reinit", "--yes", "--data-dir", &dir])
            .map_err(ChaosError::Cluster)?;
        self.start_empty(node)?;
        self.nodes_rebuilt += 1;
        Ok(done.min(1))
    }

    fn put_all(
        &mut self,
        number: usize,
        node: usize,
        all: &[Segment],
        drawn: Vec<(usize, Damage)>,
    ) -> Result<u64, ChaosError> {
        let done = drawn.len() as u64;
        for (at, damage) in drawn {
            self.put(number, node, &all[at], damage)?;
        }
        Ok(done)
    }

    fn put(
        &mut self,
        number: usize,
        node: usize,
        segment: &Segment,
        damage: Damage,
    ) -> Result<(), ChaosError> {
        let named = system(segment.file.display().to_string());
        let site = Site::new(&self.shard_dir(node), segment, damage).map_err(named)?;
        self.note(number, node, &segment.file, json!(damage));
        self.sites.push(site);
        Ok(())
    }

    fn corrupt_files(
        &mut self,
        number: usize,
        node: usize,
        paths: &[PathBuf],
        damages: &[Damage],
    ) -> Result<u64, ChaosError> {
        for path in paths {
            for damage in damages {
                files::corrupt(path, *damage).map_err(system(path.display().to_string()))?;
                self.note(number, node, path, json!(damage));
            }
        }
        Ok((paths.len() * damages.len()) as u64)
    }

    fn note(&mut self, round: usize, node: usize, file: &Path, damage: serde_json::Value) {
        let line = json!({ "round": round + 1, "node": node + 1, "file": file, "damage": damage });
        let _ = writeln!(self.lines, "{line}");
    }

    fn segments(&self, node: usize) -> Result<Vec<Segment>, ChaosError> {
        let dir = self.shard_dir(node);
        let all = files::segments(&dir).map_err(system(dir.display().to_string()))?;
        // What is corrupted is being emptied: to corrupt it again says little.
        let fresh = |s: &Segment| {
            !self.sites.iter().any(|site| site.file == s.file && site.place == s.place)
        };
        let sound: Vec<Segment> = all.iter().filter(|s| fresh(s)).cloned().collect();
        Ok(if sound.iter().any(|s| !s.records.is_empty()) { sound } else { all })
    }

    fn shard_dir(&self, node: usize) -> PathBuf {
        self.nodes.data_dir(node).join("shard-000")
    }

    fn stop(&mut self, node: usize, politely: bool) -> Result<(), ChaosError> {
        self.count(node);
        self.last[node].clear();
        if politely {
            self.nodes.terminate(node)?;
        } else {
            self.nodes.kill(node)?;
        }
        self.ended(node, politely)
    }

    fn ended(&mut self, node: usize, politely: bool) -> Result<(), ChaosError> {
        let status = self.nodes.await_end(node)?;
        if let Some(status) = status.filter(|status| politely && !status.success()) {
            let name = self.nodes.name(node);
            self.nodes.problems.push(format!("{name} ended with {status} on SIGTERM"));
        }
        Ok(())
    }

    /// Starts a node whose data directory was emptied or is gone: it joins by the others.
    fn start_empty(&mut self, node: usize) -> Result<(), ChaosError> {
        let seeds: Vec<String> =
            (1..self.last.len()).map(|other| self.nodes.peers(other)).collect();
        let (seeds, mut flags) = (seeds.join(","), flags());
        if node == 0 {
            // It founded the cluster, and is told of nobody.
            flags.extend(["--seeds", &seeds]);
        }
        self.nodes.set_flags(node, &flags);
        self.last[node].clear();
        self.nodes.restart(node)
    }

    fn start(&mut self, node: usize) -> Result<(), ChaosError> {
        self.nodes.restart(node)
    }

    /// Waits until everything was read again, no replica lacks anything, and all of them vote.
    fn until_whole(&mut self, scrubbed: &[f64]) -> Result<Duration, ChaosError> {
        let begin = Instant::now();
        let whole = |rot: &mut Rot| {
            (0..scrubbed.len()).all(|node| {
                rot.count(node);
                let of = |name: &str| rot.last[node].get(name).copied();
                of("ironring_repair_partitions_damaged") == Some(0.0)
                    && of("ironring_repair_segments_damaged") == Some(0.0)
                    && of("ironring_shard_state_damaged") == Some(0.0)
                    && of("ironring_scrub_rounds_total")
                        .is_some_and(|n| n >= scrubbed[node] + SCRUB_ROUNDS)
            })
        };
        self.until(HEALING_MAX, "every replica is whole", whole)?;
        self.nodes.until_healthy()?;
        Ok(begin.elapsed())
    }

    fn until(
        &mut self,
        most: Duration,
        what: &str,
        mut is: impl FnMut(&mut Rot) -> bool,
    ) -> Result<(), ChaosError> {
        let by = Instant::now() + most;
        while !is(self) {
            if Instant::now() > by {
                return Err(ChaosError::Cluster(format!("not within {most:?}: {what}")));
            }
            self.nodes.look()?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn scrub_rounds(&self) -> Vec<f64> {
        let of = |node: &BTreeMap<String, f64>| node.get("ironring_scrub_rounds_total").copied();
        self.last.iter().map(|node| of(node).unwrap_or(0.0)).collect()
    }

    /// Looks at what a node's process counted since it was looked at last.
    fn count(&mut self, node: usize) {
        let Ok(found) = self.nodes.counters(node) else { return };
        for (name, value) in &found {
            let before = self.last[node].get(name).copied().unwrap_or(0.0);
            *self.sums.entry(name.clone()).or_default() += (value - before).max(0.0);
        }
        self.last[node] = found;
    }

    fn count_all(&mut self) {
        (0..self.last.len()).for_each(|node| self.count(node));
    }

    fn counted(&self) -> Counted {
        let of = |name: &str| self.sums.get(&format!("ironring_{name}")).map_or(0, |n| *n as u64);
        Counted {
            places_found: of("damages_total"),
            found_at_start: of("recovery_damages"),
            records_lost: of("repair_records_lost_total"),
            records_repaired: of("repair_records_total"),
            records_moved: of("repair_records_moved_total"),
            partitions_repaired: of("repair_partitions_total"),
            segments_retired: of("repair_segments_retired_total"),
            logs_lost: of("repair_logs_lost_total"),
            logs_rebuilt: of("repair_logs_total"),
            ranges_compared: of("compare_ranges_total"),
            ranges_differing: of("compare_ranges_differing_total"),
        }
    }

    /// Stops all nodes, and verifies their files.
    fn end(&mut self, problems: &mut Vec<String>) -> Vec<Verified> {
        self.count_all();
        let count = self.last.len();
        let stopped = (0..count)
            .try_for_each(|node| self.nodes.terminate(node))
            .and_then(|()| (0..count).try_for_each(|node| self.ended(node, true)));
        if let Err(error) = stopped {
            problems.push(error.to_string());
        }
        let mut all = Vec::new();
        for node in 0..count {
            match files::verify(&self.shard_dir(node)) {
                Ok((verified, wrong)) => {
                    all.push(verified);
                    problems.extend(wrong);
                }
                Err(error) => problems.push(format!("the files of n{}: {error}", node + 1)),
            }
        }
        all
    }
}

fn file_len(path: &Path) -> Result<u64, ChaosError> {
    let found = fs::metadata(path).map_err(system(path.display().to_string()))?;
    Ok(found.len())
}

/// A segment's file that is there.
fn draw_file<'a>(all: &'a [Segment], prng: &mut Prng) -> Option<&'a Segment> {
    let there: Vec<&Segment> = all.iter().filter(|segment| segment.file.exists()).collect();
    (!there.is_empty()).then(|| there[prng.below(there.len() as u64) as usize])
}

const _: () = assert!(PARTITIONS >= 3, "a spread needs partitions for every node");
