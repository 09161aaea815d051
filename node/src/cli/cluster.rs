//! `ironring cluster`: how the cluster is, its members, and tokens that let nodes join. What operators
//! order of it is in [`super::orders`].

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::arguments;
use super::error::{CliError, EXIT_UNHEALTHY};
use super::force::{self, ForceArgs};
use super::http::HttpArgs;
use super::orders::{self, ConfigureArgs, LeaveArgs, RebalanceVerb, VoteArgs};
use super::output::{Cell, Column, Output, Report, Tone, View, each};
use super::units;
use crate::cluster::status::{ClusterStatus, MemberView};
use crate::driver::clock;
use crate::http::cluster::{Revoked, TokenView, TokenWish};

/// Arguments of `cluster`.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    /// Which node to ask.
    #[command(flatten)]
    pub http: HttpArgs,
    /// What to do.
    #[command(subcommand)]
    pub verb: ClusterVerb,
}

/// What to do with the cluster.
#[derive(Subcommand, Debug)]
pub enum ClusterVerb {
    /// Show how the cluster is; exit status 10 when it is not healthy
    Status,
    /// List the members
    Members,
    /// Let a node give everything away and be no member any more, or give up a dead one
    Leave(LeaveArgs),
    /// Give a node a vote in the metadata group
    Promote(VoteArgs),
    /// Take a node's vote in the metadata group; it still takes every change
    Demote(VoteArgs),
    /// Have another voter lead the metadata group, and so be the controller
    Transfer {
        /// Which node, by its name or id; the voter that has the most unless given
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
    /// Take a snapshot of the metadata group on the node that is asked
    Snapshot,
    /// Set how many replicas partitions have, and how many of them must vote for a write
    Configure(ConfigureArgs),
    /// Show, plan, pause and cancel moves of replicas
    Rebalance {
        /// What to do.
        #[command(subcommand)]
        verb: RebalanceVerb,
    },
    /// Make a stopped node the only voter of the metadata group that lost its majority for good
    ForceQuorum(ForceArgs),
    /// Make, list and revoke the tokens that let nodes join
    Token {
        /// What to do.
        #[command(subcommand)]
        verb: TokenVerb,
    },
}

/// What to do with tokens.
#[derive(Subcommand, Debug)]
pub enum TokenVerb {
    /// Make a token; its secret is shown once
    Create {
        /// How long it is valid
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = arguments::duration)]
        valid: Duration,
        /// Let in one node only
        #[arg(long)]
        single_use: bool,
    },
    /// List the tokens there are, without their secrets
    List,
    /// Take a token back: it lets nobody in from here on
    Revoke {
        /// Its id, as `list` shows it
        id: String,
    },
}

