//! `report`: a result as one HTML page, plots included, that needs nothing else to be read.

mod plot;

use std::fmt::Write;

use serde::Serialize;

use crate::cli::ReportArgs;
use crate::error::BenchError;
use crate::floor::{self, FloorResult};
use crate::latency::Latency;
use crate::peers::{self, PeersResult};
use crate::render;
use crate::result::{self, Content, Provenance, ResultFile, RunResult};
use crate::study::{self, Figures, OverwriteResult, StudyResult};
use crate::sweep::{self, SweepResult};
use crate::units::show_bytes;

use plot::{Frame, Series};

const NS_PER_US: f64 = 1e3;
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;\
padding:0 1em;color:#222}pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:13px}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}svg{max-width:100%;height:auto}\
.bad{background:#fde8e4;border-left:4px solid #d55e00;padding:.6em 1em}\
.good{background:#e6f4ee;border-left:4px solid #009e73;padding:.6em 1em}\
td{padding:.1em 1em .1em 0;vertical-align:top}";

/// The command.
///
/// # Errors
/// The result cannot be read, or the page not written.
pub fn command(args: &ReportArgs) -> Result<(), BenchError> {
    let file: ResultFile = result::read(&args.result)?;
    let page = page(&file)
        .map_err(|problem| BenchError::Program { program: "plotting".to_owned(), problem })?;
    let out = args.out.clone().unwrap_or_else(|| args.result.with_extension("html"));
    std::fs::write(&out, page).map_err(BenchError::file(&out))?;
    println!("{}", out.display());
    Ok(())
}

/// The page of a result.
///
/// # Errors
/// What the plotting library says.
pub fn page(file: &ResultFile) -> Result<String, String> {
    let (title, body) = match &file.content {
        Content::Run(run) => (run.scenario.name.clone(), run_body(run)?),
        Content::Sweep(sweep) => {
            let name = sweep.steps.first().map_or("", |step| step.run.scenario.name.as_str());
            (format!("{name}: sweep"), sweep_body(sweep)?)
        }
        Content::Floor(floor) => ("floor".to_owned(), floor_body(floor)?),
        Content::Peers(peers) => ("side by side".to_owned(), peers_body(peers)?),
        Content::Study(study) => (study.name().to_owned(), study_body(study)?),
    };
    let title = escape(&title);
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n\
         {body}\n{}\n</body></html>\n",
        provenance(&file.provenance)
    ))
}

/// Text as HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn pre(text: &str) -> String {
    format!("<pre>{}</pre>\n", escape(text.trim_end()))
}

fn heading(text: &str) -> String {
    format!("<h2>{}</h2>\n", escape(text))
}

fn json(value: &impl Serialize) -> String {
    pre(&serde_json::to_string_pretty(value).expect("results are plain data with text keys"))
}

fn verdict(problems: &[String]) -> String {
    if problems.is_empty() {
        let good = "The generator was not the bottleneck.";
        return format!("<p class=\"good\">{good}</p>\n");
    }
    let items: Vec<String> = problems.iter().map(|problem| escape(problem)).collect();
    format!("<p class=\"bad\">Not a clean result: {}</p>\n", items.join("; "))
}

fn provenance(p: &Provenance) -> String {
    let host = &p.host;
    let rows = [
        ("generator", format!("{} ({})", p.version, p.commit)),
        ("optimized", if p.optimized { "yes" } else { "NO: a debug build" }.to_owned()),
        ("measured", format!("{} ms since 1970", p.unix_ms)),
        ("CPU", format!("{} x {}, governor {}", host.cores, host.cpu, host.governor)),
        ("kernel", host.kernel.clone()),
        ("memory", show_bytes(host.memory_bytes as f64)),
        ("filesystem", host.filesystem.clone()),
        (
            "disk",
            format!(
                "{} {}, {}, scheduler {}, write cache {}, {} B blocks",
                host.disk.name,
                host.disk.model,
                show_bytes(host.disk.size_bytes as f64),
                host.disk.scheduler,
                host.disk.write_cache,
                host.disk.block_bytes
            ),
        ),
    ];
    let mut html = heading("Where it was measured") + "<table>";
    for (name, value) in rows {
        write!(html, "<tr><td>{name}</td><td>{}</td></tr>", escape(&value))
            .expect("strings take any text");
    }
    html + "</table>\n"
}

/// Latency over percentile; x counts nines.
fn curves(title: &str, latencies: &[(String, &Latency)]) -> Result<String, String> {
    let series: Vec<Series> = latencies
        .iter()
        .map(|(name, latency)| {
            // The last point is 100 %, infinitely many nines away.
            let points = latency.curve.iter().filter(|(quantile, _)| *quantile < 1.0);
            Series {
                name: name.clone(),
                points: points
                    .map(|(quantile, ns)| (-(1.0 - quantile).log10(), *ns as f64 / NS_PER_US))
                    .collect(),
            }
        })
        .collect();
    let x_tick = |nines: f64| format!("{}%", trimmed(100.0 * (1.0 - 10_f64.powf(-nines))));
    let frame =
        Frame { title, x: "percentile", y: "microseconds", x_tick, x_step_min: 1.0, y_log: true };
    plot::lines(frame, &series)
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.5}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn seconds(x: f64) -> String {
    trimmed(x)
}

