//! Group commit: records are encoded straight into the group being staged; one group is in flight.
//!
//! Invariants:
//! - groups are placed when they are opened, so a record's location is known when it is appended;
//! - a group's header (floor, previous checksum) is made when it is written, in sequence order;
//! - one write is in flight; while it is, records join the open group, which closes when it
//!   reaches [`GROUP_BYTES_TARGET`] or the end of its segment. So under load groups are large, and
//!   a second write in flight would not help: the device is already given 1 MiB at a time.

use std::collections::VecDeque;

use ironring_core::checksum::{crc32c_append, crc32c_combine};
use ironring_core::io::{BufAlloc, IoBuf, IoOp};
use ironring_core::limits::GROUP_BYTES_TARGET;
use ironring_core::{FilePos, GroupSeq, SegmentId, SlotId};

use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader};
use crate::format::{IdentitySeed, align_up, record};
use crate::segments::file_of;
use crate::{Location, Record};

/// Smallest staging buffer.
const BUF_BYTES_MIN: usize = 64 << 10;
/// Staging buffers kept for the next groups.
const SPARE_MAX: usize = 4;
/// A group that fills less than one in so many parts of its buffer is written from one of its own: written
/// groups stay in memory, by the bytes of their buffers.
const ROOMY: usize = 4;

/// A group that was written, in memory still.
#[derive(Debug)]
struct Written {
    at: Place,
    len: u32,
    buf: IoBuf,
}

/// A position in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: SegmentId,
    pub slot: SlotId,
    pub pos: u32,
}

/// A group in memory. `buf[..len]` is header (made last) and records.
#[derive(Debug)]
pub(crate) struct Group {
    pub sequence: GroupSeq,
    pub at: Place,
    pub len: u32,
    pub records: u32,
    /// The group must not grow beyond this many bytes.
    limit: u32,
    buf: IoBuf,
    /// Checksum of the records that lie before `summed`; the rest is summed when the group is
    /// written, in one pass.
    crc: u32,
    summed: u32,
}

impl Group {
    /// Takes in a record `start..end` whose bytes from the fifth on have the checksum `rest`.
    fn combine(&mut self, start: usize, end: usize, rest: u32) {
        let before = crc32c_append(self.crc, &self.buf[self.summed as usize..start + 4]);
        self.crc = crc32c_combine(before, rest, end - start - 4);
        self.summed = end as u32;
    }

    /// Checksum of all records.
    fn body_crc(&self) -> u32 {
        crc32c_append(self.crc, &self.buf[self.summed as usize..self.len as usize])
    }
}

/// What is remembered of the group in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub sequence: GroupSeq,
    pub at: Place,
    pub len: u32,
    pub padded: u32,
    pub records: u32,
}

/// The groups that are not durable yet, and the end of the log.
#[derive(Debug)]
pub(crate) struct Staging {
    seed: IdentitySeed,
    block: u32,
    segment_bytes: u32,
    run: u32,
    /// Where the next group goes, behind every closed group.
    end: Place,
    /// Sequence of the next group to open.
    next: GroupSeq,
    durable: GroupSeq,
    /// Header checksum and run of the last group written.
    last_crc: u32,
    last_run: u32,
    open: Option<Group>,
    closed: VecDeque<Group>,
    in_flight: Option<InFlight>,
    waiting: usize,
    spare: Vec<IoBuf>,
    last_len: usize,
    /// The newest groups that are durable, oldest first.
    recent: VecDeque<Written>,
    recent_bytes: usize,
    recent_bytes_max: usize,
}

impl Staging {
    pub fn new(seed: IdentitySeed, block: u32, segment_bytes: u32) -> Staging {
        Staging {
            seed,
            block,
            segment_bytes,
            run: 0,
            end: Place { segment: SegmentId(0), slot: SlotId(0), pos: 0 },
            next: GroupSeq(1),
            durable: GroupSeq(0),
            last_crc: 0,
            last_run: 0,
            open: None,
            closed: VecDeque::new(),
            in_flight: None,
            waiting: 0,
            spare: Vec::new(),
            last_len: BUF_BYTES_MIN,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_bytes_max: 0,
        }
    }

    /// Continues behind a recovered log.
    pub fn resume(&mut self, end: Place, next: GroupSeq, last_crc: u32, last_run: u32) {
        self.end = end;
        self.next = next;
        self.durable = GroupSeq(next.0 - 1);
        self.last_crc = last_crc;
        self.last_run = last_run;
    }

    /// Where checksums of groups begin, of a log that was there already.
    pub fn set_seed(&mut self, seed: IdentitySeed) {
        self.seed = seed;
    }

    /// The run that groups carry from here on; durable in the superblock.
    pub fn set_run(&mut self, run: u32) {
        self.run = run;
    }

    pub fn durable(&self) -> GroupSeq {
        self.durable
    }

    /// Sequence of the next group to open.
    pub fn next_sequence(&self) -> GroupSeq {
        self.next
    }

    /// The group an append would join.
    pub fn staged(&self) -> GroupSeq {
        self.open.as_ref().map_or(self.next, |open| open.sequence)
    }

