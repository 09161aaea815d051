//! Writes superblock versions: two copies durable, then the other two.
//!
//! Invariants:
//! - the first version of a run goes first to the copies recovery did not rely on (see
//!   `opening::superblock_choice`), all others to copies 0 and 1;
//! - one version is written at a time, and its contents are a picture of the moment it began;
//! - a version counts (is *settled*) only when all four copies are durable, so whatever depends on
//!   it happens only when any two damaged copies leave two that agree on it;
//! - sequences only grow, past every copy seen when the log was opened.

use ironring_core::FilePos;
use ironring_core::io::{BufAlloc, FileName, IoOp, IoQueue};

use crate::format::align_up;
use crate::format::superblock::{COPIES, COPY_EXTENT_BYTES, Superblock};
use crate::ops::{Ops, Purpose};

/// Copies written at the same time.
const ROUND: usize = 2;
const _: () = assert!(COPIES == 2 * ROUND);

#[derive(Debug)]
struct Writing {
    image: Superblock,
    bytes: Vec<u8>,
    /// The copies in the order they are written.
    order: [usize; COPIES],
    /// How many of them were begun.
    begun: usize,
    outstanding: usize,
}

/// The writer. Tokens are superblock sequences: [`SuperblockWriter::request`] gives the one that
/// will hold everything changed so far; it is reached when [`SuperblockWriter::settled`] is.
#[derive(Debug, Default)]
pub(crate) struct SuperblockWriter {
    begun: u64,
    wanted: u64,
    settled: u64,
    writing: Option<Writing>,
    /// Where the next version goes first.
    first_round: Option<[usize; ROUND]>,
}

impl SuperblockWriter {
    /// Continues after `sequence`, the highest seen on disk; the next version is written to the
    /// copies `first_round` first.
    pub fn resume(&mut self, sequence: u64, first_round: [usize; ROUND]) {
        self.first_round = Some(first_round);
        self.begun = sequence;
        self.wanted = sequence;
        self.settled = sequence;
    }

    /// Wants the present state on disk; returns the sequence that will hold it.
    pub fn request(&mut self) -> u64 {
        self.wanted = self.begun + 1;
        self.wanted
    }

    /// The newest version all copies of which are durable.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// The sequence to begin now, when a version is wanted and none is being written.
    pub fn due(&self) -> Option<u64> {
        (self.writing.is_none() && self.wanted > self.begun).then_some(self.begun + 1)
    }

    /// Begins writing `image`, whose sequence [`SuperblockWriter::due`] gave.
    pub fn begin(
        &mut self,
        image: Superblock,
        alloc: &mut dyn BufAlloc,
        ops: &mut Ops,
        io: &mut IoQueue,
    ) {
        assert_eq!(self.due(), Some(image.sequence), "one version at a time, in order");
        self.begun = image.sequence;
        let bytes = image.encode();
        let first = self.first_round.take().unwrap_or([0, 1]);
        let mut order = [first[0], first[1], 0, 0];
        let second = (0..COPIES).filter(|copy| !first.contains(copy));
        order[ROUND..].iter_mut().zip(second).for_each(|(place, copy)| *place = copy);
        let writing = Writing { image, bytes, order, begun: 0, outstanding: 0 };
        let writing = self.writing.insert(writing);
        write_round(writing, alloc, ops, io);
    }

    /// A copy is durable. Returns the image when it is settled.
    pub fn copy_done(
        &mut self,
        alloc: &mut dyn BufAlloc,
        ops: &mut Ops,
        io: &mut IoQueue,
    ) -> Option<Superblock> {
        let writing = self.writing.as_mut().expect("a copy completes only while one is written");
        writing.outstanding -= 1;
        if writing.outstanding > 0 {
            return None;
        }
        if writing.begun < COPIES {
            write_round(writing, alloc, ops, io);
            return None;
        }
        let writing = self.writing.take()?;
        self.settled = writing.image.sequence;
        Some(writing.image)
    }
}

fn write_round(writing: &mut Writing, alloc: &mut dyn BufAlloc, ops: &mut Ops, io: &mut IoQueue) {
    let len = align_up(writing.bytes.len() as u32, writing.image.block_bytes) as usize;
    for copy in writing.order.into_iter().skip(writing.begun).take(ROUND) {
        let mut buf = alloc.alloc(len);
        buf[..writing.bytes.len()].copy_from_slice(&writing.bytes);
        buf[writing.bytes.len()..].fill(0);
        let pos = FilePos((copy * COPY_EXTENT_BYTES) as u64);
        let op = IoOp::WriteAt { file: FileName::Superblock, pos, buf, durable: true };
        ops.push(io, Purpose::Superblock, op);
    }
    writing.begun += ROUND;
    writing.outstanding = ROUND;
}
