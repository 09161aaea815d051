//! The data directory: whose it is, and that only one process uses it.
//!
//! ```text
//! DIR/lock          flock held while a node runs; its content is the process id
//! DIR/node.toml     identity, written once: format, storage uuid, cluster, node, partitions, shards
//! DIR/cluster.toml  which cluster and which of its nodes, written when it is founded or joined
//! DIR/rejoin.toml  there only from `ironring node reinit` until the node is a member again
//! DIR/run           how often a node was started here, which is the incarnation; below that the marks
//!                   that tell the directory from a copy (`mark`, `previous`: 16 hexadecimal digits)
//! DIR/probe         4 KiB of zeros, read first by every executor (see `glommio`)
//! DIR/shard-000/    files of shard 0: superblock, segments, checkpoints
//! DIR/meta/         files of the metadata group: the same, and snapshots
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ironring_core::{Incarnation, StorageUuid};
use ironring_ring::metadata::Lineage;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::rejoin::{self, Rejoin};
use crate::cluster::identity as cluster;

/// Version of the directory's layout.
const FORMAT: u32 = 1;

/// What a data directory says of itself; `node.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the layout.
    pub format: u32,
    /// 32 hexadecimal digits, drawn when the directory was made.
    pub storage_uuid: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// P.
    pub partitions: u32,
    /// N.
    pub shards: u16,
    /// Bytes of a segment file.
    pub segment_bytes: u64,
}

impl Identity {
    /// The uuid as a number.
    #[must_use]
    pub fn uuid(&self) -> StorageUuid {
        StorageUuid(u128::from_str_radix(&self.storage_uuid, 16).unwrap_or(0))
    }

    /// What is fixed when a directory is made must not differ later.
    pub(super) fn compare(&self, path: &Path, wanted: &Wanted<'_>) -> Result<(), DataDirError> {
        let mismatch = |why: String| Err(DataDirError::Mismatch { path: path.to_owned(), why });
        if self.format != FORMAT {
            return mismatch(format!(
                "has layout version {}, this program knows {FORMAT}: use the ironring that made it",
                self.format
            ));
        }
        let explicit = |key: &str| wanted.explicit.contains(&key);
        if explicit("cluster") && self.cluster != wanted.cluster {
            return mismatch(format!(
                "belongs to cluster `{}`, not `{}`: correct cluster.name or the directory",
                self.cluster, wanted.cluster
            ));
        }
        if explicit("node") && self.node != wanted.node {
            return mismatch(format!(
                "belongs to node `{}`, not `{}`: correct node.name or the directory",
                self.node, wanted.node
            ));
        }
        if explicit("partitions") && self.partitions != wanted.partitions {
            return mismatch(format!(
                "was made with {} partitions, not {}: leave cluster.partitions out",
                self.partitions, wanted.partitions
            ));
        }
        if explicit("segment_bytes") && self.segment_bytes != wanted.segment_bytes {
            return mismatch(format!(
                "was made with segments of {} bytes, not {}: leave log.segment_bytes out",
                self.segment_bytes, wanted.segment_bytes
            ));
        }
        if let Some(shards) = wanted.shards
            && shards != self.shards
        {
            return mismatch(format!(
                "was made with {n} shards, not {shards}: start it with --shards {n}",
                n = self.shards
            ));
        }
        Ok(())
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The system refuses.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("data directory {} is in use by process {pid}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the lock file says.
        pid: String,
    },
    /// `node.toml` does not parse.
    #[error("{} does not parse: {message}", path.display())]
    BadIdentity {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The directory has shard files but no identity.
    #[error(
        "data directory {} has shard files but no node.toml: restore it from a backup of the directory",
        .0.display()
    )]
    NoIdentity(PathBuf),
    /// The directory was made with other settings, which are fixed.
    #[error("data directory {} {why}", path.display())]
    Mismatch {
        /// The directory.
        path: PathBuf,
        /// What differs, and what to run instead.
        why: String,
    },
}

/// A locked data directory.
pub struct DataDir {
    path: PathBuf,
    /// What it says of itself.
    pub identity: Identity,
    /// True when this start made it.
    pub fresh: bool,
    /// This run of a node here: higher than any before.
    pub incarnation: Incarnation,
    /// What tells the directory from a copy of it.
    pub lineage: Lineage,
    _lock: Flock<File>,
}

