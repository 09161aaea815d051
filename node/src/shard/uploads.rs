//! Large values on their way into the log, a chunk at a time so that nobody else waits for them.

use std::collections::VecDeque;

use ironring_core::limits::CHUNK_BYTES;
use ironring_core::{ErrorCode, Now, Offset, PartitionId, SessionId, WallTime};
use ironring_log::{AppendError, Priority, RecordKind};
use ironring_net::message::{Condition, WriteOptions};

use super::acks::Answer;
use super::event::Effects;
use super::keys::{Draft, holds};
use super::memory::fits;
use super::names::{ChunkedBody, chunk_key};
use super::{Ask, Shard};

/// Most large values on their way at a time, however small they are; more are refused as overload.
pub const UPLOADS_MAX: usize = 1024;
/// A chunk is appended only while the log has less than this waiting, so that a small write behind
/// it waits for one chunk at most.
const LOG_WAITING_BYTES_MAX: usize = 2 * CHUNK_BYTES;

/// What a put of a large value asks for besides key and value.
#[derive(Clone, Copy, Debug)]
pub(super) struct LargePut {
    pub options: WriteOptions,
    pub condition: Condition,
    pub expires: WallTime,
}

#[derive(Debug)]
struct Upload {
    ask: Ask,
    partition: PartitionId,
    put: LargePut,
    key: Vec<u8>,
    value: Vec<u8>,
    /// Offset of the first chunk, once there is one.
    id: Offset,
    chunks: u32,
    written: usize,
}

/// The uploads of a shard, oldest first.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    queue: VecDeque<Upload>,
    bytes: usize,
}

impl Uploads {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of the values on their way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Shard {
    #[expect(clippy::too_many_arguments, reason = "the fields of one request, used once")]
    pub(super) fn begin_upload(
        &mut self,
        now: Now,
        ask: Ask,
        partition: PartitionId,
        put: LargePut,
        key: &[u8],
        value: &[u8],
        fx: &mut Effects,
    ) {
        let full = !fits(self.uploads.bytes, value.len(), self.request_bytes_max());
        if full || self.uploads.queue.len() >= UPLOADS_MAX {
            let why = "too many large values are on their way";
            return self.refuse(ask.origin, ErrorCode::Overloaded, 20, why, fx);
        }
        if self.fixed_memory_bytes() + value.len() > self.memory_limit() {
            let why = "the memory ceiling leaves no room for a value of this size";
            return self.refuse(ask.origin, ErrorCode::MemoryFull, 0, why, fx);
        }
        if Shard::in_session(&put.options) {
            let sessions = &mut self.models.partition(partition).sessions;
            sessions.begin(put.options.session, put.options.sequence);
        }
        self.uploads.bytes += value.len();
        self.uploads.queue.push_back(Upload {
            ask,
            partition,
            put,
            key: key.to_vec(),
            value: value.to_vec(),
            id: Offset::NONE,
            chunks: 0,
            written: 0,
        });
        self.advance_uploads(now, fx);
    }

    /// Appends chunks while the log keeps up. Uploads take turns, so none waits for another.
    pub(super) fn advance_uploads(&mut self, now: Now, fx: &mut Effects) {
        for _ in 0..self.uploads.queue.len() {
            let late = self.uploads.queue.front().is_some_and(|u| u.ask.deadline <= now.mono);
            if !late && self.log.waiting_bytes() >= LOG_WAITING_BYTES_MAX {
                return;
            }
            let Some(mut upload) = self.uploads.queue.pop_front() else { return };
            if upload.ask.deadline <= now.mono {
                self.uploads.bytes -= upload.value.len();
                self.abandon(now, &upload);
                let why = "the deadline passed before all of the value was written";
                self.refuse(upload.ask.origin, ErrorCode::DeadlineExceeded, 0, why, fx);
                continue;
            }
            match self.next_chunk(now, &mut upload) {
                Ok(true) => {
                    self.uploads.bytes -= upload.value.len();
                    self.finish_upload(now, upload, fx);
                }
                Ok(false) => self.uploads.queue.push_back(upload),
                Err(AppendError::Overloaded) => {
                    self.uploads.queue.push_back(upload);
                    return;
                }
                Err(error) => {
                    self.uploads.bytes -= upload.value.len();
                    self.abandon(now, &upload);
                    self.refuse_append(upload.ask, error, fx);
                }
            }
        }
    }

