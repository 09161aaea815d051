//! Nodes that must not be let in. What they say is compared with the table of `docs/cluster.md`, where
//! people look it up.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ironring_core::WallTime;
use ironring_net::peer::Hello;
use ironring_net::peer::hello::ClusterUuid;

use super::forge::{Change, Forge};
use super::links::Terms;
use super::stage::{Cluster, PLAIN, Stage};
use crate::chaos::nodes::{CLUSTER, ChaosError, Ended, system};

/// Where the texts are kept.
const DOC: &str = include_str!("../../../docs/cluster.md");
/// Stands for what differs from case to case.
const ANYTHING: char = '…';
/// A clock that is off by ten minutes.
const TEN_MINUTES_MS: u64 = 600_000;

/// A row of the table: what the node says, and what it says can be done.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    says: String,
    hint: String,
}

/// The row that begins with `why`.
fn row(doc: &str, why: &str) -> Option<Row> {
    let mut rows = doc.lines().filter_map(|line| {
        let line = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
        match cells[..] {
            [label, says, hint] if label == why => {
                Some(Row { says: says.to_owned(), hint: hint.to_owned() })
            }
            _ => None,
        }
    });
    rows.next()
}

/// Whether `text` has the parts of `pattern` one behind the other.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text;
    pattern.split(ANYTHING).all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

impl Row {
    /// Whether a node that ended has said this, to people, and ended with a status of failure: 78, or
    /// 1 where the refusal may pass.
    fn is_said_by(&self, ended: &Ended) -> bool {
        let mut lines = ended.said.lines();
        let says = lines
            .any(|line| line.strip_prefix("error: ").is_some_and(|line| matches(&self.says, line)));
        let hint = lines.next().and_then(|line| line.trim().strip_prefix("hint: "));
        let refused = matches!(ended.status, Some(1 | 78));
        says && hint == Some(&self.hint) && refused && ended.in_time
    }
}

/// The drill, while it is made.
struct Doors<'a> {
    stage: &'a mut Stage,
    cluster: Cluster,
    folder: PathBuf,
    attempts: u32,
    /// The leader of the metadata group, which knows every token.
    seed: String,
}

/// See [`super::DRILLS`].
pub fn refusals(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[PLAIN; 3], 1)?;
    cluster.load()?;
    let used = cluster.nodes.new_token(&["--single-use"])?;
    cluster.nodes.add(&["--token", &used])?;
    cluster.nodes.until_healthy()?;
    cluster.until("replicas and leaderships are at rest", |nodes| {
        let status = nodes.status(0).ok()?;
        let even = status.members.iter().all(|member| member.replicas >= 10 && member.leads >= 3);
        (even && status.partitions.moves == 0).then_some(())
    })?;
    stage.saw("a fourth node joins with a token for one node", "it is let in");
    let leader = cluster.leader()?;
    let seed = cluster.nodes.peers(leader);
    let folder = stage.folder("attempts")?;
    let before = (Terms::of(&mut cluster, &[0, 1, 2, 3])?, cluster.heard());
    let mut doors = Doors { stage, cluster, folder, attempts: 0, seed };
    doors.at_the_door(&used)?;
    let Doors { stage, cluster, .. } = &mut doors;
    let after = (Terms::of(cluster, &[0, 1, 2, 3])?, cluster.heard());
    let (seen, ok) = before.0.compared_with(&after.0);
    let bad = after.1.failed + after.1.unknown - before.1.failed - before.1.unknown;
    let seen = format!("{seen}; {bad} requests failed, {} acked", after.1.acked - before.1.acked);
    stage.check("see whether anybody was disturbed", seen, ok && bad == 0);
    doors.of_its_members()?;
    doors.cluster.finish(doors.stage).map(drop)
}

