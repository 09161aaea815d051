//! What operators order of a cluster: `ironring cluster leave|promote|demote|transfer|snapshot|
//! rebalance`. How nodes and partitions are ordered about is in [`super::node`] and
//! [`super::partition`].

use std::fmt::Write;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args, Subcommand, value_parser};
use ironring_core::NodeId;
use ironring_ring::metadata::{MemberState, RF_MAX};
use serde_json::{Value, json};

use super::arguments;
use super::error::{CONNECT_FAILED, CliError, TAKEN_BACK, USAGE};
use super::http::HttpArgs;
use super::output::{Cell, Column, Output, Report, Tone, View};
use super::units;
use crate::cluster::operation::PaceWish;
use crate::cluster::overview::{GoingView, MoveView, PlanView, RebalanceView};
use crate::cluster::plane::{Operated, Taken};
use crate::cluster::status::{ClusterStatus, MemberView};

/// Pause between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long what is waited for may be asked about in vain.
const UNHEARD_MAX: Duration = Duration::from_secs(60);

/// Arguments of `leave`.
#[derive(Args, Debug)]
pub struct LeaveArgs {
    /// Name or id of the node; the one that is asked unless given
    pub node: Option<String>,
    /// Give up a dead node, with the replicas it holds
    #[arg(long, requires = "node")]
    pub lost: bool,
    /// Although partitions then have fewer replicas than they should, or with --lost although it
    /// may hold what no other node has
    #[arg(long)]
    pub force: bool,
    /// Wait until it is no member any more
    #[arg(long)]
    pub wait: bool,
    /// Do not ask before what may lose data, or when no node is named
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `promote` and `demote`.
#[derive(Args, Debug)]
pub struct VoteArgs {
    /// Name or id of the node
    pub node: String,
    /// Leave it to the cluster again whether the node votes
    #[arg(long)]
    pub auto: bool,
}

/// Arguments of `configure`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("setting").required(true).multiple(true)
    .args(["replication_factor", "min_voters"])))]
pub struct ConfigureArgs {
    /// Replicas of each partition, as far as there are nodes for them
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=i64::from(RF_MAX)))]
    pub replication_factor: Option<u8>,
    /// Voters a partition needs to take writes: with fewer it refuses them
    #[arg(long, value_name = "M", value_parser = value_parser!(u8).range(1..=i64::from(RF_MAX)))]
    pub min_voters: Option<u8>,
    /// Although partitions have too few voters now and then take no writes
    #[arg(long)]
    pub force: bool,
    /// Do not ask before either is lowered
    #[arg(long)]
    pub yes: bool,
}

/// What to do with moves of replicas.
#[derive(Subcommand, Debug)]
pub enum RebalanceVerb {
    /// Show the moves under way, and whether others are begun for balance
    Status,
    /// Show what would be moved, and why; changes nothing
    Plan,
    /// Begin moves for balance, which is how a cluster begins
    Start {
        /// How fast replicas are moved from here on, for balance or not
        #[arg(long, value_enum)]
        pace: Option<PaceWish>,
    },
    /// Begin no more moves for balance; those under way go on
    Pause,
    /// Give up the moves under way, and begin no more for balance
    Cancel {
        /// Give up that of one partition only
        #[arg(long, value_name = "PARTITION")]
        partition: Option<u32>,
    },
}

/// Prints a result.
///
/// # Errors
/// When it cannot be written.
pub fn printed(output: Output, report: &impl Report) -> Result<(), CliError> {
    output.print(report).map_err(|error| CliError::io("stdout", &error))
}

/// Has a node carry an order out, and prints what came of it.
///
/// # Errors
/// When no node can be asked, or it is refused.
pub fn order(http: &HttpArgs, path: &str, body: &Value, output: Output) -> Result<(), CliError> {
    printed(output, &http.ask::<Operated>("POST", path, Some(body))?)
}

