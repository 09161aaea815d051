//! What is going to happen in a simulated world, in order of time; at one time in the order in which
//! it was decided.

use std::cmp::Ordering;

/// Something that happens later.
#[derive(Debug)]
pub struct Scheduled<E> {
    /// When.
    pub at: u64,
    /// Grows with each that is scheduled.
    pub order: u64,
    /// What.
    pub event: E,
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl<E> Eq for Scheduled<E> {}
impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