fn run_body(run: &RunResult) -> Result<String, String> {
    let mut html = format!("<p>{}</p>\n", escape(&run.scenario.description));
    html += &verdict(&run.self_check.bottleneck);
    html += &pre(&render::run(run));
    let mut latencies = Vec::new();
    let named =
        [("from intended time", run.response.as_ref()), ("from send time", run.service.as_ref())];
    for (name, latency) in named {
        latencies.extend(latency.map(|latency| (name.to_owned(), latency)));
    }
    html += &heading("Latency");
    html += &curves("latency by percentile", &latencies)?;
    html += &heading("Course");
    html += &course(run)?;
    if !run.server.counters.is_empty() {
        html += &heading("Growth of the server's counters");
        html += &json(&run.server.counters);
    }
    html += &heading("Scenario");
    html += &json(&run.scenario);
    Ok(html)
}

fn course(run: &RunResult) -> Result<String, String> {
    let line = |name: &str, figure: &dyn Fn(&result::Interval) -> f64| Series {
        name: name.to_owned(),
        points: run.course.iter().map(|i| (i.at_s, figure(i))).collect(),
    };
    let x = "seconds";
    let rate = Frame {
        title: "replies per second",
        x,
        y: "1/s",
        x_tick: seconds,
        x_step_min: 0.0,
        y_log: false,
    };
    let latency = Frame {
        title: "latency",
        x,
        y: "microseconds",
        x_tick: seconds,
        x_step_min: 0.0,
        y_log: true,
    };
    let us = |ns: u64| ns as f64 / NS_PER_US;
    let rates = plot::lines(rate, &[line("replies", &|i| i.per_s)])?;
    let latencies = plot::lines(
        latency,
        &[
            line("p50", &|i| us(i.p50_ns)),
            line("p99", &|i| us(i.p99_ns)),
            line("max", &|i| us(i.max_ns)),
        ],
    )?;
    Ok(rates + &latencies)
}

fn sweep_body(sweep: &SweepResult) -> Result<String, String> {
    let unclean = sweep.levels.iter().flat_map(|level| level.run.self_check.bottleneck.clone());
    let mut html = verdict(&unclean.collect::<Vec<_>>());
    html += &pre(&sweep::table(sweep));
    let mut steps: Vec<_> = sweep.steps.iter().collect();
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let line = |name: &str, pick: fn(&Latency) -> u64| Series {
        name: name.to_owned(),
        points: steps
            .iter()
            .filter_map(|s| Some((s.rate, pick(s.run.latency()?) as f64 / NS_PER_US)))
            .collect(),
    };
    let frame = Frame {
        title: "latency by offered rate",
        x: "requests per second",
        y: "microseconds",
        x_tick: plot::short,
        x_step_min: 0.0,
        y_log: true,
    };
    html += &plot::lines(frame, &[line("p50", |l| l.p50_ns), line("p99", |l| l.p99_ns)])?;
    let levels: Vec<(String, &Latency)> = sweep
        .levels
        .iter()
        .filter_map(|l| Some((format!("{} % of the knee", l.percent), l.run.latency()?)))
        .collect();
    html += &curves("latency by percentile", &levels)?;
    if let Some(level) = sweep.levels.first() {
        html += &heading("Scenario");
        html += &json(&level.run.scenario);
    }
    Ok(html)
}

fn floor_body(floor: &FloorResult) -> Result<String, String> {
    let mut html = String::new();
    if !floor.disk.is_empty() {
        html += &pre(&floor::fio::table(&floor.disk));
    }
    if !floor.echo.is_empty() {
        html += &pre(&floor::echo_table(&floor.echo));
        let latencies: Vec<(String, &Latency)> = floor
            .echo
            .iter()
            .filter_map(|run| {
                Some((format!("{} connections", run.scenario.load.connections), run.latency()?))
            })
            .collect();
        html += &curves("echo: latency by percentile", &latencies)?;
    }
    Ok(html)
}

fn peers_body(result: &PeersResult) -> Result<String, String> {
    let mut html = String::new();
    for scenario in &result.scenarios {
        html += &heading(&scenario.name);
        html += &pre(&peers::table(scenario, &result.systems));
        let mut latencies = Vec::new();
        for (system, runs) in &scenario.rounds {
            let last = runs.last().and_then(RunResult::latency);
            latencies.extend(last.map(|l| (format!("{}, last round", system.name()), l)));
        }
        html += &curves("latency by percentile", &latencies)?;
    }
    html += &heading("Servers");
    for system in &result.systems {
        let (name, version) = (system.system.name(), &system.version);
        html += &pre(&format!("{name}: {version}\n{}", system.settings));
    }
    for said in &result.own_tools {
        html += &pre(&peers::own_tool(said));
    }
    for why in &result.missing {
        html += &pre(&format!("not measured: {why}"));
    }
    Ok(html)
}

