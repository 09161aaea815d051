//! `ironring node`: one node of the cluster, before and after it is worked on.

use clap::{Args, Subcommand};
use serde_json::json;

use super::error::CliError;
use super::http::HttpArgs;
use super::orders::{going, note_warnings, printed, segment, wait};
use super::output::Output;
use crate::cluster::overview::GoingView;
use crate::cluster::plane::Operated;

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
        NodeVerb::Resume { http, node } => {
            let member = going(http, node.as_deref())?;
            let path = format!("/v1/nodes/{}/resume", segment(&member.id.to_string()));
            printed(output, &http.ask::<Operated>("POST", &path, Some(&json!({})))?)
        }
    }
}
