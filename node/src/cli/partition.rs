//! `ironring partition`: where partitions are, and moving them by hand.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::arguments;
use super::error::CliError;
use super::http::HttpArgs;
use super::orders::{ids, order, printed, segment};
use super::output::{Cell, Column, Output, Report, Tone, View, each};
use crate::cluster::overview::PartitionView;

/// Arguments of `partition`.
#[derive(Args, Debug)]
pub struct PartitionArgs {
    /// Which node to ask.
    #[command(flatten)]
    pub http: HttpArgs,
    /// What to do.
    #[command(subcommand)]
    pub verb: PartitionVerb,
}

/// What to do with partitions.
#[derive(Subcommand, Debug)]
pub enum PartitionVerb {
    /// List partitions: who leads them, who votes, who catches up
    List {
        /// Only those with a replica on this node, by its name or id
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Only those nobody leads
        #[arg(long)]
        leaderless: bool,
        /// Only those with fewer voters than they should have
        #[arg(long)]
        under_replicated: bool,
    },
    /// Move a replica from one node to another
    Move {
        /// Which partition
        partition: u32,
        /// Where the replica is
        #[arg(long, value_name = "NODE")]
        from: String,
        /// Where it is to be
        #[arg(long, value_name = "NODE")]
        to: String,
    },
    /// Have another voter lead a partition
    Transfer {
        /// Which partition
        partition: u32,
        /// On which node
        #[arg(long, value_name = "NODE")]
        to: String,
    },
    /// Have a partition that lost most of its voters go on with one replica; what it lacks is lost, and
    /// other copies are emptied when they come back
    ElectUnclean {
        /// Which partition
        partition: u32,
        /// On which node the replica is
        #[arg(long, value_name = "NODE")]
        to: String,
        /// Although the replica has not said how far its log is
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// When no node can be asked, or it refuses.
pub fn run(args: &PartitionArgs, output: Output) -> Result<(), CliError> {
    let http = &args.http;
    match &args.verb {
        PartitionVerb::List { node, leaderless, under_replicated } => {
            let mut path = format!(
                "/v1/partitions?leaderless={leaderless}&under_replicated={under_replicated}"
            );
            if let Some(node) = node {
                path.push_str(&format!("&node={}", segment(node)));
            }
            printed(output, &Partitions(http.ask("GET", &path, None)?))
        }
        PartitionVerb::Move { partition, from, to } => {
            let path = format!("/v1/partitions/{partition}/move");
            order(http, &path, &json!({ "from": from, "to": to }), output)
        }
        PartitionVerb::Transfer { partition, to } => {
            let path = format!("/v1/partitions/{partition}/transfer");
            order(http, &path, &json!({ "to": to }), output)
        }
        PartitionVerb::ElectUnclean { partition, to, force, yes } => {
            let what = format!(
                "have partition {partition} go on with the replica on node {to}, lose what it lacks, \
                 and empty every other copy"
            );
            arguments::confirm(*yes, &what)?;
            let path = format!("/v1/partitions/{partition}/elect-unclean");
            order(http, &path, &json!({ "to": to, "force": force }), output)
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Partitions(Vec<PartitionView>);

impl Report for Partitions {
    fn view(&self) -> View {
        let columns = [
            Column::Right("PARTITION"),
            Column::Right("LEADER"),
            Column::Right("TERM"),
            Column::Left("VOTERS"),
            Column::Left("LEARNERS"),
            Column::Left("STATE"),
        ];
        View::new().rows(&columns, self.0.iter().map(row).collect())
    }

    fn items(&self) -> serde_json::Result<Vec<Value>> {
        each(&self.0)
    }
}

fn row(partition: &PartitionView) -> Vec<Cell> {
    let state = match partition {
        PartitionView { leader: None, .. } => Cell::toned("no leader", Tone::Bad),
        PartitionView { under_replicated: true, .. } => Cell::toned("too few replicas", Tone::Warn),
        PartitionView { moving: Some(moving), .. } => Cell::from(moving.stage.as_str()),
        _ => Cell::toned("ok", Tone::Good),
    };
    let leader = partition.leader.map_or_else(|| "-".to_owned(), |node| node.to_string());
    vec![
        partition.partition.to_string().into(),
        leader.into(),
        partition.term.to_string().into(),
        ids(&partition.voters).into(),
        ids(&partition.learners).into(),
        state,
    ]
}