/// What a directory holds before anything in it is made or changed.
#[derive(Debug)]
pub(super) struct Held {
    /// Whose it was made.
    pub identity: Option<Identity>,
    /// It was emptied to join its cluster again.
    pub rejoin: Option<Rejoin>,
    /// It belongs to that node. One that never got into a cluster may be started with other settings.
    pub bound: bool,
}

impl Held {
    /// Reads it.
    pub fn read(path: &Path) -> Result<Held, DataDirError> {
        let file = path.join("node.toml");
        let identity = match fs::read_to_string(&file) {
            Ok(text) => Some(read_identity(&file, &text)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(io("cannot read", &file)(e)),
        };
        let unused = is_first_start(path);
        if identity.is_none() && path.join("shard-000").exists() && !unused {
            return Err(DataDirError::NoIdentity(path.to_owned()));
        }
        let rejoin = if identity.is_some() { rejoin::load(path)? } else { None };
        let bound = rejoin.is_some() || !unused || path.join(cluster::FILE).exists();
        Ok(Held { bound: identity.is_some() && bound, identity, rejoin })
    }

    /// What it holds is of a storage that was given up: the next start deletes it.
    pub fn goes(&self) -> bool {
        let (Some(identity), Some(rejoin)) = (&self.identity, &self.rejoin) else { return false };
        identity.storage_uuid != rejoin.storage_uuid
    }
}

/// What a start wants of a data directory.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Name of the node.
    pub node: &'a str,
    /// P.
    pub partitions: u32,
    /// N, when the operator named it; else what the directory has, or one per CPU.
    pub shards: Option<u16>,
    /// N for a new directory.
    pub shards_default: u16,
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// What the operator set himself: `node`, `cluster`, `partitions`, `segment_bytes`.
    pub explicit: Vec<&'static str>,
}

impl DataDir {
    /// Locks `path` and reads its identity, or makes it.
    ///
    /// # Errors
    /// When it is another process's, another node's, or cannot be written.
    pub fn open(path: &Path, wanted: &Wanted<'_>) -> Result<DataDir, DataDirError> {
        make_dirs(path).map_err(io("cannot make the data directory", path))?;
        // glommio opens directories relative to no directory at all: EBADF for a relative path.
        let path = &fs::canonicalize(path).map_err(io("cannot find", path))?;
        let lock = lock(path)?;
        let Held { identity, rejoin, bound } = Held::read(path)?;
        let (identity, fresh) = match (identity, rejoin) {
            (Some(identity), Some(rejoin)) => (rejoin::go_on(path, &rejoin, identity)?, false),
            (Some(identity), None) if bound => (identity, false),
            (identity, _) => {
                let mut drawn = draw_identity(wanted);
                if let Some(made) = identity {
                    drawn.storage_uuid = made.storage_uuid;
                }
                write_identity(path, &drawn)?;
                (drawn, true)
            }
        };
        identity.compare(path, wanted)?;
        let mut dir = DataDir {
            path: path.to_owned(),
            identity,
            fresh,
            incarnation: Incarnation(0),
            lineage: Lineage::default(),
            _lock: lock,
        };
        dir.make_probe()?;
        for shard in 0..dir.identity.shards {
            let sub = dir.shard_dir(shard);
            fs::create_dir_all(&sub).map_err(io("cannot make", &sub))?;
        }
        let meta = dir.meta_dir();
        fs::create_dir_all(&meta).map_err(io("cannot make", &meta))?;
        (dir.incarnation, dir.lineage) = next_run(path)?;
        Ok(dir)
    }

    /// Where it is; an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the metadata group.
    #[must_use]
    pub fn meta_dir(&self) -> PathBuf {
        self.path.join("meta")
    }

