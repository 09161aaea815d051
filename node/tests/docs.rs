//! The parts of the documentation that list what the program has are made from the program.
//!
//! A part between `<!-- generated: NAME -->` and `<!-- end -->` must be what the program says. With
//! `IRONRING_BLESS=1` the test writes it instead of failing.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use ironring_node::cli::{Cli, explain};
use ironring_node::config::{Config, KEYS, SECTIONS};
use ironring_node::http::error::HttpError;
use ironring_node::metrics::catalogue::METRICS;

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// Compares the generated part of a document, or writes it.
fn hold(name: &str, part: &str, generated: &str) {
    let path = document(name);
    let text = std::fs::read_to_string(&path).expect("the document is there");
    let begin = format!("<!-- generated: {part} -->\n");
    let (before, rest) = text.split_once(&begin).expect("the document has the part's beginning");
    let (have, after) = rest.split_once("<!-- end -->\n").expect("the part ends");
    let wanted = format!("\n{}\n\n", generated.trim());
    if have == wanted {
        return;
    }
    if std::env::var_os("IRONRING_BLESS").is_some() {
        let text = format!("{before}{begin}{wanted}<!-- end -->\n{after}");
        std::fs::write(&path, text).expect("the document can be written");
        return;
    }
    panic!("docs/{name}, part {part}, is out of date: run the test with IRONRING_BLESS=1");
}

/// One line, safe in a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn configuration_lists_every_key() {
    let mut out = String::new();
    let config = Config::default();
    for section in SECTIONS {
        write!(out, "## `[{}]`\n\n{}\n\n", section.name, cell(section.doc)).expect("a String");
        out.push_str("| key | default | allowed | meaning |\n|---|---|---|---|\n");
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            let (default, allowed) = (key.value(&config), cell(&key.allowed()));
            let doc = cell(key.doc);
            writeln!(out, "| `{}` | `{default}` | {allowed} | {doc} |", key.name)
                .expect("a String");
        }
        out.push('\n');
    }
    hold("configuration.md", "keys", &out);
}

#[test]
fn cli_lists_every_command() {
    let mut out = String::new();
    let mut root = Cli::command();
    root.build();
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        describe(&mut out, "ironring", command, 3);
    }
    hold("cli.md", "commands", &out);
}

/// A heading, the sentence, the arguments, and the same for each verb below.
fn describe(out: &mut String, parent: &str, command: &clap::Command, level: usize) {
    let path = format!("{parent} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    write!(out, "{} `{path}`\n\n{}.\n\n", "#".repeat(level), cell(&about)).expect("a String");
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version" | "output"))
        // What a group of verbs shares is listed once, with the group.
        .filter(|arg| level == 3 || !arg.is_global_set())
        .collect();
    if !arguments.is_empty() {
        out.push_str("| argument | meaning |\n|---|---|\n");
    }
    for arg in &arguments {
        let names: Vec<String> =
            arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
        let value = names.join(" ");
        let takes = arg.get_action().takes_values();
        let name = match (arg.get_long(), arg.get_short()) {
            (Some(long), Some(short)) => format!("-{short}, --{long}"),
            (Some(long), None) => format!("--{long}"),
            (None, Some(short)) => format!("-{short}"),
            (None, None) => String::new(),
        };
        let spelled = match (name.is_empty(), takes) {
            (true, _) => format!("<{value}>"),
            (false, true) => format!("{name} <{value}>"),
            (false, false) => name,
        };
        let defaults: Vec<String> =
            arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
        let default = match defaults.join(" ") {
            text if text.is_empty() || !takes => String::new(),
            text => format!(" (default: `{text}`)"),
        };
        let help = cell(&arg.get_help().map(ToString::to_string).unwrap_or_default());
        writeln!(out, "| `{spelled}` | {help}{default} |").expect("a String");
    }
    if !arguments.is_empty() {
        out.push('\n');
    }
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        describe(out, &path, verb, level + 1);
    }
}

#[test]
fn errors_lists_every_code() {
    let retry = |retriable| if retriable { "retry" } else { "" };
    let head = "| code | | meaning | what to do |\n|---|---|---|---|\n";
    let (mut protocol, mut local) = (String::new(), head.to_owned());
    protocol.push_str("| number | code | | meaning | what to do |\n|---|---|---|---|---|\n");
    for code in explain::all() {
        let (retry, meaning, hint) = (retry(code.retriable), cell(&code.meaning), cell(code.hint));
        match code.number {
            Some(number) => {
                writeln!(protocol, "| {number} | `{}` | {retry} | {meaning} | {hint} |", code.code)
            }
            None => writeln!(local, "| `{}` | {retry} | {meaning} | {hint} |", code.code),
        }
        .expect("a String");
    }
    hold("errors.md", "protocol", &protocol);
    hold("errors.md", "local", &local);

    let mut http = "| status | code | | meaning | what to do |\n|---|---|---|---|---|\n".to_owned();
    for error in [
        HttpError::no_such_route("PATH"),
        HttpError::method_not_allowed("METHOD", "PATH"),
        HttpError::internal("what failed"),
        HttpError::unavailable("what is missing"),
        HttpError::refused("why"),
        HttpError::unknown("what is not known"),
    ] {
        let (status, retry) = (error.status.as_u16(), retry(error.retriable));
        writeln!(
            http,
            "| {status} | `{}` | {retry} | {} | {} |",
            error.code, error.message, error.hint
        )
        .expect("a String");
    }
    hold("errors.md", "http", &http);
}

#[test]
fn metrics_lists_every_metric() {
    let mut out = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in METRICS {
        let labels: Vec<String> =
            metric.labels().iter().map(|label| format!("`{label}`")).collect();
        let (name, kind) = (metric.full_name(), metric.kind());
        writeln!(out, "| `{name}` | {kind} | {} | {} |", labels.join(", "), cell(metric.help))
            .expect("a String");
    }
    hold("metrics.md", "metrics", &out);
}
