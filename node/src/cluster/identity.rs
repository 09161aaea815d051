//! Which cluster a data directory belongs to, and which of its nodes it is: `cluster.toml`.
//!
//! Written when the cluster is founded here or joined, and again when other members come, go or
//! move: a node that starts must know whom to let in before it has any metadata.

use std::path::{Path, PathBuf};

use ironring_core::{NodeId, ShardId, StorageUuid};
use serde::{Deserialize, Serialize};

use crate::driver::data_dir::{self, DataDirError, write_whole};

/// The file's name in the data directory.
pub const FILE: &str = "cluster.toml";
/// Version of the file.
const FORMAT: u32 = 1;
/// Ids of nodes that are no members yet have this bit, those of members do not.
const JOINING_BIT: u64 = 1 << 63;

/// How far a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It makes a cluster of its own: its metadata group may have to be made.
    Founding,
    /// It was let into a cluster and has not heard of that in its own metadata: its part of the
    /// metadata group may have to be made.
    Joining,
    /// It is a member. A directory of the metadata group that is gone is a loss.
    Member,
    /// No member any more, and never again.
    Left,
}

/// Another member, as far as a node needs to know it before it has metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its id.
    pub node: NodeId,
    /// Its data directory.
    pub storage: StorageUuid,
    /// Where it listens for nodes, `ip:port`.
    pub address: String,
    /// Its shards.
    pub shards: u16,
}

/// What a data directory says of its place in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterIdentity {
    /// Version of the file.
    pub format: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster.
    pub uuid: StorageUuid,
    /// The node's id.
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    /// The data directory it was written for.
    pub storage: StorageUuid,
    /// How far the node has come.
    pub stage: Stage,
    /// The other members.
    #[serde(default)]
    pub known: Vec<Known>,
}

/// Why a directory's place in a cluster cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read or written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// It does not parse.
    #[error("{} does not parse: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// It was written by other code, or for another directory.
    #[error("{} {why}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs, and what to do.
        why: String,
    },
}

impl ClusterIdentity {
    /// That of a node in a cluster, not yet written.
    #[must_use]
    pub fn new(
        dir: &data_dir::Identity,
        uuid: StorageUuid,
        node: NodeId,
        stage: Stage,
        known: Vec<Known>,
    ) -> ClusterIdentity {
        ClusterIdentity {
            format: FORMAT,
            cluster: dir.cluster.clone(),
            uuid,
            node,
            name: dir.node.clone(),
            storage: dir.uuid(),
            stage,
            known,
        }
    }

    /// What a node says that is no member any more.
    #[must_use]
    pub fn farewell(&self) -> String {
        format!("node {} ({}) has left cluster `{}`", self.name, self.node, self.cluster)
    }

    /// What the directory at `path` says; `None` when it has no place in a cluster yet. `dir` is its
    /// identity, to which it must fit.
    ///
    /// # Errors
    /// When it cannot be read, or is of another directory.
    pub fn load(
        path: &Path,
        dir: &data_dir::Identity,
    ) -> Result<Option<ClusterIdentity>, IdentityError> {
        let file = path.join(FILE);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(DataDirError::Io { what: "cannot read", path: file, source }.into());
            }
        };
        let have: ClusterIdentity = toml::from_str(&text).map_err(|error| {
            IdentityError::Malformed { path: file.clone(), message: error.to_string() }
        })?;
        have.compare(dir).map_err(|why| IdentityError::Mismatch { path: file, why })?;
        Ok(Some(have))
    }

    fn compare(&self, dir: &data_dir::Identity) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!(
                "has version {}, this program knows {FORMAT}: use the ironring that wrote it",
                self.format
            ));
        }
        let mixed = |what: &str, here: &dyn std::fmt::Display, there: &dyn std::fmt::Display| {
            format!(
                "says {what} {here}, and node.toml beside it says {there}: files of two data \
                 directories are mixed; restore both from the same backup"
            )
        };
        if self.storage != dir.uuid() {
            return Err(mixed("storage", &self.storage, &dir.uuid()));
        }
        if self.cluster != dir.cluster {
            return Err(mixed("cluster", &self.cluster, &dir.cluster));
        }
        if self.name != dir.node {
            return Err(mixed("node", &self.name, &dir.node));
        }
        Ok(())
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When the system refuses.
    ///
    /// # Panics
    /// Never: plain fields always serialise.
    pub fn save(&self, path: &Path) -> Result<(), DataDirError> {
        let text = toml::to_string(self).expect("plain fields always serialise");
        write_whole(path, FILE, &format!("# Written by ironring. Do not edit.\n{text}"))
    }
}