    /// Whether its shards have written nothing yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        is_first_start(&self.path)
    }

    /// Takes over how many partitions the cluster has, which a directory that has nothing in it may
    /// still change.
    ///
    /// # Errors
    /// When it cannot be written, or holds data of another number of partitions.
    pub fn adopt_partitions(&mut self, partitions: u32) -> Result<(), DataDirError> {
        if self.identity.partitions == partitions {
            return Ok(());
        }
        if !self.is_empty() {
            return Err(DataDirError::Mismatch {
                path: self.path.clone(),
                why: format!(
                    "was made with {} partitions, and the cluster has {partitions}: start the node \
                     with an empty directory",
                    self.identity.partitions
                ),
            });
        }
        let identity = Identity { partitions, ..self.identity.clone() };
        write_identity(&self.path, &identity)?;
        self.identity = identity;
        Ok(())
    }

    /// The directory of one shard.
    #[must_use]
    pub fn shard_dir(&self, shard: u16) -> PathBuf {
        shard_dir(&self.path, shard)
    }

    /// Whether a shard's log was made once: from then on it is not made again for being absent.
    #[must_use]
    pub fn shard_was_made(&self, shard: u16) -> bool {
        made_mark(&self.shard_dir(shard)).exists()
    }

    /// The probe file.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.path.join("probe")
    }

    /// See [`super::glommio`], which must read a file of at least 4 KiB before any other.
    fn make_probe(&self) -> Result<(), DataDirError> {
        let path = self.probe();
        if fs::metadata(&path).is_ok_and(|m| m.len() == 4096) {
            return Ok(());
        }
        fs::write(&path, [0; 4096]).map_err(io("cannot write", &path))
    }
}

/// Makes a directory and those above it that are missing, durably: the name of each is synced in the
/// one above. What a file system forgets at a crash takes with it all that is synced inside.
///
/// # Errors
/// When the system refuses.
pub(super) fn make_dirs(path: &Path) -> std::io::Result<()> {
    // Of `a`, the one above is where the process is.
    let above =
        path.parent().map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    match fs::create_dir(path) {
        Ok(()) => above.map_or(Ok(()), |dir| File::open(dir)?.sync_all()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let Some(above) = above else { return Err(e) };
            make_dirs(above)?;
            make_dirs(path)
        }
        Err(_) if path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// The directory of one shard of a data directory.
#[must_use]
pub fn shard_dir(data_dir: &Path, shard: u16) -> PathBuf {
    data_dir.join(format!("shard-{shard:03}"))
}

/// Locks a data directory there is, whatever is in it besides.
///
/// # Errors
/// When it cannot be, or says nothing of itself.
pub fn lock_known(path: &Path) -> Result<(Flock<File>, Identity), DataDirError> {
    let identity = identity_of(path)?;
    Ok((lock(path)?, identity))
}

/// Beside a shard's directory: its log was made.
fn made_mark(shard_dir: &Path) -> PathBuf {
    shard_dir.with_extension("made")
}

/// Everything a shard has in a data directory.
pub(super) fn shard_places(path: &Path, shard: u16) -> [PathBuf; 3] {
    let dir = shard_dir(path, shard);
    [aside(&dir), dir.clone(), made_mark(&dir)]
}

/// Notes that a shard's log was made, durably; nothing when that is noted.
///
/// # Errors
/// When the system refuses.
pub fn note_made(shard_dir: &Path) -> Result<(), DataDirError> {
    let mark = made_mark(shard_dir);
    if mark.exists() {
        return Ok(());
    }
    let (Some(dir), Some(name)) = (mark.parent(), mark.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    write_whole(
        dir,
        name,
        "A log was made here. Without it this file keeps it from being made anew.\n",
    )
}

/// Where the files of a shard's log go that was lost.
fn aside(shard_dir: &Path) -> PathBuf {
    shard_dir.with_extension("damaged")
}

/// Puts the files of a shard's log out of the way, for people to look at until a new log is whole; those
/// of a new one that was lost before it was are deleted. The directory is empty behind it, durably.
///
/// # Errors
/// When the system refuses.
pub fn set_aside(shard_dir: &Path) -> Result<(), DataDirError> {
    let aside = aside(shard_dir);
    // What is there already is of the log that was lost first, and the one since was never whole.
    if aside.exists() {
        fs::remove_dir_all(shard_dir).map_err(io("cannot remove", shard_dir))?;
    } else {
        fs::rename(shard_dir, &aside).map_err(io("cannot rename", shard_dir))?;
    }
    fs::create_dir(shard_dir).map_err(io("cannot make", shard_dir))?;
    let Some(dir) = shard_dir.parent() else { return Ok(()) };
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(io("cannot sync", dir))
}

/// Deletes what [`set_aside`] has put out of the way.
///
/// # Errors
/// When the system refuses.
pub fn drop_aside(shard_dir: &Path) -> Result<(), DataDirError> {
    let aside = aside(shard_dir);
    match fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("cannot remove", &aside)(e)),
        _ => Ok(()),
    }
}

/// What a data directory says of itself, without locking it: for `inspect`.
///
/// # Errors
/// When it cannot be read.
pub fn identity_of(data_dir: &Path) -> Result<Identity, DataDirError> {
    let file = data_dir.join("node.toml");
    let text = fs::read_to_string(&file).map_err(io("cannot read", &file))?;
    read_identity(&file, &text)
}

pub(super) fn io<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> DataDirError + 'a {
    move |source| DataDirError::Io { what, path: path.to_owned(), source }
}