/// Runs the command.
///
/// # Errors
/// When no node can be asked, or it refuses.
pub fn run(args: &ClusterArgs, output: Output) -> Result<ExitCode, CliError> {
    let (http, printed) = (&args.http, |result: std::io::Result<()>| {
        result.map_err(|error| CliError::io("stdout", &error))
    });
    match &args.verb {
        ClusterVerb::Status => {
            let status: ClusterStatus = http.ask("GET", "/v1/cluster/status", None)?;
            printed(output.print(&status))?;
            return Ok(match status.healthy {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(EXIT_UNHEALTHY),
            });
        }
        ClusterVerb::Members => {
            printed(output.print(&Members(http.ask("GET", "/v1/cluster/members", None)?)))?;
        }
        ClusterVerb::Leave(args) => orders::leave(http, args, output)?,
        ClusterVerb::Promote(args) => orders::vote(http, "promote", args, output)?,
        ClusterVerb::Demote(args) => orders::vote(http, "demote", args, output)?,
        ClusterVerb::Transfer { to } => orders::transfer(http, to.as_deref(), output)?,
        ClusterVerb::Snapshot => orders::snapshot(http, output)?,
        ClusterVerb::Configure(args) => orders::configure(http, args, output)?,
        ClusterVerb::Rebalance { verb } => orders::rebalance(http, verb, output)?,
        ClusterVerb::ForceQuorum(args) => force::run(args, output)?,
        ClusterVerb::Token { verb: TokenVerb::Create { valid, single_use } } => {
            let wish = TokenWish { valid_s: Some(valid.as_secs()), single_use: *single_use };
            let wish = serde_json::to_value(wish).expect("plain fields always serialise");
            // Asked first: a failure behind the making of the token would lose its secret.
            let status: ClusterStatus = http.ask("GET", "/v1/cluster/status", None)?;
            let token: TokenView = http.ask("POST", "/v1/cluster/tokens", Some(&wish))?;
            printed(output.print(&Made { token, cluster: status.cluster }))?;
        }
        ClusterVerb::Token { verb: TokenVerb::List } => {
            printed(output.print(&Tokens(http.ask("GET", "/v1/cluster/tokens", None)?)))?;
        }
        ClusterVerb::Token { verb: TokenVerb::Revoke { id } } => {
            let id: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
            let path = format!("/v1/cluster/tokens?id={id}");
            printed(output.print(&http.ask::<Revoked>("DELETE", &path, None)?))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Report for ClusterStatus {
    fn view(&self) -> View {
        let health = match self.healthy {
            true => Cell::toned("yes", Tone::Good),
            false => Cell::toned(format!("NO: {}", self.reasons.join("; ")), Tone::Bad),
        };
        let leader = self.metadata.leader.and_then(|id| self.members.iter().find(|m| m.id == id));
        let leader = leader.map_or_else(|| "-".to_owned(), |m| format!("{} ({})", m.name, m.id));
        let partitions = &self.partitions;
        let counts = format!(
            "{} of {} replicas, {} without a leader, {} with too few replicas, {} moving, {} \
             undecided by comparison",
            partitions.total,
            partitions.rf,
            partitions.leaderless,
            partitions.under_replicated,
            partitions.moves,
            partitions.compare_undecided
        );
        let epoch = format!("{} (term {})", self.epoch, self.metadata.term);
        let mut pairs = vec![
            ("cluster", Cell::from(format!("{} ({})", self.cluster, self.uuid))),
            ("healthy", health),
            ("controller", Cell::from(leader)),
            ("metadata", Cell::from(epoch)),
            ("partitions", Cell::from(counts)),
            ("voters for a write", Cell::from(partitions.min_voters.to_string())),
        ];
        if !self.warnings.is_empty() {
            pairs.push(("warnings", Cell::toned(self.warnings.join("; "), Tone::Warn)));
        }
        View::new().pairs(pairs).rows(&MEMBER, self.members.iter().map(row).collect())
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Members(Vec<MemberView>);

impl Report for Members {
    fn view(&self) -> View {
        View::new().rows(&MEMBER, self.0.iter().map(row).collect())
    }

    fn items(&self) -> serde_json::Result<Vec<Value>> {
        each(&self.0)
    }
}

const MEMBER: [Column; 9] = [
    Column::Right("ID"),
    Column::Left("NAME"),
    Column::Left("STATUS"),
    Column::Left("STATE"),
    Column::Left("METADATA"),
    Column::Right("LEADS"),
    Column::Right("REPLICAS"),
    Column::Left("CLIENTS"),
    Column::Left("NODES"),
];

fn row(member: &MemberView) -> Vec<Cell> {
    let tone = match member.status.as_str() {
        "alive" if !member.short_of_space => Tone::Good,
        "alive" | "suspect" => Tone::Warn,
        _ => Tone::Bad,
    };
    let status = match member.status.as_str() {
        "alive" if member.short_of_space => "alive, short of space".to_owned(),
        "alive" => "alive".to_owned(),
        silent => format!("{silent} since {}", units::time(member.since_unix_ms)),
    };
    vec![
        member.id.to_string().into(),
        member.name.as_str().into(),
        Cell::toned(status, tone),
        member.state.as_str().into(),
        member.role.as_str().into(),
        member.leads.to_string().into(),
        member.replicas.to_string().into(),
        member.client_address.as_str().into(),
        member.node_address.as_str().into(),
    ]
}

/// A token that was just made, and the name of the cluster it is for: a node that joins must give both.
#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    token: TokenView,
    cluster: String,
}

impl Report for Made {
    fn view(&self) -> View {
        let Made { token: made, cluster } = self;
        let (token, left) = (made.token.as_deref().unwrap_or("-"), left(made));
        let uses = if made.single_use { "one node" } else { "any number of nodes" };
        // The defaults of both addresses are loopback, where no other host finds the node.
        View::new()
            .pairs([
                ("token", Cell::from(token)),
                ("id", Cell::from(made.id.as_str())),
                ("cluster", Cell::from(cluster.as_str())),
                ("valid", Cell::from(left)),
                ("lets in", Cell::from(uses)),
            ])
            .text(format!(
                "Not shown again. A node joins with (IP is its own, HOST a member's):\n  ironring start \
                 --cluster {cluster} --node NAME --data-dir DIR --peers IP:7412 --listen IP:7411 \
                 --seeds HOST:7412 --token {token}"
            ))
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Tokens(Vec<TokenView>);

impl Report for Tokens {
    fn view(&self) -> View {
        let columns = [
            Column::Left("ID"),
            Column::Left("VALID"),
            Column::Left("LETS IN"),
            Column::Right("LAST NODE"),
        ];
        let row = |token: &TokenView| {
            let used = token.used_by.map_or_else(|| "-".to_owned(), |id| id.to_string());
            let lets_in = match (token.single_use, token.used_by) {
                (true, Some(_)) => "nobody more",
                (true, None) => "one node",
                (false, _) => "any number",
            };
            vec![token.id.as_str().into(), left(token).into(), lets_in.into(), used.into()]
        };
        View::new().rows(&columns, self.0.iter().map(row).collect())
    }

    fn items(&self) -> serde_json::Result<Vec<Value>> {
        each(&self.0)
    }
}

/// How long a token is still valid, by this machine's clock.
fn left(token: &TokenView) -> String {
    match token.expires_unix_ms.saturating_sub(clock::now().wall.0) {
        0 => "expired".to_owned(),
        ms => units::duration(Duration::from_millis(ms)),
    }
}

impl Report for Revoked {
    fn view(&self) -> View {
        View::new().pairs([("revoked", Cell::from(self.revoked.as_str()))])
    }
}
