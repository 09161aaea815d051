//! `compare`: two results of the same kind, and what else differs between them.

use serde_json::Value;

use crate::cli::CompareArgs;
use crate::error::BenchError;
use crate::render::Table;
use crate::result::{self, Content, Provenance, ResultFile, RunResult};
use crate::run::Verdict;
use crate::units::{show_ns, show_rate};

/// A figure of both results.
#[derive(Clone, Debug)]
struct Line {
    name: String,
    before: f64,
    after: f64,
    show: fn(f64) -> String,
    /// Whether more is better; `None` for figures a regression is not judged by.
    more_is_better: Option<bool>,
}

impl Line {
    /// How much worse it got, in percent; 0 when it got better or is not judged.
    fn regression_percent(&self) -> f64 {
        let ratio = self.after / self.before;
        match self.more_is_better {
            Some(true) => (1.0 - ratio) * 100.0,
            Some(false) => (ratio - 1.0) * 100.0,
            None => 0.0,
        }
        .max(0.0)
    }
}

/// The command.
///
/// # Errors
/// A file is no result, or the two are not of the same kind.
pub fn command(args: &CompareArgs) -> Result<Verdict, BenchError> {
    let before: ResultFile = result::read(&args.before)?;
    let after: ResultFile = result::read(&args.after)?;
    let lines = lines(&before.content, &after.content)?;
    let mut table = Table::new(&["", "A", "B", "B / A"]);
    for line in &lines {
        let ratio = format!("{:.3}x", line.after / line.before);
        table.row([line.name.clone(), (line.show)(line.before), (line.show)(line.after), ratio]);
    }
    print!("{}", table.show());
    for note in notes(&before, &after) {
        println!("note: {note}");
    }
    let allowed = args.fail_above.unwrap_or(f64::INFINITY);
    let worse: Vec<&Line> =
        lines.iter().filter(|line| line.regression_percent() > allowed).collect();
    for line in &worse {
        println!("REGRESSION {}: {:.1} % worse", line.name, line.regression_percent());
    }
    Ok(if worse.is_empty() { Verdict::Good } else { Verdict::Doubtful })
}

fn lines(before: &Content, after: &Content) -> Result<Vec<Line>, BenchError> {
    match (before, after) {
        (Content::Run(a), Content::Run(b)) => Ok(run_lines("", a, b)),
        (Content::Sweep(a), Content::Sweep(b)) => {
            let mut lines = Vec::new();
            if let (Some(before), Some(after)) = (a.knee_per_s, b.knee_per_s) {
                lines.push(rate("knee", before, after));
            }
            for (a, b) in a.levels.iter().zip(&b.levels) {
                lines.extend(run_lines(&format!("{} %: ", a.percent), &a.run, &b.run));
            }
            Ok(lines)
        }
        _ => Err(BenchError::Usage("two runs or two sweeps can be compared".to_owned())),
    }
}

fn rate(name: &str, before: f64, after: f64) -> Line {
    let name = name.to_owned();
    Line { name, before, after, show: show_rate, more_is_better: Some(true) }
}

fn run_lines(prefix: &str, a: &RunResult, b: &RunResult) -> Vec<Line> {
    let mut lines = vec![rate(&format!("{prefix}throughput"), a.achieved_per_s, b.achieved_per_s)];
    if let (Some(a), Some(b)) = (a.latency(), b.latency()) {
        let figures = [
            ("p50", a.p50_ns, b.p50_ns, None),
            ("p99", a.p99_ns, b.p99_ns, Some(false)),
            ("p99.9", a.p999_ns, b.p999_ns, None),
            ("max", a.max_ns, b.max_ns, None),
        ];
        lines.extend(figures.map(|(name, before, after, more_is_better)| Line {
            name: format!("{prefix}{name}"),
            before: before as f64,
            after: after as f64,
            show: |ns| show_ns(ns as u64),
            more_is_better,
        }));
    }
    if let (Some(before), Some(after)) = (a.server.cpu_us_per_op, b.server.cpu_us_per_op) {
        lines.push(Line {
            name: format!("{prefix}server CPU per request"),
            before,
            after,
            show: |us| format!("{us:.2} us"),
            more_is_better: None,
        });
    }
    lines
}