fn study_body(result: &StudyResult) -> Result<String, String> {
    let missed = result.checks.iter().filter(|check| !check.holds);
    let missed: Vec<String> = missed
        .map(|check| format!("{}: {}, required {}", check.what, check.measured, check.required))
        .collect();
    let mut html = match (result.checks.is_empty(), missed.is_empty()) {
        (true, _) => String::new(),
        (false, true) => "<p class=\"good\">Every requirement holds.</p>\n".to_owned(),
        (false, false) => {
            let items: Vec<String> = missed.iter().map(|item| escape(item)).collect();
            format!("<p class=\"bad\">Missed: {}</p>\n", items.join("; "))
        }
    };
    html += &pre(&study::show(result));
    if let Figures::Overwrite(overwrite) = &result.figures {
        html += &heading("Course");
        html += &overwrite_course(overwrite)?;
    }
    Ok(html)
}

fn overwrite_course(result: &OverwriteResult) -> Result<String, String> {
    let live = result.live_bytes as f64;
    let of_samples = |name: &str, bytes: &dyn Fn(&study::Sample) -> u64| Series {
        name: name.to_owned(),
        points: result.samples.iter().map(|s| (s.at_s, bytes(s) as f64 / live)).collect(),
    };
    let of_slices = |name: &str, figure: &dyn Fn(&study::Slice) -> f64| Series {
        name: name.to_owned(),
        points: result.slices.iter().map(|s| (s.at_s, figure(s))).collect(),
    };
    let frame =
        |title, y, y_log| Frame { title, x: "seconds", y, x_tick: seconds, x_step_min: 0.0, y_log };
    let disk = plot::lines(
        frame("disk use", "times live", false),
        &[
            of_samples("all files", &study::Sample::total_bytes),
            of_samples("segments with records", &|s| s.held_bytes),
            of_samples("checkpoints", &|s| s.checkpoint_bytes),
        ],
    )?;
    let rates = [of_slices("puts", &|s| s.per_s)];
    let rate = plot::lines(frame("puts per second", "1/s", false), &rates)?;
    let us = |ns: u64| ns as f64 / NS_PER_US;
    let latencies = [of_slices("p50", &|s| us(s.p50_ns)), of_slices("p99", &|s| us(s.p99_ns))];
    let latency = plot::lines(frame("latency", "microseconds", true), &latencies)?;
    Ok(disk + &rate + &latency)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::peers::PeerScenario;
    use crate::sweep::{Level, Step};

    fn page_of(content: Content) -> String {
        let provenance = Provenance::here(Path::new("/"));
        page(&ResultFile { provenance, content }).unwrap()
    }

    /// Nothing is loaded from elsewhere: the only addresses are the name spaces of SVG.
    fn assert_self_contained(page: &str) {
        for (at, _) in page.match_indices("http") {
            assert!(page[at..].starts_with("http://www.w3.org/"), "{}", &page[at..at + 60]);
        }
        assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("@import"));
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    }

    #[test]
    fn a_run_has_curves_its_course_and_its_provenance() {
        let page = page_of(Content::Run(Box::new(result::example())));
        assert_self_contained(&page);
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("class=\"good\"") && page.contains("kernel"));
    }

    #[test]
    fn text_of_the_scenario_cannot_become_markup() {
        let mut run = result::example();
        run.scenario.name = "<script>alert(1)</script>".to_owned();
        run.scenario.description = "a & b \"c\"".to_owned();
        run.self_check.bottleneck.push("x < y".to_owned());
        let page = page_of(Content::Run(Box::new(run)));
        assert_self_contained(&page);
        assert!(page.contains("&lt;script&gt;") && page.contains("a &amp; b &quot;c&quot;"));
        assert!(page.contains("class=\"bad\"") && page.contains("x &lt; y"));
    }

    #[test]
    fn sweeps_floors_and_comparisons_have_pages_too() {
        let run = result::example();
        let sweep = SweepResult {
            knee_per_s: Some(2000.0),
            p99_max_ns: None,
            generator_limited: false,
            steps: [1000.0, 2000.0]
                .map(|rate| Step { rate, shortfall: None, run: run.clone() })
                .to_vec(),
            levels: vec![Level { percent: 50, run: run.clone() }],
        };
        let page = page_of(Content::Sweep(Box::new(sweep)));
        assert_self_contained(&page);
        assert_eq!(page.matches("<svg").count(), 2);
        let floor = FloorResult { fio: None, disk: Vec::new(), echo: vec![run.clone()] };
        assert_self_contained(&page_of(Content::Floor(Box::new(floor))));
        let scenario = PeerScenario {
            name: "put".to_owned(),
            description: "puts".to_owned(),
            rounds: BTreeMap::from([(crate::peers::System::Redis, vec![run])]),
            disk: Vec::new(),
            ratios: BTreeMap::new(),
            disk_ratio: None,
        };
        let peers = PeersResult {
            systems: Vec::new(),
            missing: vec!["nats: not found".to_owned()],
            scenarios: vec![scenario],
            own_tools: Vec::new(),
        };
        let page = page_of(Content::Peers(Box::new(peers)));
        assert_self_contained(&page);
        assert!(page.contains("nats: not found") && page.contains("redis, last round"));
    }
}
