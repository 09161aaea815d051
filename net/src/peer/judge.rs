//! Who is let in: pure functions of what both sides say and of what the metadata know.
//!
//! Rows are tried in order and the first that does not hold refuses, so a node is told first what
//! nobody can put right by waiting. Versions come before everything: without a common one the rest
//! may not mean what it seems to.

use std::borrow::Cow;

use ironring_core::{Incarnation, NodeId, StorageUuid};

use super::error::PeerError;
use super::hello::{ClusterUuid, Hello, Identity, Refusal, Refused, Welcome};

/// What the metadata say of the node that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its data directory.
    pub storage: StorageUuid,
    /// It is being removed, or was.
    pub removed: bool,
    /// The newest run of it, when one is known.
    pub newest: Option<Run>,
}

/// A run of a node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub incarnation: Incarnation,
    /// The mark of its data directory, by which it is told from a copy; 0: it has none.
    pub mark: u64,
}

/// What an acceptor requires, beside what it is.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// Versions it speaks, lowest and highest: [`super::VERSIONS`].
    pub versions: (u16, u16),
    /// How much the wall clocks may differ.
    pub clock_skew_max_ms: u64,
    /// The member with the id of the node that dialled; none: there is no such member.
    pub member: Option<Member>,
    /// Whether the token it showed lets a node join, and why not: [`Refusal::BadToken`], or
    /// [`Refusal::UnknownNode`] when a token may exist that has not arrived yet.
    pub token: Result<(), (Refusal, &'a str)>,
    /// It is about to stop.
    pub stopping: bool,
    /// Payload bytes to let the dialler send.
    pub credits: u64,
}

/// What a node that was dialled answers.
///
/// # Errors
/// [`Refused`] is to be sent, and the connection closed behind it.
pub fn judge_hello<'a>(
    ours: &Identity<'a>,
    theirs: &Hello<'_>,
    policy: &Policy<'_>,
) -> Result<Welcome<'a>, Refused<'static>> {
    let refuse = |refusal, message| Err(refused(refusal, policy.versions, message));
    let them = &theirs.identity;
    let Some(version) = common_version(policy.versions, theirs.versions) else {
        let message = format!(
            "this node speaks versions {} to {}, node {} speaks {} to {}",
            policy.versions.0,
            policy.versions.1,
            them.node_name,
            theirs.versions.0,
            theirs.versions.1
        );
        return refuse(Refusal::NoCommonVersion, message);
    };
    same_cluster(ours, them).map_err(|m| refused(Refusal::WrongCluster, policy.versions, m))?;
    if them.storage == ours.storage {
        return refuse(Refusal::WrongNode, format!("node {} dialled itself", them.node));
    }
    if theirs.to_node != NodeId(0) && theirs.to_node != ours.node {
        let message =
            format!("this is node {} ({}), not node {}", ours.node, ours.node_name, theirs.to_node);
        return refuse(Refusal::WrongNode, message);
    }
    if theirs.to_shard.0 >= ours.shard_count {
        let message = format!("there is no shard {} of {}", theirs.to_shard, ours.shard_count);
        return refuse(Refusal::NoSuchShard, message);
    }
    membership(ours, theirs, policy).map_err(|(r, m)| refused(r, policy.versions, m))?;
    let skew = them.wall.0.abs_diff(ours.wall.0);
    if skew > policy.clock_skew_max_ms {
        let message =
            format!("the clocks differ by {skew} ms, allowed are {}", policy.clock_skew_max_ms);
        return refuse(Refusal::ClockSkew, message);
    }
    if policy.stopping {
        return refuse(Refusal::Stopping, format!("node {} is about to stop", ours.node_name));
    }
    Ok(Welcome {
        version,
        identity: Identity { features: ours.features & them.features, ..*ours },
        shard: theirs.to_shard,
        credits: policy.credits,
        // Whoever answers has it.
        mark: 0,
    })
}