/// True when no shard directory holds anything: a first start that was cut short.
pub(super) fn is_first_start(path: &Path) -> bool {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return error.kind() == std::io::ErrorKind::NotFound,
    };
    entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("shard-"))
        .all(|e| fs::read_dir(e.path()).is_ok_and(|mut inside| inside.next().is_none()))
}

fn lock(path: &Path) -> Result<Flock<File>, DataDirError> {
    let file = path.join("lock");
    let mut options = OpenOptions::new();
    let handle = options.read(true).write(true).create(true).truncate(false).open(&file);
    let mut handle = handle.map_err(io("cannot open", &file))?;
    let mut pid = String::new();
    handle.read_to_string(&mut pid).map_err(io("cannot read", &file))?;
    let mut lock = Flock::lock(handle, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            let pid = if pid.trim().is_empty() { "?".to_owned() } else { pid.trim().to_owned() };
            DataDirError::InUse { path: path.to_owned(), pid }
        } else {
            io("cannot lock", &file)(errno.into())
        }
    })?;
    lock.set_len(0).map_err(io("cannot write", &file))?;
    write!(lock, "{}", std::process::id()).map_err(io("cannot write", &file))?;
    Ok(lock)
}

fn read_identity(file: &Path, text: &str) -> Result<Identity, DataDirError> {
    let bad = |message: String| DataDirError::BadIdentity { path: file.to_owned(), message };
    let identity: Identity = toml::from_str(text).map_err(|e| bad(e.to_string()))?;
    let uuid = &identity.storage_uuid;
    if uuid.len() != 32 || !uuid.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad(format!("storage_uuid `{uuid}` is not 32 hexadecimal digits")));
    }
    Ok(identity)
}

/// A storage uuid that nobody else has, as it is written.
pub(super) fn draw_storage() -> String {
    format!("{:032x}", cluster::draw_uuid().0)
}

pub(super) fn draw_identity(wanted: &Wanted<'_>) -> Identity {
    Identity {
        format: FORMAT,
        storage_uuid: draw_storage(),
        cluster: wanted.cluster.to_owned(),
        node: wanted.node.to_owned(),
        partitions: wanted.partitions,
        shards: wanted.shards.unwrap_or(wanted.shards_default),
        segment_bytes: wanted.segment_bytes,
    }
}

pub(super) fn write_identity(path: &Path, identity: &Identity) -> Result<(), DataDirError> {
    let text = toml::to_string(identity).expect("plain fields always serialise");
    write_whole(path, "node.toml", &format!("# Made once by ironring. Do not edit.\n{text}"))
}

/// Writes a file of the directory, whole or not at all: written beside, synced, renamed, directory
/// synced.
///
/// # Errors
/// When the system refuses.
pub fn write_whole(dir: &Path, name: &str, text: &str) -> Result<(), DataDirError> {
    let (file, beside) = (dir.join(name), dir.join(format!("{name}.new")));
    let write = || -> std::io::Result<()> {
        let mut out = File::create(&beside)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&beside, &file)?;
        let dir = File::open(dir)?;
        nix::unistd::fsync(&dir).map_err(std::io::Error::from)?;
        Ok(())
    };
    write().map_err(io("cannot write", &file))
}

