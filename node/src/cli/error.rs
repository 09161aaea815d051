//! What a command says when it fails, and with which status it exits.

use std::io::Write;
use std::process::ExitCode;

use ironring_core::ErrorCode;
use serde::Serialize;

use super::output::Format;
use crate::config::ConfigError;
use crate::config::Origin;

/// Exit status: failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit status: used wrongly.
pub const EXIT_USAGE: u8 = 2;
/// Exit status: it works, but is not healthy.
pub const EXIT_UNHEALTHY: u8 = 10;
/// Exit status: `doctor` found something with which a node cannot run.
pub const EXIT_DOCTOR_FATAL: u8 = 11;

/// Exit status: a shard's log cannot be opened, or its disk failed.
pub const EXIT_DISK_FAILED: u8 = 74;
/// Exit status: a node does not start before an operator has done something. The number is that of
/// `EX_CONFIG` in sysexits.
pub const EXIT_OPERATOR_NEEDED: u8 = 78;

/// A failure that begins in the program itself and not in a server's answer.
pub struct LocalCode {
    /// Its name in JSON and for `ironring explain`.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub hint: &'static str,
    /// Whether the same command may succeed later.
    pub retriable: bool,
    /// Exit status.
    pub exit: u8,
}

macro_rules! local_codes {
    ($( $constant:ident = $name:literal, $meaning:literal, retriable: $retriable:literal, exit: $exit:ident, hint: $hint:literal; )*) => {
        $(
            #[doc = $meaning]
            pub const $constant: LocalCode = LocalCode {
                name: $name, meaning: $meaning, hint: $hint, retriable: $retriable, exit: $exit,
            };
        )*

        /// Every code a command can fail with before a server was asked, by name.
        pub const LOCAL_CODES: &[LocalCode] = &[ $( $constant, )* ];
    };
}

local_codes! {
    CONFIG_INVALID = "config_invalid", "The configuration has mistakes.", retriable: false, exit: EXIT_FAILED, hint: "correct the places named; `ironring config default` shows every key";
    CONNECT_FAILED = "connect_failed", "No connection to the node.", retriable: true, exit: EXIT_FAILED, hint: "is the node running, and is --addr its client address?";
    DEMO_FAILED = "demo_failed", "The demo's cluster did not do what it should, or the demo was interrupted.", retriable: false, exit: EXIT_FAILED, hint: "see the message; `ironring doctor` checks the machine, `--keep` keeps the nodes' logs and data";
    DISK_FAILED = "disk_failed", "A shard cannot open its log, or its disk failed. Everything acknowledged is on disk.", retriable: false, exit: EXIT_DISK_FAILED, hint: "see the message: it names the file and what to do; check the disk before starting again";
    IO_FAILED = "io_failed", "A file or the output could not be read or written.", retriable: false, exit: EXIT_FAILED, hint: "check the path, its permissions and the free space";
    NODE_RUNNING = "node_running", "The files are in use by a node.", retriable: true, exit: EXIT_FAILED, hint: "stop the node, or add --running to look anyway";
    NOT_CONFIRMED = "not_confirmed", "The command destroys data and was not confirmed.", retriable: false, exit: EXIT_USAGE, hint: "add --yes when you are sure";
    PROTOCOL_ERROR = "protocol_error", "What answered does not speak the client protocol.", retriable: false, exit: EXIT_FAILED, hint: "check that --addr is the client port of an ironring node (7411 by default)";
    QUORUM_REACHABLE = "quorum_reachable", "A majority of the metadata group's voters can be reached: nothing has to be forced.", retriable: false, exit: EXIT_FAILED, hint: "start the node as it is; see `ironring cluster status`";
    START_FAILED = "start_failed", "The node could not start, or stopped because of a failure.", retriable: false, exit: EXIT_FAILED, hint: "see the message; `ironring doctor` checks the machine";
    TAKEN_BACK = "taken_back", "What was waited for will not come: the order was taken back by another.", retriable: false, exit: EXIT_FAILED, hint: "see `ironring cluster status`; give the order again if it is meant";
    USAGE = "usage", "The command line is wrong.", retriable: false, exit: EXIT_USAGE, hint: "run the command with --help";
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// Stable name; `ironring explain` knows it.
    pub code: &'static str,
    /// Whether the same command may succeed later.
    pub retriable: bool,
    /// Exit status.
    pub exit: u8,
    /// Of an order that is refused: the stable name of why.
    pub reason: Option<String>,
    /// At least one.
    pub faults: Vec<Fault>,
}

