//! Whether this node is short of space, as it tells the cluster: pure.
//!
//! The controller hands the leaderships of a node that is short to others, and balances back later.
//! Both cost a pause of each partition, so what a node says follows what its shards find with delay:
//! it is short when one of them has been for a moment, and no more when all of them have had plenty for
//! a while.

use std::time::Duration;

use ironring_core::Instant;
use ironring_log::Room;

/// Shards say how they are once a second: what one of them says once, compaction may have mended already.
const SHORT_AFTER: Duration = Duration::from_millis(1500);
/// Room that lasts so long is more than what compaction frees and users fill.
const ROOM_AFTER: Duration = Duration::from_secs(10);

/// What was said last, and since when it is otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Shortage {
    short: bool,
    otherwise_since: Option<Instant>,
}

impl Shortage {
    /// As the metadata say: a node that restarts goes on with what it said.
    #[must_use]
    pub fn new(short: bool) -> Shortage {
        Shortage { short, otherwise_since: None }
    }

    /// What was said last.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// What is to be said, given the room in the fullest shard.
    pub fn look(&mut self, now: Instant, room: Room) -> bool {
        let patience = match (self.short, room) {
            (false, Room::Short) => SHORT_AFTER,
            (true, Room::Plenty) => ROOM_AFTER,
            _ => {
                self.otherwise_since = None;
                return self.short;
            }
        };
        let since = *self.otherwise_since.get_or_insert(now);
        if now.since(since) >= patience {
            *self = Shortage::new(!self.short);
        }
        self.short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said after each of these, in milliseconds.
    fn said(begin: bool, seen: &[(u64, Room)]) -> Vec<bool> {
        let mut shortage = Shortage::new(begin);
        let at = |ms| Instant(0) + Duration::from_millis(ms);
        seen.iter().map(|(ms, room)| shortage.look(at(*ms), *room)).collect()
    }

    #[test]
    fn it_is_short_when_it_stays_so_for_a_moment() {
        use Room::{Plenty, Short, Tight};
        let seen = [(0, Short), (1000, Short), (1500, Short), (1600, Tight), (9000, Tight)];
        assert_eq!(said(false, &seen), [false, false, true, true, true]);
        // What compaction mends at once is not told.
        for between in [Tight, Plenty] {
            let seen = [(0, Short), (1000, between), (1600, Short), (3000, Short), (3100, Short)];
            assert_eq!(said(false, &seen), [false, false, false, false, true]);
        }
    }

    #[test]
    fn there_is_room_again_when_there_is_plenty_for_a_while() {
        use Room::{Plenty, Short, Tight};
        let seen = [(0, Plenty), (9_900, Plenty), (10_000, Plenty)];
        assert_eq!(said(true, &seen), [true, true, false]);
        for between in [Tight, Short] {
            let seen = [(0, Plenty), (9_900, between), (10_000, Plenty), (19_900, Plenty)];
            assert_eq!(said(true, &seen), [true; 4]);
            assert_eq!(said(true, &[(0, Plenty), (9_900, between), (90_000, between)]), [true; 3]);
        }
    }
}
