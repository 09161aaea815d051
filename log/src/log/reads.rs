//! Reading single records.

use ironring_core::io::{IoError, IoOk, IoOp, IoQueue};
use ironring_core::{FilePos, SlotId};

use super::Log;
use crate::format::align_up;
use crate::format::record::{self, RECORD_HEADER_BYTES};
use crate::ops::Purpose;
use crate::segments::file_of;
use crate::status::DamageFinder;
use crate::{Location, LogSink, LogStatus, ReadError, ReadId, Record};

impl Log {
    /// Reads and verifies the record at `at`: one disk read. The answer comes by
    /// [`LogSink::read_done`]. A record that is not durable yet is read when it is. Until the
    /// answer its segment is not freed.
    pub fn read(&mut self, read: ReadId, at: Location, io: &mut IoQueue) {
        self.counters.reads += 1;
        let end = at.pos.checked_add(at.len);
        let Some((slot, end)) = self.segments.find(at.segment).zip(end) else {
            return self.refuse_read(read, at, "the segment is not part of the log");
        };
        let inside = at.pos >= self.config.data_start()
            && end <= self.config.segment_bytes
            && at.len as usize >= RECORD_HEADER_BYTES;
        if !inside {
            return self.refuse_read(read, at, "no record can lie there");
        }
        if (at.segment, end) <= (self.durable_end.segment, self.durable_end.pos) {
            return self.issue_read(read, at, slot, io);
        }
        let staged_end = self.staging.end();
        if (at.segment, end) > (staged_end.segment, staged_end.pos) {
            return self.refuse_read(read, at, "it lies behind the end of the log");
        }
        if let LogStatus::Failed(failure) = &self.status {
            let message = failure.to_string();
            self.answers.push((read, at, ReadError::Io { at, message }));
            return;
        }
        self.parked.push((read, at));
    }

    /// Appends the record at `at` to `out` as nodes send it to each other
    /// ([`crate::format::record::decode_wire`]), when it is in memory: staged, or among the newest
    /// groups ([`Log::keep_recent`]). False: it has to be read.
    pub fn copy_wire(&self, at: Location, out: &mut Vec<u8>) -> bool {
        let Some(bytes) = self.staging.in_memory(at) else { return false };
        let start = out.len();
        out.extend_from_slice(bytes);
        record::unplace(&mut out[start..], at.segment, at.pos);
        true
    }

    /// Bytes the disk reads for the record at `at`.
    #[must_use]
    pub fn read_cost(&self, at: Location) -> u64 {
        u64::from(self.blocks_of(at).1)
    }

    /// Where in the segment's file they begin, and how many bytes they are.
    fn blocks_of(&self, at: Location) -> (u32, u32) {
        let block = self.config.block_bytes;
        let start = at.pos & !(block - 1);
        (start, align_up(at.pos + at.len - start, block))
    }

    /// Keeps about so many bytes of the newest durable groups in memory, for [`Log::copy_wire`].
    pub fn keep_recent(&mut self, bytes: usize) {
        self.staging.set_recent_bytes_max(bytes);
    }

    /// Bytes of memory that takes at present.
    #[must_use]
    pub fn recent_bytes(&self) -> usize {
        self.staging.recent_bytes()
    }

    fn refuse_read(&mut self, read: ReadId, at: Location, detail: &str) {
        self.counters.reads_corrupt += 1;
        self.answers.push((read, at, ReadError::Corrupt { at, detail: detail.to_owned() }));
    }

    fn issue_read(&mut self, read: ReadId, at: Location, slot: SlotId, io: &mut IoQueue) {
        let (start, len) = self.blocks_of(at);
        self.segments.slot_mut(slot).pins += 1;
        self.counters.read_bytes += u64::from(len);
        let op = IoOp::ReadAt { file: file_of(slot), pos: FilePos(u64::from(start)), len };
        self.ops.push(io, Purpose::Read { read, at, slot }, op);
    }

    /// Issues the parked reads whose records are durable by now.
    pub(super) fn unpark_reads(&mut self, io: &mut IoQueue) {
        let mut i = 0;
        while i < self.parked.len() {
            let (read, at) = self.parked[i];
            if (at.segment, at.pos + at.len) > (self.durable_end.segment, self.durable_end.pos) {
                i += 1;
                continue;
            }
            self.parked.swap_remove(i);
            let slot =
                self.segments.find(at.segment).expect("segments that were just written to stay");
            self.issue_read(read, at, slot, io);
        }
    }

    pub(super) fn read_done(
        &mut self,
        read: ReadId,
        at: Location,
        slot: SlotId,
        result: Result<IoOk, IoError>,
        sink: &mut (impl LogSink + ?Sized),
    ) {
        self.segments.slot_mut(slot).pins -= 1;
        let buf = match result {
            Ok(IoOk::Read(buf)) => buf,
            Ok(_) => unreachable!("the driver answers a request with its own kind of result"),
            Err(error) => {
                self.counters.reads_failed += 1;
                // The device may do better next time; the owner decides.
                let segment = self.segments.slot(slot).segment;
                if !self.suspects.contains(&segment) {
                    self.suspects.push(segment);
                }
                let message = error.to_string();
                return sink.read_done(read, at, Err(ReadError::Io { at, message }));
            }
        };
        let offset = (at.pos % self.config.block_bytes) as usize;
        let bytes = &buf[offset..offset + at.len as usize];
        let result = verify(bytes, at);
        if let Err(ReadError::Corrupt { detail, .. }) = &result {
            self.counters.reads_corrupt += 1;
            self.report_damage(DamageFinder::Read, slot, at.pos, detail.clone());
        }
        sink.read_done(read, at, result);
    }

    /// Tells the answers that needed no request.
    pub(super) fn tell_answers(&mut self, sink: &mut (impl LogSink + ?Sized)) {
        for (read, at, error) in std::mem::take(&mut self.answers) {
            sink.read_done(read, at, Err(error));
        }
    }
}

/// The record in `bytes`, which are exactly `at.len` long.
fn verify(bytes: &[u8], at: Location) -> Result<Record<'_>, ReadError> {
    let corrupt = |detail: String| ReadError::Corrupt { at, detail };
    match record::decode(bytes, at.segment, at.pos) {
        Ok((record, len)) if len == at.len as usize => Ok(record),
        Ok((_, len)) => Err(corrupt(format!("a record of {len} bytes instead of {}", at.len))),
        Err(error) => Err(corrupt(error.to_string())),
    }
}
