//! Drills: what is promised of a cluster, tried on real processes, one drill by name for each promise.
//!
//! A drill starts nodes on loopback ([`crate::chaos::nodes`]) with the proxies of chaos between them,
//! loads them with its clients, does what the promise is about, and notes each step with what was seen.
//! In the end everything heals, every acknowledged write has to be there, and the clients' history has to
//! be linearizable ([`crate::chaos::judge`]). No drill asserts how long anything takes: what does not
//! happen within minutes has not happened.
//!
//! - [`stage`]: what every drill begins and ends with, and what it waits for.
//! - [`probe`]: requests to one node and no other, and whether a cluster serves.
//! - [`forge`]: a proxy that changes what a node says of itself at the door.
//! - The others are the drills.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::Serialize;

use crate::chaos::nodes::ChaosError;

mod forge;
mod links;
mod losses;
mod places;
mod probe;
mod quiet;
mod refusals;
mod stage;

use stage::Stage;

/// A drill.
#[derive(Clone, Copy)]
pub struct Drill {
    /// Its name.
    pub name: &'static str,
    /// What it tries.
    pub about: &'static str,
    run: fn(&mut Stage) -> Result<(), ChaosError>,
}

/// All of them.
pub const DRILLS: &[Drill] = &[
    Drill {
        name: "rf2",
        about: "two data nodes and a third without data: either data node dies, and the third",
        run: losses::rf2,
    },
    Drill {
        name: "one-after-the-other",
        about: "three replicas lose two nodes in turn: of four nodes, then of three",
        run: losses::one_after_the_other,
    },
    Drill {
        name: "minority",
        about: "a node that is cut off refuses writes, serves stale reads, and heals without divergence",
        run: links::minority,
    },
    Drill {
        name: "voters",
        about: "3, 5 and 7 voters go on without 1, 2 and 3, and stop with one more",
        run: losses::voters,
    },
    Drill {
        name: "full-restart",
        about: "all nodes are killed at once under load, and started in any order",
        run: losses::full_restart,
    },
    Drill {
        name: "join-busy",
        about: "a node joins under load, and no request fails",
        run: quiet::join_busy,
    },
    Drill {
        name: "refusals",
        about: "nodes that must not be let in are told why, and end; nobody else notices",
        run: refusals::refusals,
    },
    Drill {
        name: "returned",
        about: "a node that was cut off comes back, and nothing is elected for that",
        run: links::returned,
    },
    Drill {
        name: "steady",
        about: "load with nothing failing, at a rate and for a time (--rate, --seconds): no election",
        run: quiet::steady,
    },
    Drill {
        name: "force-quorum",
        about: "two of three voters are lost for good: the survivor is forced, others join it, empty",
        run: losses::force_quorum,
    },
    Drill {
        name: "bad-places",
        about: "a node that stood still, a log with a torn end, a disk that is full",
        run: places::bad_places,
    },
];

/// How drills are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `ironring` program.
    pub program: PathBuf,
    /// Where each drill's folder is made; the system's folder for temporary files by default.
    pub data_root: Option<PathBuf>,
    /// Keep the folder of a drill that failed: data and logs of its nodes.
    pub keep: bool,
    /// How long `steady` lasts.
    pub seconds: u64,
    /// Puts a second of `steady`.
    pub rate: u64,
    /// What the clients' choices come from, and the order of starts.
    pub seed: u64,
}

/// One thing that was done, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was done.
    pub done: String,
    /// What was seen.
    pub seen: String,
    /// Whether that is what has to be.
    pub ok: bool,
}

/// What a drill came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub drill: &'static str,
    /// All steps were as they have to be, and none was left out by a failure.
    pub passed: bool,
    /// How long it took.
    pub seconds: f64,
    /// What was done and seen.
    pub steps: Vec<Step>,
    /// The nodes' data and logs, when they were kept.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// As a person reads it.
    #[must_use]
    pub fn show(&self) -> String {
        let verdict = if self.passed { "PASS" } else { "FAIL" };
        let mut text = format!("{verdict} {} ({:.0} s)\n", self.drill, self.seconds);
        let width = self.steps.iter().map(|step| step.done.chars().count()).max().unwrap_or(0);
        for step in &self.steps {
            let mark = if step.ok { "ok  " } else { "FAIL" };
            let mut lines = step.seen.lines();
            let first = lines.next().unwrap_or("");
            let _ = writeln!(text, "  {mark} {:<width$}  {first}", step.done);
            for line in lines {
                let _ = writeln!(text, "       {:<width$}  {line}", "");
            }
        }
        if let Some(kept) = &self.kept {
            let _ = writeln!(text, "  kept: {}", kept.display());
        }
        text
    }
}

/// The drill of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Drill> {
    DRILLS.iter().find(|drill| drill.name == name)
}

/// Makes a drill. What fails in it, the harness too, is a step that is not as it has to be.
#[must_use]
pub fn run(drill: &Drill, options: &Options, interrupted: &Arc<AtomicBool>) -> Report {
    let begin = Instant::now();
    let mut stage = match Stage::new(drill.name, options, Arc::clone(interrupted)) {
        Ok(stage) => stage,
        Err(error) => {
            let step = Step { done: "prepare".to_owned(), seen: error.to_string(), ok: false };
            let (drill, steps) = (drill.name, vec![step]);
            return Report { drill, passed: false, seconds: 0.0, steps, kept: None };
        }
    };
    if let Err(error) = (drill.run)(&mut stage) {
        stage.check("go on", error.to_string(), false);
    }
    let (steps, passed, kept) = stage.end();
    Report { drill: drill.name, passed, seconds: begin.elapsed().as_secs_f64(), steps, kept }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn drills_are_found_by_their_names() {
        let names: BTreeSet<&str> = DRILLS.iter().map(|drill| drill.name).collect();
        assert_eq!(names.len(), DRILLS.len());
        assert!(
            DRILLS.iter().all(|drill| find(drill.name).is_some_and(|d| d.about == drill.about))
        );
        assert!(find("none").is_none());
    }

    #[test]
    fn a_report_says_what_failed() {
        let step =
            |done: &str, seen: &str, ok| Step { done: done.to_owned(), seen: seen.to_owned(), ok };
        let steps = vec![step("kill n1", "served", true), step("kill n2", "two\nlines", false)];
        let report = Report { drill: "rf2", passed: false, seconds: 2.0, steps, kept: None };
        let text =
            "FAIL rf2 (2 s)\n  ok   kill n1  served\n  FAIL kill n2  two\n                lines\n";
        assert_eq!(report.show(), text);
    }
}
