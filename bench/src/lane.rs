//! The unanswered requests of one connection. No I/O and no clock.
//!
//! Invariants: a slot is free, waiting, or late (it timed out, was counted, and its reply may
//! still come). A tag is the slot's index and is not used again before its reply came, so a late
//! reply can never be taken for another request's. Nothing is allocated after construction.

use std::collections::VecDeque;

use crate::workload::OpKind;

/// What is known of a request when its reply comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What it does.
    pub kind: OpKind,
    /// When the schedule wanted it sent; equal to `sent_ns` in a closed loop.
    pub intended_ns: u64,
    /// When it was handed to the connection.
    pub sent_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Waiting(Pending),
    Late,
}

/// What a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// This request.
    Request(Pending),
    /// A request that was counted as timed out before.
    Late,
    /// Nothing that was asked: the server or the parser is wrong.
    Nothing,
}

/// The unanswered requests of one connection.
#[derive(Debug)]
pub struct Lane {
    slots: Box<[Slot]>,
    free: Vec<u32>,
    /// Slots in the order of their requests, for protocols that answer in order. Unused by
    /// protocols that answer with the tag.
    order: Option<VecDeque<u32>>,
}

impl Lane {
    /// A lane for at most `pipeline` unanswered requests.
    #[must_use]
    pub fn new(pipeline: usize, tagged: bool) -> Lane {
        let count = u32::try_from(pipeline).expect("PIPELINE_MAX fits");
        Lane {
            slots: vec![Slot::Free; pipeline].into_boxed_slice(),
            free: (0..count).rev().collect(),
            order: (!tagged).then(|| VecDeque::with_capacity(pipeline)),
        }
    }

    /// Whether another request may be sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether no reply is awaited, late ones included.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Takes a slot and returns its tag; `None` without room.
    pub fn begin(&mut self, pending: Pending) -> Option<u32> {
        let tag = self.free.pop()?;
        self.slots[tag as usize] = Slot::Waiting(pending);
        if let Some(order) = &mut self.order {
            order.push_back(tag);
        }
        Some(tag)
    }

    /// Frees the slot a reply belongs to: by its tag, or the oldest where replies come in order.
    pub fn finish(&mut self, tag: Option<u32>) -> Matched {
        let tag = match &mut self.order {
            Some(order) => order.pop_front(),
            None => tag,
        };
        let Some(slot) = tag.and_then(|t| self.slots.get_mut(t as usize)) else {
            return Matched::Nothing;
        };
        let matched = match *slot {
            Slot::Free => return Matched::Nothing,
            Slot::Waiting(pending) => Matched::Request(pending),
            Slot::Late => Matched::Late,
        };
        *slot = Slot::Free;
        self.free.extend(tag);
        matched
    }

    /// Hands out every request sent at or before `before_ns` and marks it late. Costs a look at
    /// every slot: call it a few times per timeout, not per reply.
    pub fn expire(&mut self, before_ns: u64, mut timed_out: impl FnMut(Pending)) {
        for slot in &mut self.slots {
            if let Slot::Waiting(pending) = *slot
                && pending.sent_ns <= before_ns
            {
                *slot = Slot::Late;
                timed_out(pending);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(sent_ns: u64) -> Pending {
        Pending { kind: OpKind::Get, intended_ns: sent_ns, sent_ns }
    }

    #[test]
    fn tagged_replies_match_in_any_order() {
        let mut lane = Lane::new(2, true);
        let a = lane.begin(pending(1)).unwrap();
        let b = lane.begin(pending(2)).unwrap();
        assert_eq!(lane.begin(pending(3)), None, "full");
        assert_eq!(lane.finish(Some(b)), Matched::Request(pending(2)));
        assert_eq!(lane.finish(Some(b)), Matched::Nothing, "answered twice");
        assert_eq!(lane.finish(Some(a)), Matched::Request(pending(1)));
        assert!(lane.is_idle());
    }

    #[test]
    fn untagged_replies_match_in_order() {
        let mut lane = Lane::new(3, false);
        for sent in 1..=3 {
            lane.begin(pending(sent)).unwrap();
        }
        for sent in 1..=3 {
            assert_eq!(lane.finish(None), Matched::Request(pending(sent)));
        }
        assert_eq!(lane.finish(None), Matched::Nothing);
    }

    #[test]
    fn a_request_times_out_once_and_keeps_its_slot_until_the_late_reply() {
        let mut lane = Lane::new(1, false);
        lane.begin(pending(10)).unwrap();
        let mut expired = Vec::new();
        lane.expire(9, |p| expired.push(p));
        assert!(expired.is_empty());
        lane.expire(10, |p| expired.push(p));
        lane.expire(99, |p| expired.push(p));
        assert_eq!(expired, [pending(10)]);
        assert!(!lane.has_room() && !lane.is_idle());
        assert_eq!(lane.finish(None), Matched::Late);
        assert!(lane.has_room() && lane.is_idle());
    }

    #[test]
    fn unknown_tags_are_refused() {
        let mut lane = Lane::new(1, true);
        assert_eq!(lane.finish(Some(7)), Matched::Nothing);
        assert_eq!(lane.finish(None), Matched::Nothing);
    }
}
