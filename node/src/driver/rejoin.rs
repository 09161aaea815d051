//! A data directory that was emptied, so that its node joins its cluster again in its own place:
//! `rejoin.toml`.
//!
//! The file is written first and says under which new storage uuid the directory goes on. As long as
//! `node.toml` has another, what the directory holds is the old storage's and is deleted, by whoever
//! opens it next; then `node.toml` gets the new one. The file goes when the node has been let in.
//! So a directory is at every moment either whole and the old node's, or empty and a new one's.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ironring_core::io::FileName;
use serde::{Deserialize, Serialize};

use super::data_dir::{DataDirError, Identity, draw_storage, io, write_identity, write_whole};
use crate::cluster::identity as cluster;
use crate::raft::snapshot::is_ours;

/// The file's name in the data directory.
pub const FILE: &str = "rejoin.toml";
/// Version of the file.
const FORMAT: u32 = 1;

/// What an emptied directory says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejoin {
    format: u32,
    /// The storage the directory is from now on.
    pub storage_uuid: String,
    /// Where members of the cluster listen for nodes.
    pub seeds: Vec<String>,
    /// Where the metadata group's files are when they are not in the directory.
    meta_dir: Option<PathBuf>,
}

/// What the directory at `path` says; `None` when it was not emptied, or has joined since.
///
/// # Errors
/// When it cannot be read.
pub fn load(path: &Path) -> Result<Option<Rejoin>, DataDirError> {
    let file = path.join(FILE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("cannot read", &file)(error)),
    };
    let bad = |message: String| DataDirError::BadIdentity { path: file.clone(), message };
    let rejoin: Rejoin = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if rejoin.format != FORMAT {
        let (has, knows) = (rejoin.format, FORMAT);
        return Err(bad(format!("it has version {has}, this program knows {knows}")));
    }
    Ok(Some(rejoin))
}

/// Empties a directory that is locked. What cannot be undone begins when `rejoin.toml` is there.
///
/// # Errors
/// When the system refuses; what was begun goes on when the directory is opened.
pub fn empty(
    path: &Path,
    identity: &Identity,
    seeds: Vec<String>,
    meta_dir: Option<PathBuf>,
) -> Result<Identity, DataDirError> {
    let rejoin = Rejoin { format: FORMAT, storage_uuid: draw_storage(), seeds, meta_dir };
    let text = toml::to_string(&rejoin).expect("plain fields always serialise");
    write_whole(path, FILE, &format!("# Written by ironring. Do not edit.\n{text}"))?;
    go_on(path, &rejoin, identity.clone())
}

/// Deletes what is left of the old storage, and gives the directory the new one.
///
/// # Errors
/// When the system refuses.
pub fn go_on(path: &Path, rejoin: &Rejoin, old: Identity) -> Result<Identity, DataDirError> {
    if old.storage_uuid == rejoin.storage_uuid {
        return Ok(old);
    }
    let mut gone = vec![path.join("meta"), path.join(cluster::FILE), path.join("run")];
    gone.extend((0..old.shards).flat_map(|shard| super::data_dir::shard_places(path, shard)));
    // It may be a file system of its own, with what belongs to that, or have files of others.
    if let Some(dir) = &rejoin.meta_dir {
        gone.extend(metadata_files(dir).map_err(io("cannot read", dir))?);
    }
    for file in gone {
        delete(&file).map_err(io("cannot delete", &file))?;
    }
    let identity = Identity { storage_uuid: rejoin.storage_uuid.clone(), ..old };
    // Behind the deletions: it syncs the directory.
    write_identity(path, &identity)?;
    Ok(identity)
}

