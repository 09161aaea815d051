//! In which term each entry of a partition was written: one pair per term, not per entry.

use ironring_core::{Offset, Term};

/// The first offset of each term in a log, oldest first. Terms and offsets both grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermStarts(Vec<(Term, Offset)>);

impl TermStarts {
    /// From pairs that were stored.
    ///
    /// # Panics
    /// When they do not grow: what is stored is verified by checksums before it gets here.
    #[must_use]
    pub fn from_pairs(pairs: Vec<(Term, Offset)>) -> TermStarts {
        assert!(pairs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "terms grow with offsets");
        TermStarts(pairs)
    }

    /// All pairs, oldest first.
    #[must_use]
    pub fn pairs(&self) -> &[(Term, Offset)] {
        &self.0
    }

    /// The term of the entry at `offset`; term 0 before the first.
    #[must_use]
    pub fn at(&self, offset: Offset) -> Term {
        let after = self.0.partition_point(|(_, start)| *start <= offset);
        after.checked_sub(1).map_or(Term(0), |i| self.0[i].0)
    }

    /// The term of the last entry.
    #[must_use]
    pub fn last(&self) -> Term {
        self.0.last().map_or(Term(0), |(term, _)| *term)
    }

    /// An entry of `term` was written at `offset`, the end of the log.
    ///
    /// # Panics
    /// When its term is lower than that of the entry before it.
    pub fn append(&mut self, term: Term, offset: Offset) {
        match self.0.last() {
            Some((last, _)) if *last == term => {}
            last => {
                assert!(last.is_none_or(|(last, _)| *last < term), "terms only grow in a log");
                self.0.push((term, offset));
            }
        }
    }

    /// Entries from `end` on are gone.
    pub fn truncate(&mut self, end: Offset) {
        self.0.retain(|(_, start)| *start < end);
    }

    /// The end of the entries with terms up to `term`, in a log that ends at `end`.
    #[must_use]
    pub fn end_of(&self, term: Term, end: Offset) -> Offset {
        let after = self.0.partition_point(|(t, _)| *t <= term);
        self.0.get(after).map_or(end, |(_, start)| *start)
    }

    /// Forgets terms that ended at or before `offset`: nobody asks below it.
    pub fn forget_before(&mut self, offset: Offset) {
        let holding = self.0.partition_point(|(_, start)| *start <= offset);
        self.0.drain(..holding.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts() -> TermStarts {
        TermStarts::from_pairs(vec![
            (Term(1), Offset(1)),
            (Term(4), Offset(10)),
            (Term(5), Offset(12)),
        ])
    }

    #[test]
    fn each_offset_has_the_term_it_was_written_in() {
        let t = starts();
        let terms: Vec<u64> = [0, 1, 9, 10, 11, 12, 99].map(|o| t.at(Offset(o)).0).to_vec();
        assert_eq!(terms, [0, 1, 1, 4, 4, 5, 5]);
        assert_eq!(TermStarts::default().at(Offset(7)), Term(0));
    }

    #[test]
    fn the_end_of_a_term_is_the_start_of_the_next() {
        let t = starts();
        let ends: Vec<u64> = (0..=6).map(|term| t.end_of(Term(term), Offset(20)).0).collect();
        assert_eq!(ends, [1, 10, 10, 10, 12, 20, 20]);
    }

    #[test]
    fn what_is_cut_or_forgotten_leaves_the_rest() {
        let mut t = starts();
        t.append(Term(5), Offset(20));
        t.append(Term(8), Offset(21));
        t.truncate(Offset(12));
        assert_eq!(t.last(), Term(4));
        t.append(Term(9), Offset(12));
        t.forget_before(Offset(11));
        assert_eq!(t.pairs(), [(Term(4), Offset(10)), (Term(9), Offset(12))]);
        t.forget_before(Offset(12));
        assert_eq!(t.pairs(), [(Term(9), Offset(12))]);
    }
}