/// Counts this run, durably, and draws a mark when the last is known to be in the metadata.
fn next_run(path: &Path) -> Result<(Incarnation, Lineage), DataDirError> {
    let file = path.join("run");
    let (last, mut lineage) = match fs::read_to_string(&file) {
        Ok(text) => read_run(&text)
            .map_err(|message| DataDirError::BadIdentity { path: file.clone(), message })?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => (0, Lineage::default()),
        Err(e) => return Err(io("cannot read", &file)(e)),
    };
    if lineage.mark == lineage.previous {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
        // 0 is none.
        lineage.mark = u64::from_be_bytes(bytes).max(1);
    }
    let run = Incarnation(last + 1);
    write_run(path, run, lineage)?;
    Ok((run, lineage))
}

/// Notes that the metadata know the mark of this run: the next one draws another.
///
/// # Errors
/// When the system refuses.
pub fn settle_mark(path: &Path, run: Incarnation, mark: u64) -> Result<(), DataDirError> {
    write_run(path, run, Lineage { mark, previous: mark })
}

/// Takes back the count of a run that the cluster has refused as that of an old copy: started again
/// it is refused again, and at the door, however often that is.
///
/// # Errors
/// When the system refuses.
pub fn take_back_run(path: &Path, run: Incarnation, lineage: Lineage) -> Result<(), DataDirError> {
    write_run(path, Incarnation(run.0.saturating_sub(1)), lineage)
}

fn write_run(path: &Path, run: Incarnation, lineage: Lineage) -> Result<(), DataDirError> {
    let Lineage { mark, previous } = lineage;
    write_whole(path, "run", &format!("{}\nmark {mark:016x}\nprevious {previous:016x}\n", run.0))
}

