//! `ironring cluster force-quorum`: one stopped node becomes the only voter of the metadata group, when
//! the group has lost its majority for good.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use ironring_log::Identity as LogIdentity;
use serde::Serialize;

use super::arguments;
use super::error::{CliError, IO_FAILED, QUORUM_REACHABLE, USAGE};
use super::node::failed;
use super::orders::printed;
use super::output::{Cell, Output, Report, View};
use super::settings::SettingsArgs;
use crate::cluster::identity::Known;
use crate::cluster::{ClusterIdentity, META_SHARD, log_identity};
use crate::config::RuntimeName;
use crate::driver::data_dir::lock_known;
use crate::driver::glommio::Glommio;
use crate::driver::monoio::Monoio;
use crate::driver::runtime::{Runtime, Seat};
use crate::raft::force::{Remains, remains};

/// How long another voter may take to answer.
const REACH_MAX: Duration = Duration::from_secs(2);
/// Depth of the rings that read and write the metadata group's log.
const RING_DEPTH: u32 = 64;

/// Arguments of `force-quorum`.
#[derive(Args, Debug)]
pub struct ForceArgs {
    /// Name of the cluster, to be sure that it is this one
    pub cluster: String,
    /// Configuration file [default: /etc/ironring/ironring.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of everything the stopped node stores (node.data_dir)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Set any key, e.g. `--set metadata.dir=/fast/meta` (repeatable)
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// What was done.
#[derive(Serialize)]
struct Forced {
    node: u64,
    name: String,
    term: u64,
    index: u64,
    voters_before: Vec<u64>,
}

impl Report for Forced {
    fn view(&self) -> View {
        let before: Vec<String> = self.voters_before.iter().map(u64::to_string).collect();
        View::new()
            .pairs([
                ("only voter", Cell::from(format!("{} ({})", self.name, self.node))),
                ("voters before", Cell::from(before.join(" "))),
                ("last change it has", Cell::from(format!("{} of term {}", self.index, self.term))),
            ])
            .text(
                "Start it. Empty the other nodes (`ironring node reinit`), give up those that are gone (`ironring cluster leave --lost`), and \
                 never start any from its old directory.",
            )
    }
}

/// Runs the command.
///
/// # Errors
/// When the node runs, a majority can be reached, it is not confirmed, or the files cannot be read.
pub fn run(args: &ForceArgs, output: Output) -> Result<(), CliError> {
    let settings = SettingsArgs {
        config: args.config.clone(),
        data_dir: args.data_dir.clone(),
        set: args.set.clone(),
        ..SettingsArgs::default()
    };
    let config = settings.load()?.config;
    let path = &config.node.data_dir;
    let (_lock, identity) = lock_known(path).map_err(failed)?;
    let io = |what: String| CliError::local(&IO_FAILED, what);
    let place = ClusterIdentity::load(path, &identity).map_err(|error| io(error.to_string()))?;
    let Some(place) = place else {
        return Err(io(format!("{}: the node is of no cluster yet", path.display())));
    };
    if place.cluster != args.cluster {
        let message = format!(
            "the node is of cluster `{}`, not `{}`: type the name of the cluster that is meant",
            place.cluster, args.cluster
        );
        return Err(CliError::hinted(&USAGE, message, "see cluster.toml in the data directory"));
    }
    let meta = match config.metadata.dir.as_os_str().is_empty() {
        true => path.join("meta"),
        false => config.metadata.dir.clone(),
    };
    let meta = meta.canonicalize().map_err(|error| CliError::io(meta.display(), &error))?;
    let offline = Offline {
        runtime: config.driver.runtime,
        probe: path.join("probe").canonicalize().unwrap_or_else(|_| path.join("probe")),
        meta,
        identity: log_identity(place.storage, META_SHARD),
    };
    let me = place.node.0;
    let found = offline.open(None).map_err(io)?;
    check_unreachable(&found, &place.known, me)?;
    let last = found.last.map_or_else(|| "nothing".to_owned(), |at| format!("change {at}"));
    let what = format!(
        "make node {} ({me}) the only voter of cluster `{}`: it has {last}, and what others have beyond \
         that is lost",
        place.name, place.cluster
    );
    arguments::confirm(args.yes, &what)?;
    offline.open(Some(me)).map_err(io)?;
    let last = found.last.unwrap_or(crate::raft::LogPoint { term: 0, index: 0 });
    let forced = Forced {
        node: me,
        name: place.name,
        term: last.term,
        index: last.index,
        voters_before: found.voters.into_iter().collect(),
    };
    printed(output, &forced)
}

/// Refuses while a majority of the voters could decide without force.
fn check_unreachable(found: &Remains, known: &[Known], me: u64) -> Result<(), CliError> {
    let answers = |address: &String| {
        let address = address.parse::<SocketAddr>().ok();
        address.is_some_and(|address| TcpStream::connect_timeout(&address, REACH_MAX).is_ok())
    };
    let reach = |id: &&u64| {
        // The group has the address at which a node joined; it may have moved since.
        let now = known.iter().filter(|known| known.node.0 == **id).map(|known| &known.address);
        let joined = found.addresses.get(id);
        let addresses: BTreeSet<&String> = now.chain(joined).collect();
        **id == me || addresses.into_iter().any(answers)
    };
    let reached = found.voters.iter().filter(reach).count();
    let needed = found.voters.len() / 2 + 1;
    if found.voters.is_empty() || reached < needed {
        return Ok(());
    }
    Err(CliError::local(
        &QUORUM_REACHABLE,
        format!(
            "{reached} of the {} voters of the metadata group can be reached, and {needed} are enough",
            found.voters.len()
        ),
    ))
}

/// A stopped node's part of the metadata group.
struct Offline {
    runtime: RuntimeName,
    probe: PathBuf,
    meta: PathBuf,
    identity: LogIdentity,
}

impl Offline {
    fn open(&self, force: Option<u64>) -> Result<Remains, String> {
        match self.runtime {
            RuntimeName::Glommio => self.open_on::<Glommio>(force),
            RuntimeName::Monoio => self.open_on::<Monoio>(force),
        }
    }