/// What a node that is no member yet calls itself. Members have smaller numbers, and two storages
/// the same one with a probability of one in 2^63.
#[must_use]
pub fn provisional(storage: StorageUuid) -> NodeId {
    NodeId(storage.0 as u64 | JOINING_BIT)
}

/// Whether an id is that of a node that is no member yet.
#[must_use]
pub fn is_provisional(node: NodeId) -> bool {
    node.0 & JOINING_BIT != 0
}

/// A uuid that nobody else has.
///
/// # Panics
/// When the kernel has no random bytes.
#[must_use]
pub fn draw_uuid() -> StorageUuid {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    StorageUuid(u128::from_be_bytes(bytes))
}

/// Whose log it is, with what one that is not there yet is made with.
#[must_use]
pub fn log_identity(storage: StorageUuid, shard: ShardId) -> ironring_log::Identity {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    // 0 is that of logs which have none.
    ironring_log::Identity { storage, shard, salt: u64::from_le_bytes(bytes).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> data_dir::Identity {
        data_dir::Identity {
            format: 1,
            storage_uuid: format!("{:032x}", 0x77),
            cluster: "c".to_owned(),
            node: "n".to_owned(),
            partitions: 8,
            shards: 2,
            segment_bytes: 1 << 22,
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_absent_is_not_unreadable() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(ClusterIdentity::load(tmp.path(), &dir()).unwrap(), None);
        let known = Known {
            node: NodeId(2),
            storage: StorageUuid(9),
            address: "10.0.0.2:7412".to_owned(),
            shards: 4,
        };
        let uuid = StorageUuid(u128::MAX - 1);
        let mine = ClusterIdentity::new(&dir(), uuid, NodeId(7), Stage::Joining, vec![known]);
        mine.save(tmp.path()).unwrap();
        assert_eq!(ClusterIdentity::load(tmp.path(), &dir()).unwrap(), Some(mine));
        std::fs::write(tmp.path().join(FILE), "x").unwrap();
        let error = ClusterIdentity::load(tmp.path(), &dir()).unwrap_err();
        assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
    }

    #[test]
    fn files_of_two_directories_are_not_taken_for_one() {
        let tmp = tempfile::tempdir().unwrap();
        let mine = ClusterIdentity::new(&dir(), StorageUuid(1), NodeId(7), Stage::Member, vec![]);
        mine.save(tmp.path()).unwrap();
        for other in [
            data_dir::Identity { storage_uuid: format!("{:032x}", 0x78), ..dir() },
            data_dir::Identity { cluster: "d".to_owned(), ..dir() },
            data_dir::Identity { node: "m".to_owned(), ..dir() },
        ] {
            let error = ClusterIdentity::load(tmp.path(), &other).unwrap_err().to_string();
            assert!(error.contains("files of two data directories are mixed"), "{error}");
        }
    }

    #[test]
    fn ids_before_membership_are_never_those_of_members() {
        assert!(is_provisional(provisional(StorageUuid(0))));
        assert!(is_provisional(provisional(StorageUuid(u128::MAX))));
        assert!(!is_provisional(NodeId(1)));
        assert_ne!(provisional(StorageUuid(4)), provisional(StorageUuid(5)));
    }
}