/// Whether a dialler goes on after [`Welcome`]; with what it would have refused when it does not.
///
/// # Errors
/// [`Refused`] says why to close. It is not sent: the acceptor has nothing to do with it.
pub fn judge_welcome(
    ours: &Hello<'_>,
    welcome: &Welcome<'_>,
    clock_skew_max_ms: u64,
) -> Result<(), Refused<'static>> {
    let refuse = |refusal, message| Err(refused(refusal, ours.versions, message));
    let them = &welcome.identity;
    if !(ours.versions.0..=ours.versions.1).contains(&welcome.version) {
        let message = format!("node {} chose version {}", them.node_name, welcome.version);
        return refuse(Refusal::NoCommonVersion, message);
    }
    same_cluster(&ours.identity, them)
        .map_err(|message| refused(Refusal::WrongCluster, ours.versions, message))?;
    if them.storage == ours.identity.storage {
        return refuse(Refusal::WrongNode, "this node dialled itself".to_owned());
    }
    if ours.to_node != NodeId(0) && ours.to_node != them.node {
        let message = format!("node {} answered instead of node {}", them.node, ours.to_node);
        return refuse(Refusal::WrongNode, message);
    }
    if them.node == ours.identity.node {
        let message = format!("node {} has this node's id", them.node_name);
        return refuse(Refusal::DuplicateNode, message);
    }
    if welcome.shard != ours.to_shard {
        let message = format!("shard {} answered instead of {}", welcome.shard, ours.to_shard);
        return refuse(Refusal::NoSuchShard, message);
    }
    let skew = them.wall.0.abs_diff(ours.identity.wall.0);
    if skew > clock_skew_max_ms {
        let message = format!("the clocks differ by {skew} ms, allowed are {clock_skew_max_ms}");
        return refuse(Refusal::ClockSkew, message);
    }
    Ok(())
}

/// What a node that was dialled answers when the first frame is no [`Hello`]. `versions` are its own.
#[must_use]
pub fn malformed(versions: (u16, u16), error: &PeerError) -> Refused<'static> {
    refused(Refusal::Malformed, versions, format!("the first frame is no Hello: {error}"))
}

/// The highest version both speak: the lower of the two highest.
fn common_version(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let version = ours.1.min(theirs.1);
    (version >= ours.0.max(theirs.0)).then_some(version)
}

fn same_cluster(ours: &Identity<'_>, theirs: &Identity<'_>) -> Result<(), String> {
    if theirs.cluster_name != ours.cluster_name {
        return Err(format!(
            "this node is of cluster `{}`, node {} of `{}`",
            ours.cluster_name, theirs.node_name, theirs.cluster_name
        ));
    }
    let known = ours.cluster != ClusterUuid::NONE && theirs.cluster != ClusterUuid::NONE;
    if known && theirs.cluster != ours.cluster {
        return Err(format!(
            "two clusters are named `{}`: {:032x} here, {:032x} at node {}",
            ours.cluster_name, ours.cluster.0, theirs.cluster.0, theirs.node_name
        ));
    }
    Ok(())
}

fn membership(
    ours: &Identity<'_>,
    theirs: &Hello<'_>,
    policy: &Policy<'_>,
) -> Result<(), (Refusal, String)> {
    let them = &theirs.identity;
    let owner = if them.node == ours.node {
        Some(ours.storage)
    } else {
        policy.member.map(|member| member.storage)
    };
    if let Some(owner) = owner.filter(|owner| *owner != them.storage) {
        let message = format!(
            "node id {} belongs to the data directory {owner}, not to {}",
            them.node, them.storage
        );
        return Err((Refusal::DuplicateNode, message));
    }
    match (policy.member, policy.token) {
        (Some(Member { removed: true, .. }), _) => {
            let message = format!("node {} is removed from the cluster", them.node);
            Err((Refusal::Removed, message))
        }
        (Some(Member { newest: Some(newest), .. }), _) => {
            judge_run(&theirs.identity, theirs.mark, newest).map_err(|why| (Refusal::OldRun, why))
        }
        (Some(_), _) => Ok(()),
        (None, _) if theirs.token.is_empty() => {
            let message = format!("node {} is not a member and has no token to join", them.node);
            Err((Refusal::UnknownNode, message))
        }
        (None, Ok(())) => Ok(()),
        (None, Err((refusal, why))) => Err((refusal, why.to_owned())),
    }
}

/// Whether a process that says this of itself can be its node, of which `newest` is known: one whose
/// node has run again elsewhere is it no more. Both sides of a connection ask.
///
/// # Errors
/// What is wrong, with the values that are: [`Refusal::OldRun`].
pub fn judge_run(them: &Identity<'_>, mark: u64, newest: Run) -> Result<(), String> {
    let (node, run, known) = (them.node, them.incarnation, newest.incarnation);
    if run < known {
        let message = format!(
            "this is run {run} of node {node}, and run {known} of it is known: its data directory is \
             an old copy, or another process runs on a copy of it"
        );
        return Err(message);
    }
    let marked = mark != 0 && newest.mark != 0;
    if run == known && marked && mark != newest.mark {
        let message = format!(
            "this is run {run} of node {node}, and another process was that as well: its data directory \
             is an old copy, or another process runs on a copy of it"
        );
        return Err(message);
    }
    Ok(())
}

fn refused(refusal: Refusal, versions: (u16, u16), message: String) -> Refused<'static> {
    Refused { refusal, versions, message: Cow::Owned(message) }
}
