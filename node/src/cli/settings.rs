//! The flags that decide the configuration, the same for every command that needs one.

use std::path::{Path, PathBuf};

use clap::Args;

use super::error::{CliError, USAGE};
use crate::config::{Loaded, Setting, Sources};

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "/etc/ironring/ironring.toml";

/// Flags of the configuration. They override the environment, which overrides the file.
#[derive(Args, Clone, Debug, Default)]
pub struct SettingsArgs {
    /// Configuration file [default: /etc/ironring/ironring.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any key, e.g. `--set log.segment_bytes=128MiB` (repeatable)
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Name of the cluster (cluster.name)
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Name of the node, unique in the cluster (node.name)
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Nodes of the cluster to join by, with commas between them (cluster.seeds)
    #[arg(long, value_name = "HOST:PORT,...")]
    pub seeds: Option<String>,
    /// Lets the node join: see `ironring cluster token create` (cluster.token)
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// What fails together with the node (node.rack)
    #[arg(long, value_name = "RACK")]
    pub rack: Option<String>,
    /// The site the node is at (node.region)
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// How much the node should hold, 1 for as much as others (node.weight)
    #[arg(long, value_name = "WEIGHT")]
    pub weight: Option<String>,
    /// Directory of everything the node stores (node.data_dir)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// How many shards to run, 0 for one per CPU (node.shards)
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// Where clients connect (listen.clients)
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Where other nodes connect (listen.peers)
    #[arg(long, value_name = "IP:PORT")]
    pub peers: Option<String>,
    /// Where health and metrics are served (listen.http)
    #[arg(long, value_name = "IP:PORT")]
    pub http: Option<String>,
    /// Least important lines to log: error, warn, info, debug, trace (trace.level)
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl SettingsArgs {
    /// Reads the file, the environment and these flags.
    ///
    /// # Errors
    /// Everything wrong with any of them.
    pub fn load(&self) -> Result<Loaded, CliError> {
        let sources =
            Sources { file: self.file(), flags: self.flags()?, ..Sources::from_environment() };
        Ok(sources.load()?)
    }

    /// The file that is read: the one named, or the default one if it exists.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        let default = Path::new(DEFAULT_FILE);
        self.config.clone().or_else(|| default.exists().then(|| default.to_owned()))
    }

    fn flags(&self) -> Result<Vec<Setting>, CliError> {
        let named = [
            ("--data-dir", "node.data_dir", &self.data_dir),
            ("--shards", "node.shards", &self.shards),
            ("--listen", "listen.clients", &self.listen),
            ("--peers", "listen.peers", &self.peers),
            ("--http", "listen.http", &self.http),
            ("--cluster", "cluster.name", &self.cluster),
            ("--node", "node.name", &self.node),
            ("--seeds", "cluster.seeds", &self.seeds),
            ("--token", "cluster.token", &self.token),
            ("--rack", "node.rack", &self.rack),
            ("--region", "node.region", &self.region),
            ("--weight", "node.weight", &self.weight),
            ("--log-level", "trace.level", &self.log_level),
        ];
        let mut flags = Vec::new();
        for text in &self.set {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                CliError::hinted(
                    &USAGE,
                    format!("--set {text}: there is no '=' in it"),
                    "write --set section.key=value",
                )
            })?;
            flags.push(Setting {
                flag: format!("--set {text}"),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            });
        }
        for (flag, key, value) in named {
            if let Some(value) = value {
                flags.push(Setting {
                    flag: flag.to_owned(),
                    key: key.to_owned(),
                    value: value.clone(),
                });
            }
        }
        Ok(flags)
    }
}
