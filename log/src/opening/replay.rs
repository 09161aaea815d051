//! Replays groups from a checkpoint's start to the end of the log, and looks behind the end.
//!
//! Chunks arrive in file order; a group that straddles chunks is put together in `window`. The
//! cases are those of the table in [`super::tail`].

use ironring_core::io::{IoBuf, IoOp};
use ironring_core::{GroupSeq, SegmentId, SlotId};

use super::tail::{Found, Later};
use crate::LogSink;
use crate::format::IdentitySeed;
use crate::format::group::{GROUP_HEADER_BYTES, GroupError, GroupHeader, GroupRecords};
use crate::read_ahead::ReadAhead;
use crate::segments::file_of;
use crate::staging::Place;

/// What never changes during a replay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub seed: IdentitySeed,
    pub block: u32,
    pub segment_bytes: u32,
    pub data_start: u32,
    pub scan_bytes: u32,
}

/// Where the log ends and what was seen behind it.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// Behind the last valid group.
    pub end: Place,
    /// Where group k was looked for (the place that decided).
    pub looked: Place,
    /// k.
    pub missing: GroupSeq,
    /// Header checksum and run of group k-1.
    pub last_crc: u32,
    pub last_run: u32,
    pub found: Found,
    pub later: Option<Later>,
    /// Segments that hold groups: id, first group, end of the last.
    pub used: Vec<(SlotId, GroupSeq, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Replay,
    Scan,
}

#[derive(Debug)]
pub(crate) struct Replay {
    layout: Layout,
    segments: Vec<(SegmentId, SlotId)>,
    current: usize,
    reader: ReadAhead,
    window: Vec<u8>,
    /// Bytes of `window` that were looked at.
    at: usize,
    /// File position of `window[at]`.
    pos: u32,
    /// Where reading of the current segment stops.
    stop: u32,
    mode: Mode,
    next: GroupSeq,
    last_crc: u32,
    last_run: u32,
    end: Place,
    /// The place that was looked at for `next` in the segment of the last group.
    looked: Place,
    found: Found,
    later: Option<Later>,
    used: Vec<(SlotId, GroupSeq, u32)>,
    pub groups: u64,
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes of groups with records that were replayed.
    pub group_bytes: u64,
}

/// What the replay wants after a step.
pub(crate) enum Next {
    /// More chunks.
    Wait,
    /// It is over.
    Ended(Box<Ended>),
}

impl Replay {
    /// Begins at `pos` of the first of `segments` (in log order), expecting group `next` behind a
    /// group whose header had checksum `last_crc` and run `last_run`.
    pub fn new(
        layout: Layout,
        segments: Vec<(SegmentId, SlotId)>,
        pos: u32,
        next: GroupSeq,
        (last_crc, last_run): (u32, u32),
    ) -> Replay {
        let (segment, slot) = *segments.first().expect("the checkpoint's segment is in the table");
        let place = Place { segment, slot, pos };
        let mut reader = ReadAhead::new();
        reader.restart(file_of(slot), u64::from(pos), u64::from(layout.segment_bytes));
        Replay {
            layout,
            segments,
            current: 0,
            reader,
            window: Vec::new(),
            at: 0,
            pos,
            stop: layout.segment_bytes,
            mode: Mode::Replay,
            next,
            last_crc,
            last_run,
            end: place,
            looked: place,
            found: Found::SegmentEnd,
            later: None,
            used: Vec::new(),
            groups: 0,
            records: 0,
            bytes: 0,
            group_bytes: 0,
        }
    }

    pub fn next_request(&mut self) -> Option<(u64, IoOp)> {
        self.reader.next_request()
    }

    /// Bytes there are to read at most.
    pub fn bytes_total(&self) -> u64 {
        self.segments.len() as u64 * u64::from(self.layout.segment_bytes)
    }

    /// True when the failure of read `number` matters.
    pub fn wants(&self, number: u64) -> bool {
        self.reader.wants(number)
    }

    pub fn arrived(&mut self, number: u64, buf: IoBuf) {
        self.reader.arrived(number, buf);
    }