    /// Records staged and not in flight.
    pub fn staged_records(&self) -> u32 {
        let closed: u32 = self.closed.iter().map(|g| g.records).sum();
        closed + self.open.as_ref().map_or(0, |g| g.records)
    }

    /// Bytes staged and in flight.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.closed.is_empty() && self.in_flight.is_none()
    }

    /// Header checksum and run of the last group whose write began.
    pub fn last(&self) -> (u32, u32) {
        (self.last_crc, self.last_run)
    }

    /// Where the group [`Staging::staged`] begins.
    pub fn staged_place(&self) -> Place {
        self.open.as_ref().map_or(self.end, |open| open.at)
    }

    /// Whether a record of `len` bytes can join the open group.
    pub fn open_takes(&self, len: usize) -> bool {
        self.open.as_ref().is_some_and(|g| g.len as usize + len <= g.limit as usize)
    }

    /// Where a group would begin if it were opened now.
    pub fn end(&self) -> Place {
        let mut end = self.end;
        if let Some(open) = &self.open {
            end.pos += align_up(open.len, self.block);
        }
        end
    }

    /// Whether a group with `body` bytes of records fits its segment at `place`.
    pub fn fits(&self, place: Place, body: usize) -> bool {
        let len = align_up((GROUP_HEADER_BYTES + body) as u32, self.block);
        u64::from(place.pos) + u64::from(len) <= u64::from(self.segment_bytes)
    }

    /// Closes the open group and opens the next at `place` for a first record of `body` bytes
    /// (0: a group without records).
    pub fn open_group(&mut self, place: Place, body: usize, alloc: &mut dyn BufAlloc) {
        assert!(self.fits(place, body), "the caller looked for a place with room");
        self.close();
        self.end = place;
        let room = self.segment_bytes - place.pos;
        let need = align_up((GROUP_HEADER_BYTES + body) as u32, self.block) as usize;
        let want = self.last_len.clamp(BUF_BYTES_MIN, GROUP_BYTES_TARGET).max(need);
        let buf = self.take_buffer(want, alloc);
        self.waiting += GROUP_HEADER_BYTES;
        self.open = Some(Group {
            sequence: self.next,
            at: place,
            len: GROUP_HEADER_BYTES as u32,
            records: 0,
            limit: room.min(GROUP_BYTES_TARGET.max(need) as u32),
            buf,
            crc: 0,
            summed: GROUP_HEADER_BYTES as u32,
        });
        self.next = self.next.next();
    }

    /// Adds a record to the open group; returns its position and the group.
    pub fn push(
        &mut self,
        rec: &Record<'_>,
        len: usize,
        alloc: &mut dyn BufAlloc,
    ) -> (Place, GroupSeq) {
        let block = self.block;
        let open = self.open.as_mut().expect("the caller opened a group");
        let start = open.len as usize;
        let end = start + len;
        assert!(end <= open.limit as usize, "the caller asked whether the record fits");
        if end > open.buf.len() {
            let grown = (open.buf.len() * 2).max(align_up(end as u32, block) as usize);
            let mut buf = alloc.alloc(grown);
            buf[..start].copy_from_slice(&open.buf[..start]);
            open.buf = buf;
        }
        let place = Place { pos: open.at.pos + start as u32, ..open.at };
        let rest = record::encode(rec, place.segment, place.pos, &mut open.buf[start..end]);
        if let Some(rest) = rest {
            open.combine(start, end, rest);
        }
        open.len = end as u32;
        open.records += 1;
        self.waiting += len;
        (place, open.sequence)
    }

    /// Closes the open group: nothing joins it any more.
    pub fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.end.pos = open.at.pos + align_up(open.len, self.block);
            self.last_len = open.len as usize;
            self.closed.push_back(open);
        }
    }

    /// The next group's write, unless one is in flight or nothing waits. The open group is closed
    /// for it only when `seal`.
    pub fn next_write(&mut self, seal: bool, alloc: &mut dyn BufAlloc) -> Option<(GroupSeq, IoOp)> {
        if self.in_flight.is_some() {
            return None;
        }
        if self.closed.is_empty() && seal {
            self.close();
        }
        let group = self.closed.pop_front()?;
        let len = group.len as usize;
        let padded = align_up(group.len, self.block);
        let body_crc = group.body_crc();
        let mut buf = group.buf;
        if buf.capacity() > ROOMY * padded as usize {
            let mut exact = alloc.alloc(padded as usize);
            exact[GROUP_HEADER_BYTES..len].copy_from_slice(&buf[GROUP_HEADER_BYTES..len]);
            self.keep_buffer(buf);
            buf = exact;
        }
        buf.set_len(padded as usize);
        buf[len..].fill(0);
        let header = GroupHeader {
            segment: group.at.segment,
            pos: group.at.pos,
            run: self.run,
            sequence: group.sequence,
            durable_floor: self.durable,
            previous_crc: self.last_crc,
            body_len: group.len - GROUP_HEADER_BYTES as u32,
            records: group.records,
            body_crc,
        };
        self.last_crc = header.encode(self.seed, &mut buf);
        self.last_run = self.run;
        self.in_flight = Some(InFlight {
            sequence: group.sequence,
            at: group.at,
            len: group.len,
            padded,
            records: group.records,
        });
        let file = file_of(group.at.slot);
        let pos = FilePos(u64::from(group.at.pos));
        Some((group.sequence, IoOp::WriteAt { file, pos, buf, durable: true }))
    }

    /// The group in flight is durable.
    pub fn written(&mut self) -> InFlight {
        let done = self.in_flight.take().expect("a group completes only while one is in flight");
        assert_eq!(done.sequence, self.durable.next(), "groups become durable in sequence");
        self.durable = done.sequence;
        self.waiting -= done.len as usize;
        done
    }

    /// Keeps so many bytes of groups in memory that were written last.
    pub fn set_recent_bytes_max(&mut self, bytes: usize) {
        self.recent_bytes_max = bytes;
        self.forget_recent();
    }

    /// Bytes of written groups in memory.
    pub fn recent_bytes(&self) -> usize {
        self.recent_bytes
    }

    /// A group was written from this buffer.
    pub fn retire(&mut self, group: &InFlight, buf: IoBuf) {
        if buf.capacity() > self.recent_bytes_max {
            return self.keep_buffer(buf);
        }
        self.recent_bytes += buf.capacity();
        self.recent.push_back(Written { at: group.at, len: group.len, buf });
        self.forget_recent();
    }

    fn forget_recent(&mut self) {
        while self.recent_bytes > self.recent_bytes_max
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.buf.capacity();
            self.keep_buffer(oldest.buf);
        }
    }

    /// The encoded record at a location, when its group is in memory: staged, or written lately.
    /// O(log groups in memory).
    pub fn in_memory(&self, at: Location) -> Option<&[u8]> {
        let within = |place: &Place, len: u32| {
            let begins = place.segment == at.segment && place.pos <= at.pos;
            begins && u64::from(at.pos) + u64::from(at.len) <= u64::from(place.pos) + u64::from(len)
        };
        let staged = self.open.iter().chain(self.closed.iter().rev());
        let mut found = staged.filter(|g| within(&g.at, g.len)).map(|g| (g.at, &g.buf));
        let (place, buf) = found.next().or_else(|| {
            let place = (at.segment, at.pos);
            let after = self.recent.partition_point(|w| (w.at.segment, w.at.pos) <= place);
            let w = self.recent.get(after.checked_sub(1)?)?;
            within(&w.at, w.len).then_some((w.at, &w.buf))
        })?;
        let start = (at.pos - place.pos) as usize;
        buf.get(start..start + at.len as usize)
    }

    /// Takes back a buffer for the next groups.
    pub fn keep_buffer(&mut self, mut buf: IoBuf) {
        let capacity = buf.capacity();
        if self.spare.len() < SPARE_MAX
            && (BUF_BYTES_MIN..=2 * GROUP_BYTES_TARGET).contains(&capacity)
        {
            buf.set_len(capacity);
            self.spare.push(buf);
        }
    }

    fn take_buffer(&mut self, want: usize, alloc: &mut dyn BufAlloc) -> IoBuf {
        if let Some(i) = self.spare.iter().position(|b| b.len() >= want && b.len() <= 16 * want) {
            return self.spare.swap_remove(i);
        }
        // A power of two, so that a buffer serves groups of many sizes.
        alloc.alloc(want.next_power_of_two().min(GROUP_BYTES_TARGET.max(want)))
    }
}

