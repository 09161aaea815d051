//! In which order addresses are tried when any will do, and how long each. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

/// The least share of an attempt is one of so many parts: a handshake over a long way takes its
/// time. Addresses that no time is left for come first in the next attempt.
const SHARES_MAX: u32 = 4;

/// While somebody refuses, every so many rounds of asking for a map go through all addresses alike. One
/// that seems worse than the others may be the only one that knows the new leader.
const PLAIN_ROUND: usize = 4;

/// What came of the addresses that were tried.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Those that could not be reached, or fell silent, when they were tried last.
    failed: BTreeSet<String>,
    /// The one that said last that it does not lead, asked in place of the one that does.
    passed: Option<String>,
    /// Those that said that another may serve what they were asked for. What they know is no help then:
    /// a node that is cut off from the others does not hear of its successor.
    refusing: BTreeSet<String>,
}

impl Candidates {
    /// All of `known` in the order to try them in.
    pub fn order(&self, mut known: Vec<String>) -> Vec<String> {
        let passed = |address: &String| Some(address) == self.passed.as_ref();
        let first = known.iter().position(passed).map_or(0, |at| at + 1);
        known.rotate_left(first);
        known.sort_by_key(|address| self.has_failed(address));
        known
    }

    /// In which order to ask `known` for a map, the `turn`th time: another one first each time. `is_open`
    /// says whether there is a connection.
    pub fn order_for_map(
        &self,
        mut known: Vec<String>,
        turn: usize,
        is_open: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let count = known.len().max(1);
        known.rotate_left(turn % count);
        if self.refusing.is_empty() {
            // Those that answered lately first: one that says nothing costs its share of the attempt.
            known.sort_by_key(|address| (self.has_failed(address), !is_open(address)));
        } else if turn / count % PLAIN_ROUND != PLAIN_ROUND - 1 {
            // Whoever has a connection is who refuses, or a shard of the same node.
            known
                .sort_by_key(|address| (self.refusing.contains(address), self.has_failed(address)));
        }
        known
    }

    /// `address` said that another may serve what it was asked for.
    pub fn refuses(&mut self, address: &str) {
        self.refusing.insert(address.to_owned());
    }

    /// `address` gave its map. When it is none of those that refuse, their successors are known, or
    /// they refuse again.
    pub fn gave_map(&mut self, address: &str) {
        if !self.refusing.contains(address) {
            self.refusing.clear();
        }
    }

    /// Whether to try others before.
    pub fn has_failed(&self, address: &str) -> bool {
        self.failed.contains(address)
    }

    /// There is a connection.
    pub fn reached(&mut self, address: &str) {
        self.failed.remove(address);
    }

    /// There was none to be had, or nothing came on it.
    pub fn failed(&mut self, address: &str) {
        self.failed.insert(address.to_owned());
    }

    /// `address` said that it does not lead. When it was asked in place of the `owner`, the next
    /// one is asked from here on.
    pub fn does_not_lead(&mut self, address: &str, owner: Option<&str>, configured: &[String]) {
        if owner == Some(address) {
            return;
        }
        self.passed = Some(address.to_owned());
        // The one that leads may have failed before.
        self.failed.retain(|failed| !configured.contains(failed));
    }
}

/// What the first of `remaining` addresses may take of the time left, so that one that says nothing
/// leaves some for the others.
pub(super) fn share(left: Duration, remaining: usize, attempt: Duration) -> Duration {
    let remaining = u32::try_from(remaining).unwrap_or(u32::MAX).max(1);
    (left / remaining).max(attempt / SHARES_MAX).min(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(candidates: &Candidates) -> String {
        candidates.order(["a", "b", "c"].map(str::to_owned).to_vec()).concat()
    }

    #[test]
    fn those_that_failed_come_last() {
        let mut candidates = Candidates::default();
        assert_eq!(order(&candidates), "abc");
        candidates.failed("a");
        assert_eq!(order(&candidates), "bca");
        candidates.failed("b");
        candidates.failed("c");
        assert_eq!(order(&candidates), "abc", "none is better than the others");
        candidates.reached("b");
        assert_eq!(order(&candidates), "bac");
    }

    #[test]
    fn one_that_does_not_lead_makes_room_for_the_next() {
        let mut candidates = Candidates::default();
        let configured = ["a", "b"].map(str::to_owned);
        candidates.does_not_lead("a", Some("a"), &configured);
        assert_eq!(order(&candidates), "abc", "who leads is the map's business");
        candidates.does_not_lead("a", None, &configured);
        assert_eq!(order(&candidates), "bca");
        candidates.failed("a");
        candidates.failed("c");
        candidates.does_not_lead("b", None, &configured);
        assert_eq!(order(&candidates), "abc");
        candidates.does_not_lead("c", None, &configured);
        assert_eq!(order(&candidates), "abc", "it begins again");
    }

    #[test]
    fn another_one_is_asked_for_a_map_than_the_one_that_refuses() {
        let known = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let order = |candidates: &Candidates, turn| {
            candidates.order_for_map(known(), turn, |address| address == "a").concat()
        };
        let mut candidates = Candidates::default();
        let turns = |candidates: &Candidates| [0, 1, 2].map(|turn| order(candidates, turn));
        assert_eq!(turns(&candidates), ["abc", "abc", "acb"], "it has a connection");
        candidates.refuses("a");
        assert_eq!(turns(&candidates), ["bca", "bca", "cba"]);
        candidates.failed("b");
        assert_eq!(turns(&candidates), ["cba", "cba", "cba"]);
        let plain = (PLAIN_ROUND - 1) * 3;
        let turns_then = [0, 1, 2].map(|turn| order(&candidates, plain + turn));
        assert_eq!(turns_then, ["abc", "bca", "cab"]);
        candidates.gave_map("a");
        assert_eq!(order(&candidates, 0), "cba", "it knows nothing new");
        candidates.gave_map("c");
        assert_eq!(order(&candidates, 0), "acb");
        assert!(candidates.order_for_map(vec![], 7, |_| true).is_empty());
    }

    #[test]
    fn each_address_leaves_time_for_the_others() {
        let ms = Duration::from_millis;
        let attempt = ms(400);
        let cases = [(400, 1, 400), (400, 2, 200), (400, 10, 100), (50, 10, 50), (0, 3, 0)];
        for (left, remaining, expected) in cases {
            assert_eq!(share(ms(left), remaining, attempt), ms(expected), "{left} {remaining}");
        }
        assert_eq!(share(ms(10_000), 5, attempt), ms(2_000));
    }
}