/// The number of the last run and its marks; builds that knew no marks wrote the number alone.
fn read_run(text: &str) -> Result<(u64, Lineage), String> {
    let mut lines = text.lines();
    let number = lines.next().unwrap_or_default().trim();
    let run = number.parse().map_err(|_| format!("`{number}` is no number of a run"))?;
    let mut mark = |name: &str| match lines.next() {
        None => Ok(0),
        Some(line) => {
            let digits = line.strip_prefix(name).unwrap_or_default().trim();
            u64::from_str_radix(digits, 16).map_err(|_| format!("`{line}` is no {name} of a run"))
        }
    };
    Ok((run, Lineage { mark: mark("mark")?, previous: mark("previous")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(explicit: &[&'static str], shards: Option<u16>) -> Wanted<'static> {
        Wanted {
            cluster: "c",
            node: "n",
            partitions: 8,
            shards,
            shards_default: 2,
            segment_bytes: 1 << 20,
            explicit: explicit.to_vec(),
        }
    }

    #[test]
    fn directories_are_made_with_those_above_them() {
        let tmp = tempfile::tempdir().unwrap();
        let deep = tmp.path().join("a/b/c");
        make_dirs(&deep).unwrap();
        assert!(deep.is_dir());
        make_dirs(&deep).expect("it is there already");
        make_dirs(&tmp.path().join("a/../d")).unwrap();
        fs::write(tmp.path().join("file"), "").unwrap();
        assert!(make_dirs(&tmp.path().join("file")).is_err());
        assert!(make_dirs(&tmp.path().join("file/e")).is_err());
        assert!(make_dirs(Path::new("")).is_err());
    }

    #[test]
    fn identity_is_drawn_once_and_differences_are_named() {
        let tmp = tempfile::tempdir().unwrap();
        let first = DataDir::open(tmp.path(), &wanted(&[], None)).unwrap();
        assert!(first.fresh && first.incarnation == Incarnation(1));
        let uuid = first.identity.uuid();
        let again = DataDir::open(tmp.path(), &wanted(&[], None)).map(|_| ()).unwrap_err();
        assert!(again.to_string().contains("in use by process"), "{again}");
        drop(first);
        // Nothing has been written here: what was wanted first binds nobody.
        drop(DataDir::open(tmp.path(), &wanted(&[], Some(3))).unwrap());
        drop(DataDir::open(tmp.path(), &wanted(&[], Some(2))).unwrap());
        fs::write(tmp.path().join(cluster::FILE), "x").unwrap();
        let second = DataDir::open(tmp.path(), &wanted(&[], Some(2))).unwrap();
        assert!(!second.fresh && second.incarnation > Incarnation(1));
        assert_eq!(second.identity.uuid(), uuid);
        drop(second);
        let other = Wanted { cluster: "d", ..wanted(&["cluster"], None) };
        let error = DataDir::open(tmp.path(), &other).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("belongs to cluster `c`, not `d`"), "{error}");
        let error = DataDir::open(tmp.path(), &wanted(&[], Some(3))).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("start it with --shards 2"), "{error}");
    }

    #[test]
    fn a_mark_is_kept_until_the_metadata_know_it() {
        let tmp = tempfile::tempdir().unwrap();
        let open = || DataDir::open(tmp.path(), &wanted(&[], None)).unwrap();
        let first = open();
        let mark = first.lineage.mark;
        assert!(mark != 0 && first.lineage.previous == 0);
        drop(first);
        let again = open();
        assert_eq!(
            (again.incarnation, again.lineage),
            (Incarnation(2), Lineage { mark, previous: 0 })
        );
        settle_mark(tmp.path(), again.incarnation, mark).unwrap();
        drop(again);
        let next = open();
        assert_eq!((next.incarnation, next.lineage.previous), (Incarnation(3), mark));
        assert_ne!(next.lineage.mark, mark);
        drop(next);
        let lineage = Lineage { mark: 5, previous: 4 };
        take_back_run(tmp.path(), Incarnation(3), lineage).unwrap();
        let refused = open();
        assert_eq!((refused.incarnation, refused.lineage), (Incarnation(3), lineage));
        drop(refused);
        // As builds that knew no marks wrote it.
        fs::write(tmp.path().join("run"), "7\n").unwrap();
        let old = open();
        assert_eq!((old.incarnation, old.lineage.previous), (Incarnation(8), 0));
        drop(old);
        fs::write(tmp.path().join("run"), "7\nmark x\n").unwrap();
        let error = DataDir::open(tmp.path(), &wanted(&[], None)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("`mark x` is no mark of a run"), "{error}");
    }

    #[test]
    fn shard_files_without_an_identity_are_not_adopted() {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("shard-000")).unwrap();
        drop(DataDir::open(tmp.path(), &wanted(&[], None)).unwrap());
        fs::remove_file(tmp.path().join("node.toml")).unwrap();
        fs::write(tmp.path().join("shard-000/superblock"), b"x").unwrap();
        let error = DataDir::open(tmp.path(), &wanted(&[], None)).map(|_| ()).unwrap_err();
        assert!(matches!(error, DataDirError::NoIdentity(_)), "{error}");
        fs::write(tmp.path().join("node.toml"), b"nonsense").unwrap();
        let error = DataDir::open(tmp.path(), &wanted(&[], None)).map(|_| ()).unwrap_err();
        assert!(matches!(error, DataDirError::BadIdentity { .. }), "{error}");
    }

    #[test]
    fn what_was_lost_first_is_kept_until_a_new_log_is_whole() {
        let tmp = tempfile::tempdir().unwrap();
        let shard = tmp.path().join("shard-000");
        fs::create_dir(&shard).unwrap();
        let files = |dir: &str| -> Vec<String> {
            let entries = fs::read_dir(tmp.path().join(dir)).into_iter().flatten();
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        };
        for log in ["first", "second"] {
            fs::write(shard.join(log), b"x").unwrap();
            set_aside(&shard).unwrap();
            assert_eq!(
                (files("shard-000"), files("shard-000.damaged")),
                (vec![], vec!["first".to_owned()])
            );
        }
        drop_aside(&shard).unwrap();
        fs::write(shard.join("third"), b"x").unwrap();
        set_aside(&shard).unwrap();
        assert_eq!(files("shard-000.damaged"), ["third"]);
    }
}