/// The metadata group's files in a directory.
fn metadata_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| FileName::parse(name).is_some() || is_ours(name)) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn delete(file: &Path) -> std::io::Result<()> {
    let what = match fs::symlink_metadata(file) {
        Ok(what) => what,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match what.is_dir() {
        true => fs::remove_dir_all(file),
        false => fs::remove_file(file),
    }
}

/// The node is a member: nothing has to be known of its past.
///
/// # Errors
/// When the system refuses.
pub fn done(path: &Path) -> Result<(), DataDirError> {
    let file = path.join(FILE);
    delete(&file).map_err(io("cannot delete", &file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::data_dir::{DataDir, Wanted};

    fn open(path: &Path) -> DataDir {
        let wanted = Wanted {
            cluster: "other",
            node: "other",
            partitions: 8,
            shards: None,
            shards_default: 2,
            segment_bytes: 1 << 20,
            explicit: Vec::new(),
        };
        DataDir::open(path, &wanted).unwrap()
    }

    /// A directory of a member with data, and its metadata elsewhere.
    fn used() -> (tempfile::TempDir, PathBuf, Identity) {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("data");
        let wanted = Wanted {
            cluster: "c",
            node: "n",
            partitions: 8,
            shards: Some(2),
            shards_default: 2,
            segment_bytes: 1 << 20,
            explicit: Vec::new(),
        };
        let dir = DataDir::open(&path, &wanted).unwrap();
        fs::create_dir(path.join("shard-001.damaged")).unwrap();
        let made = ["shard-000.made", "shard-001.damaged/superblock"];
        let files = ["shard-000/superblock", "shard-001/superblock", "meta/vote", cluster::FILE];
        for file in files.into_iter().chain(made) {
            fs::write(path.join(file), b"x").unwrap();
        }
        fs::create_dir(tmp.path().join("elsewhere")).unwrap();
        for file in ["superblock", "segment-00000001.log", "snapshot.tmp", "notes.txt"] {
            fs::write(tmp.path().join("elsewhere").join(file), b"x").unwrap();
        }
        fs::create_dir(tmp.path().join("elsewhere/lost+found")).unwrap();
        fs::write(path.join("diskprobe.json"), b"{}").unwrap();
        let identity = dir.identity.clone();
        (tmp, path, identity)
    }

    #[test]
    fn an_emptied_directory_keeps_its_name_and_is_another_storage() {
        let (tmp, path, old) = used();
        let elsewhere = tmp.path().join("elsewhere");
        let seeds = vec!["a:1".to_owned()];
        let new = empty(&path, &old, seeds.clone(), Some(elsewhere.clone())).unwrap();
        assert_eq!(Identity { storage_uuid: old.storage_uuid.clone(), ..new.clone() }, old);
        assert_ne!(new.storage_uuid, old.storage_uuid);
        let left = fs::read_dir(&elsewhere).unwrap().map(|e| e.unwrap().file_name());
        let left: std::collections::BTreeSet<_> = left.collect();
        assert!(left.iter().eq(["lost+found", "notes.txt"]), "{left:?}");
        assert!(path.join("diskprobe.json").exists());
        let dir = open(&path);
        assert!(dir.is_empty() && !path.join(cluster::FILE).exists());
        let left = ["shard-000.made", "shard-001.damaged"].map(|name| path.join(name).exists());
        assert_eq!(left, [false; 2], "a log may be made there, and none is to be filled");
        assert_eq!(dir.identity, new, "not what an empty directory would be");
        assert_eq!(load(&path).unwrap().unwrap().seeds, seeds);
        done(&path).unwrap();
        done(&path).unwrap();
        assert_eq!(load(&path).unwrap(), None);
    }

    #[test]
    fn what_was_begun_is_finished_by_the_next_start() {
        let (_tmp, path, old) = used();
        let rejoin = Rejoin {
            format: FORMAT,
            storage_uuid: draw_storage(),
            seeds: Vec::new(),
            meta_dir: None,
        };
        fs::write(path.join(FILE), toml::to_string(&rejoin).unwrap()).unwrap();
        fs::remove_dir_all(path.join("shard-001")).unwrap();
        let dir = open(&path);
        assert!(dir.is_empty() && !path.join("meta/vote").exists());
        assert_eq!(dir.identity, Identity { storage_uuid: rejoin.storage_uuid, ..old });
        assert_eq!(dir.incarnation.0, 1, "it is another storage");
        drop(dir);
        fs::write(path.join(FILE), "format = 2").unwrap();
        assert!(load(&path).is_err());
    }
}
