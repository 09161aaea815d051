//! `study`: questions about a node that take more than one run to answer. Each study starts its own
//! node in a fresh folder, puts the load on it, reads the node's own counters, prints one table,
//! and says which of its requirements hold.
//!
//! `--quick` is the same study at a scale that takes a minute or two: settings that are sizes are
//! scaled with the data, so that what is shown is the same mechanism, not the same figure.

mod cluster;
mod disk_gets;
mod failover;
mod index;
mod lanes;
mod movement;
mod node;
mod overwrite;
mod recovery;
mod replication;
mod rivals;
mod scaling;

use serde::{Deserialize, Serialize};

use crate::cli::{Format, StudyArgs, StudyVerb};
use crate::error::BenchError;
use crate::render::Table;
use crate::result::{self, Content, Provenance, ResultFile};
use crate::run::Verdict;
use crate::server;

pub use disk_gets::DiskGetsResult;
pub use failover::{FailoverResult, Fault};
pub use index::IndexResult;
pub use movement::MovementResult;
pub use overwrite::{OverwriteResult, Sample, Slice};
pub use recovery::RecoveryResult;
pub use replication::ReplicationResult;
pub use scaling::ScalingResult;

/// Something a study has to show, and whether it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// What it has to be.
    pub required: String,
    /// What it was.
    pub measured: String,
    /// Whether that is good enough.
    pub holds: bool,
}

/// Figures of one study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figures {
    /// Reads that miss the cache.
    DiskGets(Box<DiskGetsResult>),
    /// Connections and shards.
    Scaling(Box<ScalingResult>),
    /// Restarts after SIGKILL.
    Recovery(Box<RecoveryResult>),
    /// Space under endless overwrites.
    Overwrite(Box<OverwriteResult>),
    /// Many small keys, and the memory ceiling.
    Index(Box<IndexResult>),
    /// Nodes of a cluster that fail.
    Failover(Box<FailoverResult>),
    /// What copies cost.
    Replication(Box<ReplicationResult>),
    /// Replicas that move.
    Movement(Box<MovementResult>),
}

/// Result of a study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyResult {
    /// Whether it was run at the smaller scale.
    pub quick: bool,
    /// Version of the node.
    pub server: String,
    /// How the node was started, beyond its defaults.
    pub settings: Vec<String>,
    /// What it measured.
    pub figures: Figures,
    /// What it had to show.
    pub checks: Vec<Check>,
    /// What a reader must know to read it right.
    pub notes: Vec<String>,
}

impl StudyResult {
    /// Its name on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.figures {
            Figures::DiskGets(_) => "disk-gets",
            Figures::Scaling(_) => "scaling",
            Figures::Recovery(_) => "recovery",
            Figures::Overwrite(_) => "overwrite",
            Figures::Index(_) => "index",
            Figures::Failover(_) => "failover",
            Figures::Replication(_) => "replication",
            Figures::Movement(_) => "movement",
        }
    }
}

/// The command. A requirement that does not hold makes the verdict doubtful.
///
/// # Errors
/// A node does not start or misbehaves, or fio fails.
pub fn command(args: &StudyArgs) -> Result<Verdict, BenchError> {
    server::clean_up_when_interrupted()?;
    let common = args.study.common();
    let study = match &args.study {
        StudyVerb::DiskGets(args) => disk_gets::run(args)?,
        StudyVerb::Scaling(args) => scaling::run(args)?,
        StudyVerb::Recovery(args) => recovery::run(args)?,
        StudyVerb::Overwrite(args) => overwrite::run(args)?,
        StudyVerb::Index(args) => index::run(args)?,
        StudyVerb::Failover(args) => failover::run(args)?,
        StudyVerb::Replication(args) => replication::run(args)?,
        StudyVerb::Movement(args) => movement::run(args)?,
    };
    let provenance = Provenance::here(&common.data_root);
    let good = study.checks.iter().all(|check| check.holds);
    let line = provenance.line();
    let file = ResultFile { provenance, content: Content::Study(Box::new(study)) };
    if let Content::Study(study) = &file.content {
        match common.output {
            Format::Table => println!("{}on {line}", show(study)),
            Format::Json => println!("{}", result::json(&file)?),
        }
    }
    if let Some(out) = &common.out {
        result::write(out, &file)?;
    }
    Ok(if good { Verdict::Good } else { Verdict::Doubtful })
}

/// A study as a person reads it.
#[must_use]
pub fn show(study: &StudyResult) -> String {
    let scale = if study.quick { " (quick)" } else { "" };
    let mut text = format!("{}{scale}: ", study.name());
    text += &match &study.figures {
        Figures::DiskGets(figures) => figures.show(),
        Figures::Scaling(figures) => figures.show(),
        Figures::Recovery(figures) => figures.show(),
        Figures::Overwrite(figures) => figures.show(),
        Figures::Index(figures) => figures.show(),
        Figures::Failover(figures) => figures.show(),
        Figures::Replication(figures) => figures.show(),
        Figures::Movement(figures) => figures.show(),
    };
    if !study.checks.is_empty() {
        let mut table = Table::new(&["requirement", "required", "measured", ""]);
        for check in &study.checks {
            let verdict = if check.holds { "holds" } else { "MISSED" };
            let cells = [&check.what, &check.required, &check.measured].map(String::clone);
            table.row(cells.into_iter().chain([verdict.to_owned()]));
        }
        text += &table.show();
    }
    for note in &study.notes {
        text += &format!("note: {note}\n");
    }
    text + &format!("node: {}, started with {}\n", study.server, study.settings.join(" "))
}
