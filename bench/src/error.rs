//! What can go wrong in a run, with what was being done at the time.

use std::io;
use std::path::{Path, PathBuf};

/// Why a command gave no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Flags or a scenario ask for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused an operation.
    #[error("{doing}: {source}")]
    System {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A server answered something the protocol does not allow, or refused what a run needs.
    #[error("{0}")]
    Server(String),
    /// A program the command runs is missing, failed, or printed something unexpected.
    #[error("{program}: {problem}")]
    Program {
        /// Name of the program.
        program: String,
        /// What happened.
        problem: String,
    },
}

impl BenchError {
    /// An I/O error with the operation it happened in.
    pub fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
        let doing = doing.into();
        move |source| BenchError::System { doing, source }
    }

    /// An I/O error on a file.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> BenchError + '_ {
        move |source| BenchError::File { path: path.to_owned(), source }
    }

    /// Whether the fault is in the command line or scenario (exit code 2).
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, BenchError::Usage(_))
    }
}