impl Doors<'_> {
    /// Strangers, and what they show.
    fn at_the_door(&mut self, used: &str) -> Result<(), ChaosError> {
        let token = self.cluster.nodes.new_token(&[])?;
        let with = |token: &str| vec!["--token".to_owned(), token.to_owned()];
        self.refused("another cluster", &["--cluster", "other", "--token", &token], None)?;
        self.refused("no token", &[], None)?;
        self.refused("wrong or revoked token", &["--token", "ir1-nonsense"], None)?;

        let revoked = self.cluster.nodes.new_token(&[])?;
        let listed = self.cluster.nodes.said(0, &["cluster", "token", "list"]);
        let listed = listed.map_err(ChaosError::Cluster)?;
        let newest = listed.as_array().into_iter().flatten();
        let newest = newest.max_by_key(|token| token["created_unix_ms"].as_u64());
        let id = newest.and_then(|token| token["id"].as_str()).unwrap_or_default().to_owned();
        let taken = self.cluster.nodes.said(0, &["cluster", "token", "revoke", &id]);
        taken.map_err(ChaosError::Cluster)?;
        self.refused("wrong or revoked token", &as_flags(&with(&revoked)), None)?;

        let expired = self.cluster.nodes.new_token(&["--valid", "1s"])?;
        self.cluster.wait(Duration::from_secs(2))?;
        self.refused("expired token", &as_flags(&with(&expired)), None)?;
        self.refused("token for one node, used", &as_flags(&with(used)), None)?;
        let taken = ["--node", "n2", "--token", &token];
        self.refused("the name is taken", &taken, None)?;

        let flags = with(&token);
        let flags = as_flags(&flags);
        self.refused("another cluster of that name", &flags, Some(of_another_cluster))?;
        self.refused("versions", &flags, Some(of_another_release))?;
        self.refused("clocks differ", &flags, Some(ten_minutes_late))
    }

    /// A new node that is not let in, through a forge perhaps.
    fn refused(
        &mut self,
        why: &str,
        flags: &[&str],
        change: Option<Change>,
    ) -> Result<(), ChaosError> {
        let target: SocketAddr = self
            .seed
            .parse()
            .map_err(|error| ChaosError::Cluster(format!("{}: {error}", self.seed)))?;
        let forge = change.map(|change| Forge::new(target, change)).transpose();
        let forge = forge.map_err(system("starting a forge"))?;
        let seed = forge.as_ref().map_or(self.seed.clone(), |forge| forge.address.to_string());
        let data = self.new_data_dir()?;
        let mut all = vec!["--seeds", &seed];
        for (flag, default) in [("--cluster", CLUSTER), ("--node", "stranger")] {
            if !flags.contains(&flag) {
                all.extend([flag, default]);
            }
        }
        all.extend(flags);
        self.attempt(why, &data, &all)
    }

    fn new_data_dir(&mut self) -> Result<PathBuf, ChaosError> {
        self.attempts += 1;
        let folder = self.folder.join(self.attempts.to_string());
        std::fs::create_dir_all(&folder).map_err(system(folder.display().to_string()))?;
        Ok(folder.join("data"))
    }

    /// Starts a node that has to end, and compares what it says with the row of the table.
    fn attempt(&mut self, why: &str, data: &Path, flags: &[&str]) -> Result<(), ChaosError> {
        let ended = self.cluster.nodes.attempt(data, flags)?;
        let row = row(DOC, why);
        let ok = row.as_ref().is_some_and(|row| row.is_said_by(&ended));
        let lines: Vec<&str> = ended.said.lines().collect();
        let from = lines.iter().position(|line| line.starts_with("error: "));
        let status = ended.status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        let mut seen = format!("exit status {status}");
        for line in &lines[from.unwrap_or(lines.len().saturating_sub(5))..] {
            seen = seen + "\n" + line;
        }
        if !ok {
            seen += &match row {
                Some(row) => format!("\nin docs/cluster.md: {}\n  hint: {}", row.says, row.hint),
                None => "\nnot in docs/cluster.md".to_owned(),
            };
        }
        self.stage.check(why, seen, ok);
        Ok(())
    }

    /// Directories of members: of another format, copied, with another's id, of one that has left.
    fn of_its_members(&mut self) -> Result<(), ChaosError> {
        let (fourth, nodes) = (3, &mut self.cluster.nodes);
        let dir = nodes.data_dir(fourth);
        self.cluster.until("the directory notes that its mark is known", |_| {
            let run = std::fs::read_to_string(dir.join("run")).ok()?;
            let mut marks = run.lines().skip(1).filter_map(|line| line.split(' ').nth(1));
            (marks.next() == marks.next()).then_some(())
        })?;
        self.cluster.nodes.kill_now(fourth)?;
        let [newer, copy, renamed] =
            [self.new_data_dir()?, self.new_data_dir()?, self.new_data_dir()?];
        for to in [&newer, &copy, &renamed] {
            copy_dir(&dir, to).map_err(system(format!("copying {}", dir.display())))?;
        }
        self.cluster.nodes.restart(fourth)?;
        self.cluster.nodes.until_healthy()?;
        self.cluster.until("its second run is known", |nodes| {
            let members = nodes.said(0, &["cluster", "members"]).ok()?;
            (members.as_array()?.get(fourth)?["incarnation"] == 2).then_some(())
        })?;
        self.stage
            .saw("copy the directory of n4 while it is stopped, and start it again", "healthy");
        edit(&newer, "format = 1", "format = 2")?;
        self.attempt("directory of another release", &newer, &[])?;
        self.attempt("two processes, one run", &copy, &[])?;
        edit(&renamed, "node = 4", "node = 2")?;
        self.attempt("two data directories, one id", &renamed, &[])?;

        self.cluster.nodes.until_healthy()?;
        self.cluster.nodes.let_end(fourth);
        let left = self.cluster.nodes.said(0, &["cluster", "leave", "n4"]);
        left.map_err(ChaosError::Cluster)?;
        let ended = self.cluster.nodes.await_end(fourth)?;
        self.cluster.nodes.forget(fourth);
        let ok = ended.is_some_and(|ended| ended.success());
        let seen = ended.map_or_else(|| "it had ended".to_owned(), |ended| ended.to_string());
        self.stage.check("cluster leave n4", format!("its process ends: {seen}"), ok);
        self.attempt("it has left", &dir, &[])
    }
}