/// `cluster leave`.
///
/// # Errors
/// When no node can be asked, or it is refused.
pub fn leave(http: &HttpArgs, args: &LeaveArgs, output: Output) -> Result<(), CliError> {
    if args.node.is_none() && http.http.len() > 1 {
        let why =
            "which node? Without NODE the one that is asked leaves: name it, or give one --http";
        return Err(CliError::local(&USAGE, why.to_owned()));
    }
    let member = going(http, args.node.as_deref())?;
    let named = format!("node {} ({})", member.name, member.id);
    let what = match (args.lost, args.force) {
        (true, _) => Some(format!("give up {named} and every replica it holds")),
        (_, true) => Some(format!("let {named} leave although partitions keep too few replicas")),
        _ if args.node.is_none() => Some(format!("let {named}, which was asked, leave")),
        _ => None,
    };
    if let Some(what) = what {
        arguments::confirm(args.yes, &what)?;
    }
    let body = json!({ "node": member.id.0, "lost": args.lost, "force": args.force });
    let mut operated: Operated = http.ask("POST", "/v1/cluster/leave", Some(&body))?;
    if args.wait {
        note_warnings(&operated, output);
        wait(http, &member, output, |_| false)?;
        operated.done = format!("node {} ({}) is no member any more", member.name, member.id);
    }
    printed(output, &operated)
}

/// How a node is; the one that is asked when none is named.
///
/// # Errors
/// When no node can be asked, or there is none of that name.
pub fn going(http: &HttpArgs, node: Option<&str>) -> Result<GoingView, CliError> {
    let node = match node {
        Some(node) => node.to_owned(),
        None => asked(http)?.to_string(),
    };
    http.ask("GET", &format!("/v1/nodes/{}", segment(&node)), None)
}

/// The node that is asked.
fn asked(http: &HttpArgs) -> Result<NodeId, CliError> {
    Ok(http.ask::<ClusterStatus>("GET", "/v1/cluster/status", None)?.node)
}

