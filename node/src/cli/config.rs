//! `ironring config`: the default file, a check of a file, and what is in effect.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use super::error::CliError;
use super::output::{Output, Report, View, each};
use super::settings::SettingsArgs;
use crate::config::{KEYS, Loaded, Sources, render};

/// What to do with the configuration.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Print every key with its default, bounds and meaning: a file to start from
    Default,
    /// Check a file alone, without the environment and flags
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the configuration in effect
    Show {
        /// The flags that would be given to `start`.
        #[command(flatten)]
        settings: Box<SettingsArgs>,
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// Everything wrong with the configuration.
pub fn run(command: &ConfigCommand, output: Output) -> Result<(), CliError> {
    let printed = match command {
        ConfigCommand::Default => output.print(&Defaults::new()),
        ConfigCommand::Check { file } => {
            let sources = Sources { file: Some(file.clone()), ..Sources::default() };
            let loaded = sources.load()?;
            output.print(&Checked {
                file: file.clone(),
                valid: true,
                warnings: loaded.config.warnings(),
            })
        }
        ConfigCommand::Show { settings, origin } => {
            output.print(&Shown { loaded: settings.load()?, origin: *origin })
        }
    };
    printed.map_err(|error| CliError::io("stdout", &error))
}

/// A key and what it may hold.
#[derive(Serialize)]
struct KeyInfo {
    key: String,
    default: serde_json::Value,
    allowed: String,
    variable: String,
    doc: String,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Defaults(Vec<KeyInfo>);

impl Defaults {
    fn new() -> Defaults {
        let config = crate::config::Config::default();
        let info = |key: &crate::config::schema::Key| KeyInfo {
            key: key.path(),
            default: key.json(&config),
            allowed: key.allowed(),
            variable: key.variable(),
            doc: key.doc.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        Defaults(KEYS.iter().map(info).collect())
    }
}

impl Report for Defaults {
    fn view(&self) -> View {
        View::new().text(render::default_file())
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.0)
    }
}

/// A file that can be used.
#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    valid: bool,
    warnings: Vec<String>,
}

impl Report for Checked {
    fn view(&self) -> View {
        let mut text = String::new();
        for warning in &self.warnings {
            text.push_str(&format!("warning: {warning}\n"));
        }
        text.push_str(&format!("{}: valid\n", self.file.display()));
        View::new().text(text)
    }
}

/// The configuration in effect.
struct Shown {
    loaded: Loaded,
    origin: bool,
}

#[derive(Serialize)]
struct Effective {
    key: String,
    value: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
}

impl Shown {
    fn effective(&self) -> Vec<Effective> {
        let show = |key: &crate::config::schema::Key| Effective {
            key: key.path(),
            value: key.json(&self.loaded.config),
            origin: self.origin.then(|| self.loaded.origin(key).to_string()),
        };
        KEYS.iter().map(show).collect()
    }
}

impl Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.effective())
    }
}

impl Report for Shown {
    fn view(&self) -> View {
        View::new().text(render::effective_file(&self.loaded, self.origin))
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.effective())
    }
}
