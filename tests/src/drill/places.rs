//! Nodes in bad places: a process that stood still, a log with a torn end, a disk that is full.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ironring_core::ErrorCode;
use ironring_net::client::ClientConfig;
use ironring_net::client::ClientError;
use ironring_net::client::blocking::Client;

use super::probe::{Door, Said, keys, tally};
use super::stage::{Cluster, PATIENCE, PLAIN, Stage};
use crate::chaos::nodes::{ChaosError, Member, system};

/// Longer than every lease, election and change of voters.
const LONG: Duration = Duration::from_secs(6);
/// After so long counters are what they were.
const COUNTED: Duration = Duration::from_secs(2);
/// So many refusals show that a disk is full.
const REFUSED_MAX: u32 = 16;
/// Blocks in which groups are written.
const BLOCK_BYTES: usize = 4096;
/// Size of the file system that is filled.
const DISK_BYTES: u64 = 512 << 20;
/// Bytes of each value that fills a disk.
const VALUE_BYTES: usize = 128 << 10;
/// The limit of a node's disk where no file system can be made: the least a node takes.
const LIMIT: &str = "log.disk_bytes_max=64MiB";
/// Enough to fill either.
const VALUES_MAX: u32 = 640;

/// See [`super::DRILLS`].
pub fn bad_places(stage: &mut Stage) -> Result<(), ChaosError> {
    stood_still(stage)?;
    torn_end(stage)?;
    full_disk(stage)
}

/// A node that stood still for longer than its leases answers nothing by them when it goes on.
fn stood_still(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[PLAIN; 3], 0)?;
    cluster.load()?;
    let still = cluster.leader()?;
    let name = cluster.nodes.name(still).to_owned();
    let others: Vec<usize> = (0..3).filter(|index| *index != still).collect();
    let old = cluster.serves(stage, "write to every partition", &[0, 1, 2])?;
    let address = cluster.nodes.addresses()[still].clone();
    let doors: Result<Vec<Door>, String> = keys().iter().map(|_| Door::open(&address)).collect();
    let doors = doors.map_err(ChaosError::Cluster)?;
    cluster.nodes.freeze(still)?;
    cluster.wait(LONG)?;
    let new = cluster.serves(stage, &format!("SIGSTOP {name}"), &others)?;
    // Sent while it stands still, read by it when it goes on, and answered before it hears anything.
    let asked: Vec<_> = doors
        .into_iter()
        .zip(keys())
        .map(|(mut door, key)| std::thread::spawn(move || door.get(&key, LONG)))
        .collect();
    cluster.wait(Duration::from_millis(500))?;
    cluster.nodes.thaw(still)?;
    let answers: Vec<Said> =
        asked.into_iter().filter_map(|thread| thread.join().ok().and_then(Result::ok)).collect();
    let stale =
        answers.iter().filter(|said| matches!(said, Said::Value(value, ..) if *value == old));
    let fresh =
        answers.iter().filter(|said| matches!(said, Said::Value(value, ..) if *value == new));
    let (stale, fresh) = (stale.count(), fresh.count());
    let seen = format!(
        "{} answers: {}; of the values {stale} are old and {fresh} new",
        answers.len(),
        tally(answers.iter())
    );
    stage.check(format!("SIGCONT {name}, which was asked meanwhile"), seen, stale == 0);
    cluster.finish(stage).map(drop)
}

/// The last group of a log is cut in its middle, as a machine does that loses power.
fn torn_end(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[PLAIN; 3], 0)?;
    cluster.load()?;
    for victim in 0..3 {
        let name = cluster.nodes.name(victim).to_owned();
        cluster.nodes.kill_now(victim)?;
        let dir = cluster.nodes.data_dir(victim).join("shard-000");
        let torn = tear(&dir).map_err(system(format!("tearing the log in {}", dir.display())))?;
        cluster.nodes.restart(victim)?;
        cluster.nodes.until_serving(victim)?;
        let took = cluster.nodes.until_healthy()?;
        cluster.acks_go_on()?;
        // Counters are published once a second.
        cluster.wait(COUNTED)?;
        let [records, damages, logs] = [
            "ironring_recovery_records",
            "ironring_recovery_damages",
            "ironring_repair_logs_total",
        ]
        .map(|metric| cluster.nodes.metric(victim, metric));
        let seen = format!(
            "{torn}; healthy {:.1} s later: {} records replayed, {} damaged places, {} logs rebuilt",
            took.as_secs_f64(),
            records?,
            damages?,
            logs?
        );
        stage.saw(format!("kill {name}, tear the end of its log, start it"), seen);
    }
    cluster.finish(stage).map(drop)
}