#[cfg(test)]
mod tests {
    use ironring_core::checksum::crc32c;
    use ironring_core::io::HeapAlloc;
    use ironring_core::{Offset, PartitionId, SessionId, ShardId, StorageUuid, Term, WallTime};

    use super::*;
    use crate::{Identity, RecordKind};

    #[test]
    fn a_combined_checksum_is_that_of_the_bytes() {
        let mut staging = Staging::new(
            IdentitySeed::new(Identity { storage: StorageUuid(7), shard: ShardId(3), salt: 5 }),
            4096,
            16 << 20,
        );
        let place = Place { segment: SegmentId(9), slot: SlotId(1), pos: 8192 };
        staging.open_group(place, 100, &mut HeapAlloc);
        let large = vec![0xA7; 200 << 10];
        for body in [&b"small"[..], &large, &large[..1], &b"tail"[..], &large[1..], &large] {
            let record = Record {
                kind: RecordKind::Put,
                flags: 0,
                partition: PartitionId(1),
                term: Term(2),
                offset: Offset(3),
                session: SessionId(4),
                sequence: 5,
                time: WallTime(6),
                expires: WallTime(0),
                key: b"key",
                body,
            };
            staging.push(&record, record::encoded_len(&record), &mut HeapAlloc);
            let group = staging.open.as_ref().expect("a group is open");
            let body = &group.buf[GROUP_HEADER_BYTES..group.len as usize];
            assert_eq!(group.body_crc(), crc32c(body));
            let (first, mut at) = (GROUP_HEADER_BYTES, 0);
            while at < body.len() {
                let pos = place.pos + (first + at) as u32;
                let decoded = record::decode(&body[at..], place.segment, pos);
                at += decoded.expect("every record verifies").1;
            }
        }
    }
}