/// A name as a part of a path or of a query, whatever is in it.
#[must_use]
pub fn segment(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'~' => {
                text.push(char::from(byte));
            }
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

/// Waits until a node is no member any more, or as `enough` wants it, and says how it goes on.
///
/// # Errors
/// When no node can be asked for a minute, or the order was taken back.
pub fn wait(
    http: &HttpArgs,
    member: &GoingView,
    output: Output,
    enough: impl Fn(&GoingView) -> bool,
) -> Result<(), CliError> {
    let asked = asked(http)?;
    let mut told = String::new();
    let mut empty = false;
    let begin = Instant::now();
    let (mut begun, mut heard) = (false, begin);
    loop {
        let look = || -> Result<Option<GoingView>, CliError> {
            let members: Vec<MemberView> = http.ask("GET", "/v1/cluster/members", None)?;
            match members.iter().any(|m| m.id == member.id) {
                true => going(http, Some(&member.id.to_string())).map(Some),
                false => Ok(None),
            }
        };
        match look() {
            Ok(None) => return Ok(()),
            Ok(Some(now)) if enough(&now) => return Ok(()),
            Ok(Some(now)) if now.state == MemberState::Active.name() => {
                // The node that is asked may not have heard of the order yet, which another carried out.
                if begun || begin.elapsed() >= UNHEARD_MAX {
                    let why =
                        format!("node {} takes part again: the order was taken back", now.name);
                    return Err(CliError::local(&TAKEN_BACK, why));
                }
                heard = Instant::now();
            }
            Ok(Some(now)) => {
                (begun, heard) = (true, Instant::now());
                let remaining = now.remaining;
                empty = remaining.replicas == 0;
                let text = format!(
                    "node {} is {}: it leads {} partitions and holds {} replicas",
                    now.name, now.state, remaining.leads, remaining.replicas
                );
                if text != told {
                    output.note(&text);
                    told = text;
                }
            }
            // The node that is asked may be the one that has left, and ends.
            Err(error) if error.code == CONNECT_FAILED.name && empty && asked == member.id => {
                return Ok(());
            }
            Err(error) if error.retriable && heard.elapsed() < UNHEARD_MAX => {
                let faults = error.faults.iter().map(|fault| fault.message.as_str());
                let text = format!("asking again: {}", faults.collect::<Vec<_>>().join("; "));
                if text != told {
                    output.note(&text);
                    told = text;
                }
            }
            Err(error) => return Err(error),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Says what the operator should know before a wait.
pub fn note_warnings(operated: &Operated, output: Output) {
    for warning in &operated.warnings {
        output.note(&format!("warning: {warning}"));
    }
}

/// `cluster promote` and `cluster demote`.
///
/// # Errors
/// When no node can be asked, or it is refused.
pub fn vote(http: &HttpArgs, verb: &str, args: &VoteArgs, output: Output) -> Result<(), CliError> {
    let body = json!({ "node": args.node, "auto": args.auto });
    order(http, &format!("/v1/cluster/{verb}"), &body, output)
}

/// `cluster transfer`.
///
/// # Errors
/// When no node can be asked, or it is refused.
pub fn transfer(http: &HttpArgs, to: Option<&str>, output: Output) -> Result<(), CliError> {
    order(http, "/v1/cluster/transfer", &json!({ "to": to }), output)
}

/// `cluster snapshot`.
///
/// # Errors
/// When no node can be asked, or it takes none.
pub fn snapshot(http: &HttpArgs, output: Output) -> Result<(), CliError> {
    printed(output, &http.ask::<Taken>("POST", "/v1/cluster/snapshot", Some(&json!({})))?)
}

/// `cluster configure`.
///
/// # Errors
/// When no node can be asked, or it is refused.
pub fn configure(http: &HttpArgs, args: &ConfigureArgs, output: Output) -> Result<(), CliError> {
    let now = http.ask::<ClusterStatus>("GET", "/v1/cluster/status", None)?.partitions;
    let settings = [
        (args.replication_factor, now.rf, "replicas of each partition"),
        (args.min_voters, now.min_voters, "voters needed for a write"),
    ];
    for (wanted, now, what) in settings {
        if let Some(wanted) = wanted.filter(|wanted| *wanted < now) {
            let what = format!("keep {wanted} {what} instead of {now}, and survive fewer failures");
            arguments::confirm(args.yes, &what)?;
        }
    }
    let body = json!({
        "replication_factor": args.replication_factor,
        "min_voters": args.min_voters,
        "force": args.force,
    });
    order(http, "/v1/cluster/configure", &body, output)
}

/// `cluster rebalance`.
///
/// # Errors
/// When no node can be asked, or it is refused.
pub fn rebalance(http: &HttpArgs, verb: &RebalanceVerb, output: Output) -> Result<(), CliError> {
    let path = "/v1/cluster/rebalance";
    let action = match verb {
        RebalanceVerb::Status => {
            return printed(output, &http.ask::<RebalanceView>("GET", path, None)?);
        }
        RebalanceVerb::Plan => {
            let path = "/v1/cluster/rebalance/plan";
            return printed(output, &http.ask::<PlanView>("GET", path, None)?);
        }
        RebalanceVerb::Start { pace } => json!({ "action": "start", "pace": pace }),
        RebalanceVerb::Pause => json!({ "action": "pause" }),
        RebalanceVerb::Cancel { partition } => {
            json!({ "action": "cancel", "partition": partition })
        }
    };
    order(http, path, &action, output)
}

impl Report for Operated {
    fn view(&self) -> View {
        let warnings = self.warnings.iter().map(|warning| format!("\nwarning: {warning}"));
        View::new().text(format!("{}{}", self.done, warnings.collect::<String>()))
    }
}

impl Report for Taken {
    fn view(&self) -> View {
        View::new().pairs([
            ("node", Cell::from(self.node.to_string())),
            ("reflects change", Cell::from(self.index.to_string())),
            ("of term", Cell::from(self.term.to_string())),
            ("snapshots kept", Cell::from(self.kept.to_string())),
        ])
    }
}

/// A node or nobody.
fn who(node: Option<ironring_core::NodeId>) -> String {
    node.map_or_else(|| "-".to_owned(), |node| node.to_string())
}

/// Node ids, with spaces between them.
#[must_use]
pub fn ids(nodes: &[ironring_core::NodeId]) -> String {
    match nodes.is_empty() {
        true => "-".to_owned(),
        false => nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// A time left, when it is known.
fn eta(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |s| units::duration(Duration::from_secs(s)))
}

impl Report for RebalanceView {
    fn view(&self) -> View {
        let balancing = match self.balancing {
            true => Cell::toned("on", Tone::Good),
            false => Cell::toned("paused", Tone::Warn),
        };
        let pace = match self.pace_ordered {
            true => format!("{} (ordered)", self.pace.name()),
            false => format!("{} (configured)", self.pace.name()),
        };
        let left = match self.moves.is_empty() {
            true => "-".to_owned(),
            false => format!(
                "{}, {}, {}",
                units::bytes(self.left_bytes),
                units::rate(self.rate_bytes_per_s as f64),
                eta(self.eta_s)
            ),
        };
        let view = View::new().pairs([
            ("balancing", balancing),
            ("controller", Cell::from(who(self.controller))),
            ("nodes being emptied", Cell::from(ids(&self.emptying))),
            ("pace", Cell::from(pace)),
            ("moves under way", Cell::from(self.moves.len().to_string())),
            ("left of them", Cell::from(left)),
        ]);
        if self.moves.is_empty() {
            return view;
        }
        let columns = [
            Column::Right("PARTITION"),
            Column::Right("FROM"),
            Column::Right("TO"),
            Column::Left("STAGE"),
            Column::Right("SENT"),
            Column::Right("LEFT"),
            Column::Right("ETA"),
        ];
        let row = |moved: &MoveView| {
            let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), units::bytes);
            vec![
                moved.partition.to_string().into(),
                who(moved.from).into(),
                who(moved.to).into(),
                moved.stage.as_str().into(),
                size(moved.sent_bytes).into(),
                size(moved.left_bytes).into(),
                eta(moved.eta_s).into(),
            ]
        };
        view.rows(&columns, self.moves.iter().map(row).collect())
    }
}

/// Rows of a table of moves; all of them are in the JSON.
const MOVES_SHOWN: usize = 50;

impl Report for PlanView {
    fn view(&self) -> View {
        let skew = |of: fn(&crate::cluster::overview::SkewView) -> f64| {
            format!("{:.2} now, {:.2} behind the plan", of(&self.before), of(&self.after))
        };
        let copies =
            format!("{} ({} would make every share exact)", self.copies, self.copies_to_even);
        let balancing = if self.balancing { "on" } else { "paused" };
        let shown = self.moves.len().min(MOVES_SHOWN);
        let moves = match self.moves.len() - shown {
            0 => self.moves.len().to_string(),
            more => format!("{} ({more} not shown: see -o json)", self.moves.len()),
        };
        let view = View::new()
            .pairs([
                ("balancing", balancing.to_owned()),
                ("skew of replicas (max/mean)", skew(|skew| skew.replicas)),
                ("skew of leaderships (max/mean)", skew(|skew| skew.leaders)),
                ("replicas to copy", copies),
                ("partitions short of replicas", self.short.to_string()),
                ("moves under way", self.under_way.to_string()),
                ("moves planned", moves),
            ])
            .rows(&SHARE, self.nodes.iter().map(share_row).collect());
        if shown == 0 {
            return view;
        }
        let columns = [
            Column::Right("PARTITION"),
            Column::Right("FROM"),
            Column::Right("TO"),
            Column::Left("REASON"),
        ];
        let row = |moved: &crate::cluster::overview::PlannedMove| {
            vec![
                moved.partition.to_string().into(),
                who(moved.from).into(),
                who(moved.to).into(),
                moved.reason.as_str().into(),
            ]
        };
        view.rows(&columns, self.moves.iter().take(shown).map(row).collect())
    }
}

const SHARE: [Column; 6] = [
    Column::Right("NODE"),
    Column::Right("SHARE"),
    Column::Right("REPLICAS"),
    Column::Right("THEN"),
    Column::Right("LEADS"),
    Column::Right("THEN"),
];

fn share_row(node: &crate::cluster::overview::NodeShare) -> Vec<Cell> {
    vec![
        node.node.to_string().into(),
        node.share.to_string().into(),
        node.replicas.to_string().into(),
        node.replicas_after.to_string().into(),
        node.leaders.to_string().into(),
        node.leaders_after.to_string().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_is_that_name_and_no_other() {
        assert_eq!(segment("node-1.b_c~2"), "node-1.b_c~2");
        assert_eq!(segment("1,2"), "1%2C2");
        assert_eq!(segment("a b/c?d&e%"), "a%20b%2Fc%3Fd%26e%25");
        assert_eq!(segment("\u{e9}"), "%C3%A9");
    }
}
