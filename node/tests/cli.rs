//! The binary as its users meet it: exit statuses, both streams, every format.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs `ironring` with nothing of this process's configuration.
fn ironring(args: &[&str]) -> Output {
    ironring_with(args, &[])
}

fn ironring_with(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("IRONRING__") {
            command.env_remove(name);
        }
    }
    command.args(args).envs(variables.iter().copied()).output().expect("the binary runs")
}

#[track_caller]
fn expect_exit(output: &Output, exit: i32) {
    assert_eq!(
        output.status.code(),
        Some(exit),
        "stdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("errors are UTF-8")
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("the output is JSON")
}

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("node.toml");
    std::fs::write(&path, text).expect("the test's file is written");
    path.to_str().expect("the path is UTF-8").to_owned()
}

#[test]
fn help_and_version_succeed_on_stdout() {
    for args in [&["--help"][..], &["--version"], &["config", "--help"], &["start", "--help"]] {
        let output = ironring(args);
        expect_exit(&output, 0);
        assert!(stdout(&output).contains("ironring"), "{args:?}");
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn a_wrong_command_line_exits_2_and_says_what_was_meant() {
    let output = ironring(&["confg"]);
    expect_exit(&output, 2);
    assert!(stderr(&output).contains("error: unrecognized subcommand 'confg'"));
    assert!(stderr(&output).contains("config"));
    assert_eq!(stdout(&output), "");

    let output = ironring(&["-o", "json", "confg"]);
    expect_exit(&output, 2);
    let error = json(&output.stderr);
    assert_eq!(error["code"], "usage");
    assert_eq!(error["message"], "unrecognized subcommand 'confg'");
    assert_eq!(error["retriable"], false);

    expect_exit(&ironring(&[]), 2);
}

#[test]
fn a_wrong_file_exits_1_with_place_and_suggestion() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path(), "[log]\nsegmnt_bytes = \"8MiB\"\n");
    let output = ironring(&["config", "check", &path]);
    expect_exit(&output, 1);
    assert_eq!(
        stderr(&output),
        format!(
            "error: {path}:2:1: unknown key \"segmnt_bytes\" in [log]\n  hint: did you mean \"segment_bytes\"?\n"
        )
    );

    let output = ironring(&["config", "check", &path, "-o", "json"]);
    expect_exit(&output, 1);
    let error = json(&output.stderr);
    assert_eq!(error["code"], "config_invalid");
    assert_eq!(error["hint"], "did you mean \"segment_bytes\"?");
}

#[test]
fn a_right_file_is_valid_and_its_risks_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path(), "[listen]\nclients = \"10.1.2.3:7411\"\n");
    let output = ironring(&["config", "check", &path, "-o", "json"]);
    expect_exit(&output, 0);
    let checked = json(&output.stdout);
    assert_eq!(checked["valid"], true);
    assert_eq!(checked["warnings"].as_array().map(Vec::len), Some(1));
}

#[test]
fn check_looks_at_the_file_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path(), "");
    let wrong = [("IRONRING__NODE__SHARDS", "many")];
    expect_exit(&ironring_with(&["config", "check", &path], &wrong), 0);
    expect_exit(&ironring_with(&["config", "show", "--config", &path], &wrong), 1);
}

#[test]
fn flags_override_variables_override_the_file_and_show_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path(), "[node]\nshards = 1\nname = \"f\"\n[trace]\nlevel = \"warn\"\n");
    let args = [
        "config",
        "show",
        "--origin",
        "--config",
        &path,
        "--shards",
        "3",
        "--set",
        "log.segment_bytes=8MiB",
        "-o",
        "jsonl",
    ];
    let variables = [("IRONRING__NODE__SHARDS", "2"), ("IRONRING__NODE__NAME", "e")];
    let output = ironring_with(&args, &variables);
    expect_exit(&output, 0);
    let lines: Vec<Value> = stdout(&output).lines().map(|line| json(line.as_bytes())).collect();
    let find = |key: &str| {
        let line = lines.iter().find(|line| line["key"] == key).expect("every key is shown");
        (line["value"].to_string(), line["origin"].to_string())
    };
    assert_eq!(find("node.shards"), ("3".into(), "\"--shards\"".into()));
    assert_eq!(find("node.name"), ("\"e\"".into(), "\"IRONRING__NODE__NAME\"".into()));
    assert_eq!(find("trace.level"), ("\"warn\"".into(), format!("\"{path}:5:9\"")));
    assert_eq!(
        find("log.segment_bytes"),
        ((8 << 20).to_string(), "\"--set log.segment_bytes=8MiB\"".into())
    );
    assert_eq!(find("memory.max_bytes").1, "\"default\"");
}

#[test]
fn mistakes_in_flags_are_mistakes_of_usage() {
    let output = ironring(&["start", "--dry-run", "--set", "log.segment_byte=1"]);
    expect_exit(&output, 2);
    assert_eq!(
        stderr(&output),
        "error: --set log.segment_byte=1: unknown key \"log.segment_byte\"\n  hint: did you mean log.segment_bytes?\n"
    );
    expect_exit(&ironring(&["start", "--dry-run", "--set", "nothing"]), 2);
}

#[test]
fn a_dry_run_settles_the_configuration_and_touches_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let data = data.to_str().expect("the path is UTF-8");
    let output =
        ironring(&["start", "--dry-run", "--data-dir", data, "--shards", "2", "-o", "json"]);
    expect_exit(&output, 0);
    let plan = json(&output.stdout);
    assert_eq!(plan["cpus"].as_array().map(Vec::len), Some(2));
    assert!(plan["memory_max_bytes"].as_u64() > Some(0));
    assert!(!Path::new(data).exists());
}