    /// Appends one chunk; true when it was the last.
    fn next_chunk(&mut self, now: Now, upload: &mut Upload) -> Result<bool, AppendError> {
        let end = upload.value.len().min(upload.written + CHUNK_BYTES);
        // The id is the offset the first chunk gets: the partition's log end.
        let id = match upload.id {
            Offset::NONE => self.models.peek(upload.partition).log_end,
            id => id,
        };
        let key = chunk_key(id, upload.chunks);
        let draft = Draft {
            kind: RecordKind::Chunk,
            flags: 0,
            session: SessionId::NONE,
            sequence: 0,
            expires: WallTime(0),
            key: &key,
            body: &upload.value[upload.written..end],
        };
        let (_, offset) = self.append(now, upload.partition, &draft, Priority::User)?;
        assert!(upload.chunks > 0 || offset == id, "the first chunk names the upload");
        upload.id = id;
        upload.chunks += 1;
        upload.written = end;
        Ok(end == upload.value.len())
    }

    /// All chunks are staged: the record that makes them a value, if the condition still holds.
    fn finish_upload(&mut self, now: Now, upload: Upload, fx: &mut Effects) {
        let Upload { ask, partition, put, .. } = upload;
        let seen = self.current_version(now, partition, &upload.key);
        if !holds(put.condition, seen) {
            self.abandon(now, &upload);
            return self.condition_failed(now, ask, &put.options, partition, seen, fx);
        }
        let body = ChunkedBody {
            upload: upload.id,
            chunks: upload.chunks,
            value_bytes: upload.value.len() as u64,
        }
        .encode();
        let draft = Draft {
            kind: RecordKind::PutChunked,
            flags: 0,
            session: put.options.session,
            sequence: put.options.sequence,
            expires: put.expires,
            key: &upload.key,
            body: &body,
        };
        match self.append(now, partition, &draft, Priority::Reserve) {
            Ok((_, offset)) => {
                self.end_in_session(&upload);
                let answer = Answer::Receipt(self.receipt(&put.options, partition, offset));
                let place = (partition, offset);
                self.acknowledge_write(now, ask, put.options.durability, place, answer, fx);
            }
            Err(error) => {
                self.abandon(now, &upload);
                self.refuse_append(ask, error, fx);
            }
        }
    }

    /// Lets go of an upload that will not become a value. Other replicas have its chunks too: the
    /// record says so to all. Where it does not fit, the next term's first record ends the upload.
    fn abandon(&mut self, now: Now, upload: &Upload) {
        self.end_in_session(upload);
        if upload.chunks == 0 {
            return;
        }
        let key = chunk_key(upload.id, upload.chunks);
        let draft = Draft {
            kind: RecordKind::UploadAbort,
            flags: 0,
            session: SessionId::NONE,
            sequence: 0,
            expires: WallTime(0),
            key: &key,
            body: &[],
        };
        let _ = self.append(now, upload.partition, &draft, Priority::Reserve);
    }

    /// This replica leads the partition no more: nothing more can be written for its uploads.
    pub(super) fn abandon_uploads(&mut self, partition: PartitionId, fx: &mut Effects) {
        let (gone, kept) =
            self.uploads.queue.drain(..).partition(|upload| upload.partition == partition);
        self.uploads.queue = kept;
        let gone: VecDeque<Upload> = gone;
        for upload in gone {
            self.uploads.bytes -= upload.value.len();
            self.end_in_session(&upload);
            let why = "another replica leads by now; nothing was written";
            self.refuse(upload.ask.origin, ErrorCode::NotLeader, 0, why, fx);
        }
    }

    fn end_in_session(&mut self, upload: &Upload) {
        let options = upload.put.options;
        if Shard::in_session(&options) {
            let sessions = &mut self.models.partition(upload.partition).sessions;
            sessions.end(options.session, options.sequence);
        }
    }
}
