//! In which order addresses are tried when any will do, and how long each. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

/// The least share of an attempt is one of so many parts: a handshake over a long way takes its
/// time. Addresses that no time is left for come first in the next attempt.
const SHARES_MAX: u32 = 4;

/// What came of the addresses that were tried.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Those that could not be reached, or fell silent, when they were tried last.
    failed: BTreeSet<String>,
    /// The one that said last that it does not lead, asked in place of the one that does.
    passed: Option<String>,
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