    /// Uses the chunks that are there.
    pub fn advance(&mut self, sink: &mut (impl LogSink + ?Sized)) -> Next {
        loop {
            let need_more = match self.mode {
                Mode::Replay => self.replay_window(sink),
                Mode::Scan => self.scan_window(),
            };
            if need_more && let Some(chunk) = self.reader.take() {
                self.window.drain(..self.at);
                self.at = 0;
                self.window.extend_from_slice(&chunk);
                self.bytes += chunk.len() as u64;
                continue;
            }
            if need_more && !self.reader.exhausted() {
                return Next::Wait;
            }
            if (need_more || self.pos >= self.stop)
                && let Some(ended) = self.next_segment()
            {
                return Next::Ended(Box::new(ended));
            }
        }
    }

    /// Goes on in the next segment; `None` when there was one.
    fn next_segment(&mut self) -> Option<Ended> {
        let fatal = matches!(self.found, Found::Chain(_) | Found::BadRecord(_));
        self.current += 1;
        let next = self.segments.get(self.current).copied();
        let Some((_, slot)) = next.filter(|_| !fatal) else {
            return Some(Ended {
                end: self.end,
                looked: self.looked,
                missing: self.next,
                last_crc: self.last_crc,
                last_run: self.last_run,
                found: self.found.clone(),
                later: self.later,
                used: std::mem::take(&mut self.used),
            });
        };
        let layout = self.layout;
        // Until a group is found here only the beginning matters. The position was decided by the
        // first segment in which k could be; a later segment's first place is tried for k as well.
        self.stop = (layout.data_start + layout.scan_bytes).min(layout.segment_bytes);
        self.window.clear();
        self.at = 0;
        self.pos = layout.data_start;
        self.mode = Mode::Replay;
        self.reader.restart(file_of(slot), u64::from(self.pos), u64::from(self.stop));
        None
    }

    fn here(&self) -> Place {
        let (segment, slot) = self.segments[self.current];
        Place { segment, slot, pos: self.pos }
    }

    fn have(&self) -> usize {
        self.window.len() - self.at
    }

    fn step(&mut self, bytes: u32) {
        self.at += bytes as usize;
        self.pos += bytes;
    }

    /// Replays whole groups from the window. True: more bytes are needed.
    fn replay_window(&mut self, sink: &mut (impl LogSink + ?Sized)) -> bool {
        while self.mode == Mode::Replay && self.pos < self.layout.segment_bytes {
            if self.have() < self.layout.block as usize {
                return true;
            }
            let bytes = &self.window[self.at..];
            let here = self.here();
            let header = match GroupHeader::decode(bytes, self.layout.seed) {
                Ok((header, _)) if (header.segment, header.pos) != (here.segment, here.pos) => {
                    self.stop_replay(Found::Nothing);
                    break;
                }
                Ok(header) => header,
                Err(GroupError::NoMagic) => {
                    self.stop_replay(Found::Nothing);
                    break;
                }
                Err(error) => {
                    self.stop_replay(Found::Damaged(error.to_string()));
                    break;
                }
            };
            if let Some(found) = self.misfit(&header.0) {
                self.stop_replay(found);
                break;
            }
            let padded = header.0.padded_len(self.layout.block);
            if u64::from(self.pos) + u64::from(padded) > u64::from(self.layout.segment_bytes) {
                let what = format!("a group of {padded} bytes does not end in its segment");
                self.stop_replay(Found::Chain(what));
                break;
            }
            if self.have() < padded as usize {
                self.read_on(padded);
                return true;
            }
            if let Err(found) = self.replay_group(header, padded, sink) {
                self.stop_replay(found);
            }
        }
        false
    }