/// What makes the two less comparable than they look.
fn notes(before: &ResultFile, after: &ResultFile) -> Vec<String> {
    let mut notes = Vec::new();
    differences("host", &json(&before.provenance.host), &json(&after.provenance.host), &mut notes);
    if let (Some(a), Some(b)) = (first_run(before), first_run(after)) {
        differences("scenario", &json(&a.scenario), &json(&b.scenario), &mut notes);
        if a.seed != b.seed {
            notes.push(format!("seed: {} and {}", a.seed, b.seed));
        }
    }
    for (name, file) in [("A", before), ("B", after)] {
        let Provenance { optimized, .. } = file.provenance;
        if !optimized {
            notes.push(format!("{name} was measured by a generator built without optimizations"));
        }
        for run in runs(&file.content) {
            let problems = run.self_check.bottleneck.iter().chain(&run.self_check.caveats);
            notes.extend(problems.map(|problem| format!("{name}: {problem}")));
        }
    }
    notes
}

fn runs(content: &Content) -> Vec<&RunResult> {
    match content {
        Content::Run(run) => vec![run],
        Content::Sweep(sweep) => sweep.levels.iter().map(|level| &level.run).collect(),
        Content::Floor(_) | Content::Peers(_) | Content::Study(_) => Vec::new(),
    }
}

fn first_run(file: &ResultFile) -> Option<&RunResult> {
    runs(&file.content).into_iter().next()
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("results are plain data with text keys")
}

/// Names every field in which two JSON values differ.
fn differences(path: &str, a: &Value, b: &Value, into: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let of = |fields: &serde_json::Map<String, Value>| {
                    fields.get(name).cloned().unwrap_or(Value::Null)
                };
                differences(&format!("{path}.{name}"), &of(a), &of(b), into);
            }
        }
        _ if a != b => into.push(format!("{path}: {a} and {b}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(change: impl FnOnce(&mut RunResult)) -> ResultFile {
        let mut run = result::example();
        change(&mut run);
        let content = Content::Run(Box::new(run));
        ResultFile { provenance: Provenance::here(Path::new("/")), content }
    }

    #[test]
    fn a_result_is_equal_to_itself() {
        let a = file(|_| {});
        let lines = lines(&a.content, &a.content).unwrap();
        assert!(lines.iter().all(|line| line.before == line.after));
        let notes = notes(&a, &a);
        let differing = notes.iter().filter(|note| !note.contains("optimizations"));
        assert_eq!(differing.count(), 0, "{notes:?}");
    }

    #[test]
    fn less_throughput_and_more_latency_are_regressions_and_the_reverse_is_not() {
        let (slow, fast) = (file(|run| run.achieved_per_s = 900.0), file(|_| {}));
        let worst = |a: &ResultFile, b: &ResultFile| {
            let lines = lines(&a.content, &b.content).unwrap();
            lines.iter().map(Line::regression_percent).fold(0.0, f64::max)
        };
        assert!((worst(&fast, &slow) - 10.0).abs() < 0.1);
        assert!(worst(&slow, &fast) < 0.01);
        let late = file(|run| run.response.as_mut().unwrap().p99_ns *= 2);
        assert!(worst(&fast, &late) > 99.0);
    }

    #[test]
    fn different_settings_and_unclean_runs_are_pointed_out() {
        let a = file(|_| {});
        let b = file(|run| {
            run.scenario.load.connections = 3;
            run.self_check.bottleneck.push("starved".to_owned());
        });
        let notes = notes(&a, &b);
        assert!(notes.contains(&"scenario.load.connections: 64 and 3".to_owned()), "{notes:?}");
        assert!(notes.contains(&"B: starved".to_owned()));
    }
}