/// Keeps the first half of the last block of the segment that was written last; says where that is.
fn tear(dir: &Path) -> std::io::Result<String> {
    let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let is_segment = entry.file_name().to_string_lossy().starts_with("segment-");
        let modified = entry.metadata()?.modified()?;
        if is_segment && newest.as_ref().is_none_or(|(when, _)| *when < modified) {
            newest = Some((modified, entry.path()));
        }
    }
    let (_, file) = newest.ok_or_else(|| std::io::Error::other("there is no segment"))?;
    let mut segment = File::options().read(true).write(true).open(&file)?;
    let mut bytes = Vec::new();
    segment.read_to_end(&mut bytes)?;
    let last = bytes.chunks(BLOCK_BYTES).rposition(|block| block.iter().any(|byte| *byte != 0));
    let at = last.ok_or_else(|| std::io::Error::other("the segment is empty"))? * BLOCK_BYTES;
    let block = &bytes[at..(at + BLOCK_BYTES).min(bytes.len())];
    let used = block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let keep = used / 2;
    segment.seek(SeekFrom::Start((at + keep) as u64))?;
    segment.write_all(&vec![0; used - keep])?;
    segment.sync_all()?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(format!("{name}: {keep} of {used} bytes of the block at {at} left"))
}

/// A file system of its own in a file, gone when dropped.
struct Disk {
    at: PathBuf,
    image: PathBuf,
}

