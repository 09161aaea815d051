//! Histories as text: one JSON object per line, so that a failing one can be kept as a test, cut
//! with an editor and searched with grep.
//!
//! `{"c":client,"s":start,"e":end,"age":nanos,"q":call,"a":answer}`; `e` is left out when the
//! outcome is unknown, `age` unless the answer is flagged stale. Empty lines and lines that begin
//! with `#` are comments.

use super::history::{Answer, History, Operation};

/// A line that is not an operation.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl History {
    /// The history as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for op in &self.operations {
            text +=
                &serde_json::to_string(op).expect("an operation has text keys and whole numbers");
            text.push('\n');
        }
        text
    }

    /// Reads what [`History::to_text`] wrote.
    ///
    /// # Errors
    /// At the first line that is not an operation, or whose end and answer contradict each other.
    pub fn from_text(text: &str) -> Result<History, ParseError> {
        let mut operations = Vec::new();
        for (i, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: String| ParseError { line: i + 1, why };
            let op: Operation = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
            if (op.answer == Answer::Unknown) != op.end.is_none() {
                return Err(wrong("an end belongs to every answer but `unknown`".to_owned()));
            }
            if op.end.is_some_and(|end| end < op.start) {
                return Err(wrong("it ends before it starts".to_owned()));
            }
            operations.push(op);
        }
        Ok(History::new(operations))
    }
}
