//! A state is on its way for so long that compaction gets to what was written meanwhile.

use ironring_core::{Durability, Offset, PartitionId, Token};

use super::troubles::{Cut, CutKind};
use super::{Event, MS, World};
use crate::sim::cluster::world::last_copy::new_world;
use crate::sim::op::{Change, Condition, Intent, Key, KeyOp, Op, RequestId, WriteId};
use crate::sim::shard_node::encode;

/// The state's pieces stand still for so long: less than after what it begins anew.
const STILL_NS: u64 = 4_000 * MS;
/// Puts of one key in that time, each of so many bytes.
const PUTS: u64 = 210;
const PUT_BYTES: u32 = 10_000;
/// By then the follower has caught up.
const CAUGHT_UP_NS: u64 = 10_000 * MS;

const P: PartitionId = PartitionId(0);

/// A node that was alone sends its state to one that joins. Meanwhile one key is written again and again,
/// and compaction frees segments; no entry the follower needs may go with them. Once it has caught up they
/// may. False: the seed's cluster has one replica of each partition.
///
/// # Errors
/// What did not hold.
pub fn kept(seed: u64, print: bool) -> Result<bool, String> {
    let mut world = new_world(seed, print);
    if world.group.state.rf() < 2 {
        return Ok(false);
    }
    world.one_writes()?;
    world.start(1);
    while world.pinned().is_none() {
        let time = world.time + MS / 10;
        world.until(time)?;
        if time > CAUGHT_UP_NS {
            return Err("no state is sent".to_owned());
        }
    }
    let first = world.pinned().ok_or("just seen")?;
    let cut = Cut { until: world.time + STILL_NS, kind: CutKind::Late };
    (world.cut[0][1], world.cut[1][0]) = (cut, cut);
    for put in 0..PUTS {
        world.write_again(put);
        world.until(world.time + STILL_NS * 3 / 4 / PUTS)?;
    }
    // Compaction has the rest of the time.
    world.until(cut.until - MS)?;
    let held = world.leader()?.models().peek(P).entries.first();
    if world.pinned().is_none() || held > first {
        return Err(format!(
            "the follower needs entries from {first} on, those from {held} are there"
        ));
    }
    let freed = world.leader()?.log().counters().segments_freed;
    world.until(world.time + CAUGHT_UP_NS)?;
    let record = &world.group.state.partitions()[P.0 as usize];
    if !record.replica_on(world.nodes[1].storage).is_some_and(|r| record.is_voter(r.id)) {
        return Err(format!("the follower has not caught up: {record:?}"));
    }
    if world.pinned().is_some() || world.leader()?.log().counters().segments_freed == freed {
        return Err("what nobody needs any more is kept".to_owned());
    }
    Ok(true)
}

impl World {
    fn leader(&self) -> Result<&ironring_node::shard::Shard, String> {
        self.nodes[0].shard.as_ref().ok_or_else(|| "the first node is down".to_owned())
    }

    fn pinned(&self) -> Option<Offset> {
        self.leader().ok()?.models().peek(P).pinned
    }

    /// Has the first node write a key of the partition that it has written before.
    fn write_again(&mut self, number: u64) {
        let names = (0..1000u32).map(|n| format!("again{n}"));
        let mut of_it =
            names.filter(|n| Token::of_key(n.as_bytes()).partition(self.partitions) == P);
        let key = Key::from(of_it.next().expect("a partition has keys").as_bytes());
        let change = Change::Put { len: PUT_BYTES, ttl_ms: 0 };
        let id = WriteId(u64::MAX - number);
        let intent = Intent { id, partition: P, level: Durability::Local, session: None };
        let ops = vec![KeyOp { key, change, condition: Condition::None }];
        let frame = encode(RequestId(u64::MAX - number), &Op::Write { intent, ops, batch: false });
        let run = self.nodes[0].incarnation;
        self.schedule(0, Event::Asks { node: 0, run, frame, client: 0 });
    }
}
