//! `ironring doctor`: can this machine run a node, and well?
//!
//! [`facts`] looks, [`checks`] judges; [`kernel`] holds the system calls without a safe wrapper.
//! Looking changes nothing, apart from a temporary file in the data directory that is removed.

pub mod checks;
pub mod facts;
pub mod kernel;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::cli::output::{Cell, Column, Report, Tone, View, each};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// A node runs, but slower or less safely than it could.
    Warn,
    /// A node does not run.
    Fatal,
}

impl Severity {
    fn cell(self) -> Cell {
        match self {
            Severity::Ok => Cell::toned("ok", Tone::Good),
            Severity::Warn => Cell::toned("warn", Tone::Warn),
            Severity::Fatal => Cell::toned("FATAL", Tone::Bad),
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Stable name of the check.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What is required.
    pub required: String,
    /// What to do; empty when nothing is to be done.
    pub fix: String,
}

/// Every check's row.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// The worst severity of all rows.
    pub severity: Severity,
    /// The rows.
    pub checks: Vec<Row>,
}

impl Diagnosis {
    /// The diagnosis these rows come to.
    #[must_use]
    pub fn new(checks: Vec<Row>) -> Diagnosis {
        let severity = checks.iter().map(|row| row.severity).max().unwrap_or(Severity::Ok);
        Diagnosis { severity, checks }
    }
}

impl Report for Diagnosis {
    fn view(&self) -> View {
        let columns = [
            Column::Left("CHECK"),
            Column::Left("SEVERITY"),
            Column::Left("FOUND"),
            Column::Left("REQUIRED"),
        ];
        let row = |row: &Row| -> Vec<Cell> {
            let found = row.found.as_str();
            vec![row.id.into(), row.severity.cell(), found.into(), row.required.as_str().into()]
        };
        let mut view = View::new().rows(&columns, self.checks.iter().map(row).collect());
        let fixes: Vec<(String, Cell)> = self
            .checks
            .iter()
            .filter(|row| row.severity != Severity::Ok)
            .map(|row| (row.id.to_owned(), Cell::from(row.fix.as_str())))
            .collect();
        let count = |severity| self.checks.iter().filter(|row| row.severity == severity).count();
        if !fixes.is_empty() {
            view = view.text("To do:").pairs(fixes);
        }
        view.text(format!(
            "{} checks: {} ok, {} warnings, {} fatal",
            self.checks.len(),
            count(Severity::Ok),
            count(Severity::Warn),
            count(Severity::Fatal)
        ))
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.checks)
    }
}
