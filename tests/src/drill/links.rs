//! Nodes that are cut off from the others, and come back.

use std::collections::BTreeMap;
use std::time::Duration;

use super::probe::{Door, Said, is_typed, keys, tally};
use super::stage::{Cluster, PLAIN, Stage, partitions};
use crate::chaos::nodes::ChaosError;
use crate::chaos::plan::LinkState;
use crate::chaos::workload::{KEYS, key_name};

/// Longer than every lease, election and change of voters.
const LONG: Duration = Duration::from_secs(8);
const SHORT: Duration = Duration::from_secs(2);
/// The age of an answer of which nobody knows it.
const AGE_UNKNOWN: u32 = u32::MAX;
/// How long a read of a node that is alone may take.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// Cuts a node off from all others, both ways, or lets it back.
fn set_links(cluster: &Cluster, node: usize, state: LinkState) {
    for other in (0..cluster.nodes.count()).filter(|other| *other != node) {
        cluster.nodes.links.set(node, other, state);
        cluster.nodes.links.set(other, node, state);
    }
}

/// See [`super::DRILLS`].
pub fn minority(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[PLAIN; 3], 0)?;
    cluster.serves(stage, "write to every partition", &[0, 1, 2])?;
    cluster.load()?;
    cluster.until("leaderships are at rest", |nodes| {
        let status = nodes.status(0).ok()?;
        status.members.iter().all(|member| member.leads >= 5).then_some(())
    })?;
    // What was handed over a moment ago has to be heard of by all.
    cluster.wait(SHORT)?;
    // The one that decides is the hardest to do without.
    let alone = cluster.leader()?;
    let name = cluster.nodes.name(alone).to_owned();
    let address = cluster.nodes.addresses()[alone].clone();
    set_links(&cluster, alone, LinkState::Cut);
    let others: Vec<usize> = (0..3).filter(|index| *index != alone).collect();
    cluster.serves(stage, &format!("cut {name} off, which led the metadata group"), &others)?;

    let keys = keys();
    let mut said = Vec::new();
    for key in &keys {
        said.push(cluster.until("it refuses a write", |_| {
            let answer = Door::open(&address).and_then(|mut door| door.put(key, b"of a minority"));
            // Until it notices that it leads no more it does not know.
            answer.ok().filter(|said| is_typed(said) || *said == Said::Acked)
        })?);
    }
    let refused = said.iter().all(is_typed);
    stage.check("write to every partition at it", tally(said.iter()), refused);
    let mut said = Vec::new();
    for key in &keys {
        said.push(Door::open(&address).and_then(|mut door| door.get(key, READ_WITHIN)));
    }
    // Who believes to lead waits for a majority to say so, until the reader gives up.
    let (said, silent): (Vec<_>, Vec<_>) = said.into_iter().partition(Result::is_ok);
    let said: Vec<Said> = said.into_iter().flatten().collect();
    let refused = said.iter().all(|said| matches!(said, Said::Refused(..)));
    let seen = format!("{}, {} without an answer", tally(said.iter()), silent.len());
    stage.check("read every partition at it", seen, refused);
    let ages = stale_ages(&address, &keys);
    let (seen, ok) = match &ages {
        Ok(ages) => {
            let known = ages.iter().filter(|age| **age != AGE_UNKNOWN);
            let (least, most) = (known.clone().min().copied(), known.clone().max().copied());
            let (least, most) = (least.unwrap_or(0), most.unwrap_or(0));
            let (values, known) = (ages.len(), known.count());
            let seen = format!("{values} values, of {known} the age: {least} to {most} ms");
            (seen, values == keys.len() && known == values && least > 0)
        }
        Err(why) => (why.clone(), false),
    };
    stage.check("read stale at it", seen, ok);
    let status = cluster.nodes.status(alone).map_err(ChaosError::Cluster)?;
    stage.check("ask it for its status", status.reasons.join("; "), !status.healthy);

    set_links(&cluster, alone, LinkState::Open);
    cluster.heal(stage, "heal the links")?;
    cluster.acks_go_on()?;
    same_everywhere(cluster, stage)
}

fn stale_ages(address: &str, keys: &[String]) -> Result<Vec<u32>, String> {
    let mut door = Door::open(address)?;
    let mut ages = Vec::new();
    for key in keys {
        match door.get_stale(key)? {
            Said::Value(_, _, age) => ages.push(age),
            other => return Err(format!("{key}: {other:?}")),
        }
    }
    Ok(ages)
}