#[test]
fn the_default_file_is_a_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = ironring(&["config", "default"]);
    expect_exit(&output, 0);
    let path = file(dir.path(), &stdout(&output));
    expect_exit(&ironring(&["config", "check", &path]), 0);
    let keys = json(&ironring(&["config", "default", "-o", "json"]).stdout);
    assert_eq!(keys[0]["key"], "node.name");
    assert_eq!(keys[0]["variable"], "IRONRING__NODE__NAME");
}

#[test]
fn codes_are_explained_by_name_and_number() {
    let by_name = json(&ironring(&["explain", "no_space", "-o", "json"]).stdout);
    let by_number = json(&ironring(&["explain", "24", "-o", "json"]).stdout);
    assert_eq!(by_name, by_number);
    assert_eq!(by_name["retriable"], true);
    let output = ironring(&["explain", "nospace"]);
    expect_exit(&output, 2);
    assert_eq!(
        stderr(&output),
        "error: there is no code \"nospace\"\n  hint: did you mean no_space?\n"
    );
    let all = stdout(&ironring(&["explain", "-o", "jsonl"]));
    assert!(all.lines().count() > 30);
}

#[test]
fn completion_scripts_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = ironring(&["completions", shell]);
        expect_exit(&output, 0);
        assert!(stdout(&output).contains("ironring"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ironring"))
        .args(["config", "default"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn nothing_is_coloured_outside_of_a_terminal() {
    let output = ironring(&["explain", "nospace"]);
    assert!(!stderr(&output).contains('\u{1b}'));
    let output = ironring(&["explain"]);
    assert!(!stdout(&output).contains('\u{1b}'));
}

#[test]
fn the_doctor_judges_by_exit_status_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("the path is UTF-8");
    let output = ironring(&["doctor", "--data-dir", data, "-o", "json"]);
    let diagnosis = json(&output.stdout);
    // What the machine under the test is like is not known; that both say the same is.
    let fatal = diagnosis["severity"] == "fatal";
    expect_exit(&output, if fatal { 11 } else { 0 });
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);

    // A proc directory takes no files, from nobody.
    let output = ironring(&["doctor", "--data-dir", "/proc/self/fdinfo", "-o", "jsonl"]);
    expect_exit(&output, 11);
    let rows: Vec<Value> = stdout(&output).lines().map(|line| json(line.as_bytes())).collect();
    let row = rows.iter().find(|row| row["id"] == "data-dir").expect("it is checked");
    assert_eq!(row["severity"], "fatal");
    assert!(row["fix"].as_str().is_some_and(|fix| !fix.is_empty()));
}

#[test]
fn a_disk_is_measured_into_the_data_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("new");
    let data = data.to_str().expect("the path is UTF-8");
    let output = ironring(&["diskprobe", "--seconds", "1", "--data-dir", data, "-o", "json"]);
    if output.status.code() == Some(1) {
        // A temporary directory on a file system without direct I/O: the failure is said, and
        // nothing is kept.
        assert_eq!(json(&output.stderr)["code"], "io_failed");
        return;
    }
    expect_exit(&output, 0);
    let measured = json(&output.stdout);
    assert_eq!(measured["durable"].as_array().map(Vec::len), Some(3));
    let scrub = measured["scrub_bytes_per_second_max"].as_u64();
    assert!(scrub > Some(0));
    let plan = json(&ironring(&["start", "--dry-run", "--data-dir", data, "-o", "json"]).stdout);
    assert_eq!(plan["scrub_bytes_per_second_max"].as_u64(), scrub, "start reads what was measured");
    assert_eq!(plan["disk_measured"], true);
    assert_eq!(stderr(&output), "", "no progress outside of a terminal");
    expect_exit(&ironring(&["diskprobe", "--quick", "--seconds", "1", "--data-dir", data]), 2);
}

/// An address nobody listens on: bound once, so that it is free, and let go.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

#[test]
fn a_node_that_is_not_there_is_a_retriable_failure() {
    let address = nobody();
    let commands: [&[&str]; 5] = [
        &["kv", "get", "k"],
        &["kv", "put", "k", "v"],
        &["topic", "list"],
        &["topic", "delete", "t", "--yes"],
        &["stats"],
    ];
    for command in commands {
        let mut args = command.to_vec();
        args.extend(["--addr", address.as_str(), "--timeout", "500ms", "-o", "json"]);
        let output = ironring(&args);
        expect_exit(&output, 1);
        let error = json(&output.stderr);
        assert_eq!(error["code"], "connect_failed", "{command:?}: {error}");
        assert_eq!(error["retriable"], true);
        assert!(error["message"].as_str().is_some_and(|text| text.contains(&address)), "{error}");
    }
}

#[test]
fn what_destroys_data_wants_a_yes() {
    let address = nobody();
    for command in [
        &["topic", "delete", "t"][..],
        &["topic", "trim", "t", "--partition", "0", "--before", "5"],
    ] {
        let mut args = command.to_vec();
        args.extend(["--addr", address.as_str(), "-o", "json"]);
        let output = ironring(&args);
        expect_exit(&output, 2);
        assert_eq!(json(&output.stderr)["code"], "not_confirmed", "{command:?}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_is_asked() {
    for command in [
        &["kv", "put", "k"][..],
        &["kv", "put", "k", "v", "--durability", "fsync"],
        &["kv", "get", "k", "--timeout", "1w"],
        &["topic", "append", "t"],
        &["topic", "append", "t", "v", "--from-file", "f"],
        &["topic", "read", "t", "--from", "yesterday"],
        &["topic", "create", "t", "--keep-bytes", "9 parsecs"],
    ] {
        expect_exit(&ironring(command), 2);
    }
}
