//! `ironring node`: one node of the cluster, before and after it is worked on.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::arguments;
use super::error::{CliError, IO_FAILED, NODE_RUNNING, USAGE};
use super::http::HttpArgs;
use super::orders::{going, note_warnings, printed, segment, wait};
use super::output::{Cell, Output, Report, View};
use super::settings::SettingsArgs;
use crate::cluster::ClusterIdentity;
use crate::cluster::overview::GoingView;
use crate::cluster::plane::Operated;
use crate::driver::data_dir::{DataDirError, lock_known};
use crate::driver::rejoin;

/// Arguments of `node`.
#[derive(Args, Debug)]
pub struct NodeArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: NodeVerb,
}

/// What to do with a node.
#[derive(Subcommand, Debug)]
pub enum NodeVerb {
    /// Have a node give away what it leads and holds; it serves on, and takes nothing new
    Drain {
        /// Which node to ask.
        #[command(flatten)]
        http: HttpArgs,
        /// Name or id of the node; the one that is asked unless given
        node: Option<String>,
        /// Although a node that leaves then finds too few others to take its replicas
        #[arg(long)]
        force: bool,
        /// Wait until it leads nothing and holds only what no other node can take
        #[arg(long)]
        wait: bool,
    },
    /// Delete what a stopped node holds but its name: its next start joins the cluster again, empty
    Reinit {
        /// The configuration: which data directory, and seeds when the directory knows none.
        #[command(flatten)]
        settings: Box<SettingsArgs>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Have a node that drains or leaves take replicas and lead again
    Resume {
        /// Which node to ask.
        #[command(flatten)]
        http: HttpArgs,
        /// Name or id of the node; the one that is asked unless given
        node: Option<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// When no node can be asked, or it refuses.
pub fn run(args: &NodeArgs, output: Output) -> Result<(), CliError> {
    match &args.verb {
        NodeVerb::Drain { http, node, force, wait: waits } => {
            let member = going(http, node.as_deref())?;
            let path = format!("/v1/nodes/{}/drain", segment(&member.id.to_string()));
            let body = json!({ "force": force });
            let mut operated: Operated = http.ask("POST", &path, Some(&body))?;
            if *waits {
                note_warnings(&operated, output);
                wait(http, &member, output, |now: &GoingView| now.drained)?;
                let left = going(http, Some(&member.id.to_string()))?.remaining;
                operated.done = format!(
                    "node {} ({}) is drained: it leads {} partitions and keeps {} replicas",
                    member.name, member.id, left.leads, left.replicas
                );
            }
            printed(output, &operated)
        }
        NodeVerb::Reinit { settings, yes } => printed(output, &reinit(settings, *yes)?),
        NodeVerb::Resume { http, node } => {
            let member = going(http, node.as_deref())?;
            let path = format!("/v1/nodes/{}/resume", segment(&member.id.to_string()));
            printed(output, &http.ask::<Operated>("POST", &path, Some(&json!({})))?)
        }
    }
}

/// An emptied directory.
#[derive(Serialize)]
struct Emptied {
    node: String,
    cluster: String,
    old_storage: String,
    storage: String,
    seeds: Vec<String>,
}

impl Report for Emptied {
    fn view(&self) -> View {
        View::new()
            .pairs([
                ("node", Cell::from(self.node.as_str())),
                ("cluster", Cell::from(self.cluster.as_str())),
                ("storage", Cell::from(self.storage.as_str())),
                ("seeds", Cell::from(self.seeds.join(" "))),
            ])
            .text(
                "Empty. It joins again with a token of `ironring cluster token create`, once the others \
                 call the node that was here dead:\n  ironring start --token TOKEN ...",
            )
    }
}

/// What is wrong with the data directory of a node that has to be stopped.
pub(super) fn failed(error: DataDirError) -> CliError {
    match error {
        DataDirError::InUse { .. } => {
            CliError::hinted(&NODE_RUNNING, error.to_string(), "stop the node first")
        }
        error => CliError::local(&IO_FAILED, error.to_string()),
    }
}

/// Empties the data directory of a stopped node.
fn reinit(settings: &SettingsArgs, yes: bool) -> Result<Emptied, CliError> {
    let config = settings.load()?.config;
    let path = &config.node.data_dir;
    let (_lock, identity) = lock_known(path).map_err(failed)?;
    let place = ClusterIdentity::load(path, &identity);
    let mut seeds = config.cluster.seeds.clone();
    if seeds.is_empty() {
        let known = place.ok().flatten().map(|place| place.known).unwrap_or_default();
        seeds.extend(known.into_iter().map(|known| known.address));
    }
    if seeds.is_empty() {
        let earlier = rejoin::load(path).map_err(failed)?;
        seeds.extend(earlier.into_iter().flat_map(|rejoin| rejoin.seeds));
    }
    if seeds.is_empty() {
        let message = format!(
            "{}: the directory knows no other member of cluster `{}`: nobody could give the data back",
            path.display(),
            identity.cluster
        );
        let hint = "name members with --seeds; to begin without the data, delete the directory";
        return Err(CliError::hinted(&USAGE, message, hint));
    }
    let what = format!("delete all data of node {} in {}", identity.node, path.display());
    arguments::confirm(yes, &what)?;
    let elsewhere = &config.metadata.dir;
    let meta_dir = (!elsewhere.as_os_str().is_empty()).then(|| elsewhere.clone());
    let new = rejoin::empty(path, &identity, seeds.clone(), meta_dir).map_err(failed)?;
    Ok(Emptied {
        node: new.node.clone(),
        cluster: new.cluster.clone(),
        old_storage: identity.uuid().to_string(),
        storage: new.uuid().to_string(),
        seeds,
    })
}