/// Ends the load; then every replica has to answer the same from its own copy.
fn same_everywhere(mut cluster: Cluster, stage: &mut Stage) -> Result<(), ChaosError> {
    let addresses = cluster.nodes.addresses();
    cluster.rest()?;
    let mut names = keys();
    names.extend((0..KEYS).map(key_name));
    let mut differ = Vec::new();
    for key in &names {
        let mut last = Vec::new();
        let same = cluster.until("all replicas answer the same", |_| {
            let answers = addresses
                .iter()
                .map(|address| Door::open(address).and_then(|mut door| door.get_stale(key)));
            // How old an answer may be is not what it is.
            let contents = answers.map(|answer| match answer {
                Ok(Said::Value(value, version, _)) => format!("version {version}: {value:?}"),
                Ok(Said::Refused(code, _)) => code.name().to_owned(),
                other => format!("{other:?}"),
            });
            last = contents.collect();
            last.iter().all(|one| *one == last[0]).then_some(())
        });
        if same.is_err() {
            differ.push(format!("{key}: {last:?}"));
        }
    }
    let seen = format!(
        "{} keys at 3 replicas, {} differ {}",
        names.len(),
        differ.len(),
        differ.join("\n")
    );
    stage.check("compare the replicas", seen.trim_end(), differ.is_empty());
    cluster.finish(stage).map(drop)
}

/// See [`super::DRILLS`].
pub fn returned(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[PLAIN; 3], 0)?;
    cluster.load()?;
    let leader = cluster.leader()?;
    for (round, alone) in [(leader + 1) % 3, leader].into_iter().enumerate() {
        let name = cluster.nodes.name(alone).to_owned();
        let others: Vec<usize> = (0..3).filter(|index| *index != alone).collect();
        set_links(&cluster, alone, LinkState::Cut);
        let what = if round == 0 { "a follower of the metadata group" } else { "its leader" };
        cluster.serves(stage, &format!("cut {name} off, {what}"), &others)?;
        cluster.wait(LONG)?;
        let before = Terms::of(&mut cluster, &others)?;
        set_links(&cluster, alone, LinkState::Open);
        let took = cluster.nodes.until_healthy()?;
        cluster.wait(LONG)?;
        let after = Terms::of(&mut cluster, &[0, 1, 2])?;
        let (seen, ok) = before.compared_with(&after);
        let seen = format!("healthy {:.1} s later; {seen}", took.as_secs_f64());
        stage.check(format!("let {name} back"), seen, ok);
    }
    cluster.finish(stage).map(drop)
}

/// Terms given so far, as the nodes count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The metadata group's term.
    pub metadata: u64,
    /// The sum of all partitions' terms.
    pub partitions: u64,
    /// Elections of partitions' leaders, of whichever controller.
    pub elections: u64,
    /// Leaderships of partitions handed over as planned.
    pub handovers: u64,
}

impl Terms {
    /// Those that these nodes agree on, and what all running nodes have counted. Counters of processes
    /// that ended are gone: to be compared only while none has.
    ///
    /// # Errors
    /// They do not agree in time.
    pub fn of(cluster: &mut Cluster, nodes: &[usize]) -> Result<Terms, ChaosError> {
        let (metadata, by_partition) = cluster.until("nodes agree on all terms", |running| {
            let mut seen = nodes.iter().map(|index| {
                let metadata = running.status(*index).ok()?.metadata.term;
                let partitions = partitions(running, *index).ok()?;
                let of = partitions.iter().map(|p| (p.partition, (p.term, p.leader)));
                Some((metadata, of.collect::<BTreeMap<_, _>>()))
            });
            let first = seen.next()??;
            seen.all(|other| other.as_ref() == Some(&first)).then_some(first)
        })?;
        let sum = |name: &str| {
            let up = (0..cluster.nodes.count()).filter(|index| cluster.nodes.is_up(*index));
            up.map(|index| cluster.nodes.metric(index, name)).sum::<Result<f64, _>>()
        };
        let elections = sum("ironring_cluster_elections_total")? as u64;
        let handovers = sum("ironring_cluster_handovers_total")? as u64;
        let partitions = by_partition.values().map(|(term, _)| term).sum();
        Ok(Terms { metadata, partitions, elections, handovers })
    }

    /// In words, and whether no election was held since. Leaderships that were handed over as planned, for
    /// a node that leads less than its share, give new terms as well, and are none.
    pub fn compared_with(&self, after: &Terms) -> (String, bool) {
        let (elections, handovers) =
            (after.elections - self.elections, after.handovers - self.handovers);
        let new = after.partitions - self.partitions;
        let seen = format!(
            "metadata term {} -> {}, partitions: {elections} elections, {handovers} planned hand-overs, \
             {new} new terms",
            self.metadata, after.metadata
        );
        let none = self.metadata == after.metadata && elections == 0;
        (seen, none && new == handovers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_term_that_nobody_accounts_for_is_an_election() {
        let before = Terms { metadata: 3, partitions: 40, elections: 16, handovers: 5 };
        assert!(before.compared_with(&before).1);
        let handed = Terms { partitions: 42, handovers: 7, ..before };
        assert!(before.compared_with(&handed).1);
        for other in [
            Terms { metadata: 4, ..before },
            Terms { elections: 17, partitions: 41, ..before },
            Terms { partitions: 41, ..before },
        ] {
            assert!(!before.compared_with(&other).1, "{other:?}");
        }
    }
}