impl Disk {
    /// Makes and mounts one.
    ///
    /// # Errors
    /// What the system says against it.
    fn mount(at: &Path, image: PathBuf) -> Result<Disk, String> {
        let text = |error: std::io::Error| error.to_string();
        std::fs::create_dir_all(at).map_err(text)?;
        let file = File::create(&image).map_err(text)?;
        file.set_len(DISK_BYTES).map_err(text)?;
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            let output = output.map_err(|error| format!("{program}: {error}"))?;
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
        };
        let (image_path, at_path) = (image.to_string_lossy(), at.to_string_lossy());
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image_path])?;
        run("mount", &["-o", "loop", &image_path, &at_path])?;
        Ok(Disk { at: at.to_owned(), image })
    }

    /// Fills what is left of it.
    fn fill(&self) -> std::io::Result<u64> {
        let mut ballast = File::create(self.at.join("ballast"))?;
        let block = vec![0xA5; 64 << 10];
        let mut written = 0;
        loop {
            match ballast.write(&block) {
                Ok(bytes) => written += bytes as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
        let _ = ballast.sync_all();
        Ok(written)
    }

    fn free(&self) -> std::io::Result<()> {
        std::fs::remove_file(self.at.join("ballast"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The process that used it is gone; its rings may take a moment.
        for _ in 0..100 {
            let unmounted = Command::new("umount").arg(&self.at).output();
            if unmounted.is_ok_and(|output| output.status.success()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = std::fs::remove_file(&self.image);
    }
}

/// One of three disks is full: what is acknowledged is kept, what cannot be is refused, the others lead
/// what its node led and take writes, and it leads again when there is room.
fn full_disk(stage: &mut Stage) -> Result<(), ChaosError> {
    let image = stage.folder("disk")?.join("image");
    // Outside of the cluster, which has to be gone before it is unmounted.
    let mut disk = None;
    let mut cluster = stage.cluster(&[PLAIN; 2], 1)?;
    match Disk::mount(&cluster.nodes.next_folder(), image) {
        Ok(mounted) => {
            stage.saw("make a file system of its own", format!("{} MiB", DISK_BYTES >> 20));
            disk = Some(mounted);
        }
        Err(why) => {
            let seen = format!("SKIPPED: {why}; the node's own limit instead ({LIMIT})");
            stage.saw("make a file system of its own", seen);
        }
    }
    let full = match disk {
        Some(_) => cluster.nodes.add(&[])?,
        None => cluster.nodes.add(&["--set", LIMIT])?,
    };
    cluster.nodes.until_healthy()?;
    cluster.load()?;
    if let Some(disk) = &disk {
        let bytes = disk.fill().map_err(system("filling the file system"))?;
        stage.saw("fill the file system of n3", format!("{} MiB of ballast", bytes >> 20));
    }
    let filled = write_much(&cluster.nodes.addresses())?;
    let answers = cluster.nodes.metric(full, "ironring_log_waiting_bytes").is_ok();
    let runs = if answers { "n3 runs on" } else { "n3 does not answer" };
    let seen = format!("{}; {runs}", filled.seen);
    let ok = filled.typed && filled.acked > 0;
    stage.check("write values of 128 KiB beyond its room", seen, ok);
    let lost = filled.lost(&cluster.nodes.addresses())?;
    let seen = format!("acked {} lost {lost}", filled.acked);
    stage.check("read them while it is full", seen, lost == 0);
    let name = cluster.nodes.name(full).to_owned();
    leads(&mut cluster, stage, &name, "n3 says that it is short of space", |n3| {
        n3.short_of_space && n3.leads == 0
    })?;
    cluster.serves(stage, "write to every partition while it is full", &[0, 1, 2])?;
    match &disk {
        Some(disk) => disk.free().map_err(system("freeing the file system"))?,
        None => {
            cluster.nodes.set_flags(full, &[]);
            cluster.nodes.terminate(full)?;
            cluster.nodes.await_end(full)?;
        }
    }
    cluster.heal(stage, "give n3 room again")?;
    leads(&mut cluster, stage, &name, "n3 has room", |n3| !n3.short_of_space && n3.leads > 0)?;
    cluster.serves(stage, "write to every partition", &[0, 1, 2])?;
    let lost = filled.lost(&cluster.nodes.addresses())?;
    let seen = format!("acked {} lost {lost}", filled.acked);
    stage.check("read them once more", seen, lost == 0);
    cluster.finish(stage)?;
    drop(disk);
    Ok(())
}

/// Waits until a node is as wanted, as the first node sees it, and notes how long that took.
fn leads(
    cluster: &mut Cluster,
    stage: &mut Stage,
    name: &str,
    done: &str,
    wanted: impl Fn(&Member) -> bool,
) -> Result<(), ChaosError> {
    let begin = Instant::now();
    let leads = cluster.until(done, |nodes| {
        let members = nodes.status(0).ok()?.members;
        members.iter().find(|m| m.name == name).filter(|m| wanted(m)).map(|m| m.leads)
    })?;
    let took = begin.elapsed().as_secs_f64();
    stage.saw(done, format!("{name} leads {leads} partitions {took:.1} s later"));
    Ok(())
}

/// What came of filling a disk.
struct Filled {
    acked: u32,
    /// Numbers that were acknowledged.
    kept: Vec<u32>,
    /// All refusals were of a kind that says what to do.
    typed: bool,
    seen: String,
}

fn value(number: u32) -> Vec<u8> {
    format!("{number:08} ").into_bytes().into_iter().cycle().take(VALUE_BYTES).collect()
}

fn client(addresses: &[String], deadline: Duration) -> Result<Client, ChaosError> {
    let config = ClientConfig { addrs: addresses.to_vec(), deadline, ..ClientConfig::new("") };
    Client::connect(config).map_err(|error| ChaosError::Cluster(error.to_string()))
}

fn write_much(addresses: &[String]) -> Result<Filled, ChaosError> {
    let begin = Instant::now();
    let mut client = client(addresses, Duration::from_secs(3))?;
    let mut kept = Vec::new();
    let (mut refused, mut unknown, mut other) = (0u32, 0u32, Vec::new());
    for number in 0..VALUES_MAX {
        if begin.elapsed() > PATIENCE || refused >= REFUSED_MAX {
            break;
        }
        match client.put(format!("much-{number}").as_bytes(), &value(number)) {
            Ok(_) => kept.push(number),
            Err(ClientError::Server {
                code: ErrorCode::NoSpace | ErrorCode::TooFewReplicas | ErrorCode::Overloaded,
                ..
            }) => refused += 1,
            Err(ClientError::Unknown { .. } | ClientError::Timeout) => unknown += 1,
            Err(error) => other.push(error.to_string()),
        }
    }
    let seen = format!(
        "{} acked, {refused} refused for want of space, {unknown} without an answer in time, others: \
         {other:?}",
        kept.len()
    );
    Ok(Filled { acked: kept.len() as u32, kept, typed: other.is_empty(), seen })
}

impl Filled {
    /// How many of those that were acknowledged are not there.
    fn lost(&self, addresses: &[String]) -> Result<usize, ChaosError> {
        let mut client = client(addresses, PATIENCE)?;
        let mut lost = 0;
        for number in &self.kept {
            let found = client.get(format!("much-{number}").as_bytes());
            let found =
                found.map_err(|error| ChaosError::Cluster(format!("much-{number}: {error}")))?;
            lost += usize::from(found.is_none_or(|found| found.value != value(*number)));
        }
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_torn_is_half_of_the_last_block_that_was_written() {
        let tmp = tempfile::tempdir().unwrap();
        let mut bytes = vec![7; BLOCK_BYTES + 100];
        bytes.resize(4 * BLOCK_BYTES, 0);
        std::fs::write(tmp.path().join("segment-00000001.log"), &bytes).unwrap();
        std::fs::write(tmp.path().join("superblock"), b"later").unwrap();
        tear(tmp.path()).unwrap();
        let torn = std::fs::read(tmp.path().join("segment-00000001.log")).unwrap();
        bytes[BLOCK_BYTES + 50..BLOCK_BYTES + 100].fill(0);
        assert!(torn == bytes);
    }
}