impl CliError {
    /// A failure of the program itself, with the code's own hint.
    #[must_use]
    pub fn local(code: &LocalCode, message: impl Into<String>) -> CliError {
        CliError::hinted(code, message, code.hint)
    }

    /// A failure of the program itself, with a hint for this case.
    #[must_use]
    pub fn hinted(
        code: &LocalCode,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> CliError {
        let fault = Fault { message: message.into(), hint: hint.into() };
        CliError {
            code: code.name,
            retriable: code.retriable,
            exit: code.exit,
            reason: None,
            faults: vec![fault],
        }
    }

    /// The same failure, of a node that does not start before an operator has done something.
    #[must_use]
    pub fn needing_operator(self) -> CliError {
        CliError { exit: EXIT_OPERATOR_NEEDED, ..self }
    }

    /// A server's refusal.
    #[must_use]
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> CliError {
        CliError {
            code: code.name(),
            retriable: code.retriable(),
            exit: EXIT_FAILED,
            reason: None,
            faults: vec![Fault { message: message.into(), hint: code.hint().to_owned() }],
        }
    }

    /// A file that could not be read or written.
    #[must_use]
    pub fn io(what: impl std::fmt::Display, error: &std::io::Error) -> CliError {
        CliError::local(&IO_FAILED, format!("{what}: {error}"))
    }

    /// The error for people: `error:` and an indented `hint:` for each fault.
    #[must_use]
    pub fn text(&self, colour: bool) -> String {
        let (red, reset) = if colour { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
        let mut out = String::new();
        for fault in &self.faults {
            out.push_str(&format!("{red}error:{reset} {}\n", fault.message));
            if !fault.hint.is_empty() {
                out.push_str(&format!("  hint: {}\n", fault.hint));
            }
        }
        out
    }

    /// The error for programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let messages: Vec<&str> = self.faults.iter().map(|fault| fault.message.as_str()).collect();
        let mut object = serde_json::json!({
            "code": self.code,
            "message": messages.join("; "),
            "hint": self.faults.first().map_or("", |fault| fault.hint.as_str()),
            "retriable": self.retriable,
        });
        if let Some(reason) = &self.reason {
            object["reason"] = serde_json::json!(reason);
        }
        if self.faults.len() > 1 {
            object["faults"] = serde_json::json!(self.faults);
        }
        object
    }

    /// Prints the error on stderr, and gives the exit status.
    #[must_use]
    pub fn report(&self, format: Format) -> ExitCode {
        let mut stderr = anstream::stderr();
        // An error that cannot be written leaves only the exit status to speak.
        _ = match format {
            Format::Table => stderr.write_all(self.text(true).as_bytes()),
            Format::Json | Format::Jsonl => writeln!(stderr, "{}", self.json()),
        };
        ExitCode::from(self.exit)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> CliError {
        // Mistakes on the command line itself are mistakes of usage.
        let usage = error.problems.iter().all(|problem| matches!(problem.origin, Origin::Flag(_)));
        let code = if usage { &USAGE } else { &CONFIG_INVALID };
        let faults = error.problems.iter().map(|problem| Fault {
            message: problem.to_string(),
            hint: problem.hint.clone().unwrap_or_default(),
        });
        CliError {
            code: code.name,
            retriable: code.retriable,
            exit: code.exit,
            reason: None,
            faults: faults.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_codes_are_sorted_and_differ_from_the_protocols() {
        assert!(LOCAL_CODES.is_sorted_by(|a, b| a.name < b.name));
        for code in LOCAL_CODES {
            assert!(ErrorCode::ALL.iter().all(|other| other.name() != code.name));
            assert!(!code.hint.is_empty() && !code.meaning.is_empty());
        }
    }

    #[test]
    fn one_fault_is_a_line_with_its_hint_and_an_object() {
        let error = CliError::refused(ErrorCode::NoSpace, "shard 3 is full");
        assert_eq!(
            error.text(false),
            "error: shard 3 is full\n  hint: delete data or add disk: reads and deletes go on\n"
        );
        assert_eq!(
            error.json(),
            serde_json::json!({
                "code": "no_space", "message": "shard 3 is full", "retriable": true,
                "hint": "delete data or add disk: reads and deletes go on",
            })
        );
    }

    #[test]
    fn several_faults_are_listed_in_both_forms() {
        let mut error = CliError::hinted(&CONFIG_INVALID, "a", "fix a");
        error.faults.push(Fault { message: "b".to_owned(), hint: String::new() });
        assert_eq!(error.text(false), "error: a\n  hint: fix a\nerror: b\n");
        assert_eq!(error.json()["message"], "a; b");
        assert_eq!(error.json()["faults"][1]["message"], "b");
    }
}