    fn open_on<R: Runtime>(&self, force: Option<u64>) -> Result<Remains, String> {
        let (told, hear) = mpsc::channel();
        let (meta, identity) = (self.meta.clone(), self.identity);
        let seat = Seat {
            shard: 0,
            cpu: None,
            memlock_tight_bytes: None,
            ring_depth: RING_DEPTH,
            // Nothing else runs on the thread.
            flushes: false,
            probe: self.probe.clone(),
        };
        let life = move |runtime| async move {
            let found = remains::<R>(runtime, &meta, identity, force).await?;
            // The other end waits for this thread.
            let _ = told.send(found);
            Ok(())
        };
        R::start(seat, life)?()??;
        hear.recv().map_err(|_| "the metadata group's log was not read".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use ironring_core::{NodeId, StorageUuid};

    use super::*;

    #[test]
    fn voters_are_looked_for_where_they_are_now_and_where_they_joined() {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let at = |listener: &TcpListener| listener.local_addr().expect("it listens").to_string();
        let nobody = at(&listen());
        let (second, third) = (listen(), listen());
        let known = |node: u64, address: &str| Known {
            node: NodeId(node),
            storage: StorageUuid(node.into()),
            address: address.to_owned(),
            shards: 1,
        };
        let joined = |second: &str, third: &str| Remains {
            voters: [1, 2, 3].into(),
            addresses: [(2, second.to_owned()), (3, third.to_owned())].into(),
            ..Remains::default()
        };
        let is_refused =
            |found: &Remains, known: &[Known]| check_unreachable(found, known, 1).is_err();
        let moved = joined(&nobody, &nobody);
        assert!(!is_refused(&moved, &[]));
        assert!(!is_refused(&moved, &[known(2, &nobody), known(3, &nobody)]));
        assert!(is_refused(&moved, &[known(2, &at(&second)), known(3, &at(&third))]));
        assert!(is_refused(&moved, &[known(3, &at(&third))]), "two of three are enough");
        assert!(!is_refused(&moved, &[known(4, &at(&third))]), "it has no vote");
        assert!(is_refused(&joined(&at(&second), &nobody), &[known(2, &nobody)]));
    }
}