fn as_flags(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

fn ten_minutes_late(hello: &mut Hello<'_>) {
    hello.identity.wall = WallTime(hello.identity.wall.0.saturating_sub(TEN_MINUTES_MS));
}

fn of_another_release(hello: &mut Hello<'_>) {
    hello.versions = (98, 99);
}

fn of_another_cluster(hello: &mut Hello<'_>) {
    hello.identity.cluster = ClusterUuid(7);
}

/// Changes a line of a directory's `cluster.toml`.
fn edit(data: &Path, from: &str, to: &str) -> Result<(), ChaosError> {
    let file = data.join("cluster.toml");
    let named = || system(file.display().to_string());
    let text = std::fs::read_to_string(&file).map_err(named())?;
    let changed = text.replacen(&format!("\n{from}\n"), &format!("\n{to}\n"), 1);
    if changed == text {
        return Err(ChaosError::Cluster(format!("{} has no line `{from}`", file.display())));
    }
    std::fs::write(&file, changed).map_err(named())
}

/// Copies a directory with everything in it.
fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_dir(&entry.path(), &to)?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_its_first_cell_and_says_what_was_said() {
        let doc = "| why | says | hint |\n|---|---|---|\n| late | it is … late, not `…` | wait |\n";
        let row = row(doc, "late").unwrap();
        assert_eq!(row, Row { says: "it is … late, not `…`".to_owned(), hint: "wait".to_owned() });
        assert!(super::row(doc, "early").is_none());
        let ended = |said: &str, status| Ended {
            status: Some(status),
            in_time: true,
            said: said.to_owned(),
        };
        let said = "a line\nerror: node a: it is 5 ms late, not `x` (Late)\n  hint: wait\n";
        assert!(row.is_said_by(&ended(said, 1)));
        assert!(row.is_said_by(&ended(said, 78)));
        assert!(!row.is_said_by(&ended(said, 0)), "it has to fail");
        assert!(!row.is_said_by(&ended(&said.replace("late,", "early,"), 1)));
        assert!(!row.is_said_by(&ended(&said.replace("wait", "run"), 1)));
    }

    #[test]
    fn every_case_is_in_the_document() {
        for why in [
            "another cluster",
            "another cluster of that name",
            "no token",
            "wrong or revoked token",
            "expired token",
            "token for one node, used",
            "the name is taken",
            "versions",
            "clocks differ",
            "directory of another release",
            "two processes, one run",
            "two data directories, one id",
            "it has left",
        ] {
            assert!(row(DOC, why).is_some(), "{why}");
        }
    }
}