    /// Why a valid header at the right place is not group `next`.
    fn misfit(&self, header: &GroupHeader) -> Option<Found> {
        if header.run < self.last_run {
            return Some(Found::LeftOver);
        }
        if header.sequence > self.next && self.pos == self.layout.data_start {
            // A later group at the beginning of a later segment is evidence, weighed by its floor.
            return Some(Found::Nothing);
        }
        if header.sequence != self.next || header.previous_crc != self.last_crc {
            return Some(Found::Chain(format!(
                "group {} (run {}, after {:#010x}) is there instead of {} (run {} or later, after \
                 {:#010x})",
                header.sequence,
                header.run,
                header.previous_crc,
                self.next,
                self.last_run,
                self.last_crc
            )));
        }
        None
    }

    /// A group reaches beyond where reading was to stop.
    fn read_on(&mut self, padded: u32) {
        let need = self.pos + padded;
        if need > self.stop {
            self.resume_reading();
        }
    }

    /// Reads the segment to its end after all: it holds groups.
    fn resume_reading(&mut self) {
        if self.stop < self.layout.segment_bytes {
            self.stop = self.layout.segment_bytes;
            self.reader.extend_to(u64::from(self.stop));
        }
    }

    fn replay_group(
        &mut self,
        (header, crc): (GroupHeader, u32),
        padded: u32,
        sink: &mut (impl LogSink + ?Sized),
    ) -> Result<(), Found> {
        let here = self.here();
        let body_end = self.at + GROUP_HEADER_BYTES + header.body_len as usize;
        let body = &self.window[self.at + GROUP_HEADER_BYTES..body_end];
        header.verify_body(body).map_err(|error| Found::Damaged(error.to_string()))?;
        let mut records = 0;
        for item in GroupRecords::verified(body, here.segment, here.pos + GROUP_HEADER_BYTES as u32)
        {
            match item {
                Ok((at, record)) => sink.replay(at, header.sequence, &record),
                Err((pos, error)) => {
                    return Err(Found::BadRecord(format!("record at byte {pos}: {error}")));
                }
            }
            records += 1;
        }
        if records != header.records {
            let what = format!("{records} records instead of {}", header.records);
            return Err(Found::BadRecord(what));
        }
        self.groups += 1;
        self.records += u64::from(records);
        if records > 0 {
            self.group_bytes += u64::from(padded);
        }
        self.next = header.sequence.next();
        (self.last_crc, self.last_run) = (crc, header.run);
        self.found = Found::SegmentEnd;
        self.later = None;
        self.step(padded);
        self.end = self.here();
        self.looked = self.end;
        match self.used.last_mut() {
            Some((slot, _, end)) if *slot == here.slot => *end = self.pos,
            _ => self.used.push((here.slot, header.sequence, self.pos)),
        }
        self.resume_reading();
        Ok(())
    }

    /// Group `next` is not here: from now on only later groups are looked for.
    fn stop_replay(&mut self, found: Found) {
        let here = self.here();
        let layout = self.layout;
        self.mode = Mode::Scan;
        let first_place = here.segment == self.end.segment && here.pos == self.end.pos;
        // Damage in a later segment outranks an empty place in the segment before.
        let empty = matches!(self.found, Found::SegmentEnd | Found::Nothing | Found::LeftOver);
        let outranks = match found {
            Found::Chain(_) | Found::BadRecord(_) => true,
            Found::Damaged(_) => empty,
            _ => false,
        };
        if first_place || outranks {
            self.found = found;
            self.looked = here;
        }
        self.stop = (here.pos.saturating_add(layout.scan_bytes)).min(layout.segment_bytes);
        self.reader.stop_at(u64::from(self.stop));
    }

    /// Looks for headers of later groups in the window. True: more bytes are needed.
    fn scan_window(&mut self) -> bool {
        while self.pos < self.stop {
            if self.have() < self.layout.block as usize {
                return true;
            }
            let here = self.here();
            if let Ok((header, _)) = GroupHeader::decode(&self.window[self.at..], self.layout.seed)
                && (header.segment, header.pos) == (here.segment, here.pos)
                && header.run >= self.last_run
                && header.sequence > self.next
                && self.later.is_none_or(|later| header.durable_floor > later.durable_floor)
            {
                self.later =
                    Some(Later { sequence: header.sequence, durable_floor: header.durable_floor });
            }
            self.step(self.layout.block);
        }
        false
    }
}
