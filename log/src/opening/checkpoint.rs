//! Finds a checkpoint that verifies and restores it: the newest, else the older one.
//!
//! A file is read twice: once to verify all of it, once to hand its pieces out, so that the owner
//! never holds half of a checkpoint that turned out to be damaged.

use ironring_core::io::{FileName, IoOk, IoOp};

use super::{Cx, Done};
use crate::format::checkpoint::{CheckpointError, CheckpointHeader, Frame, FrameReader};
use crate::format::superblock::{CheckpointRef, Superblock};
use crate::read_ahead::ReadAhead;
use crate::{Identity, LogFailure, LogSink};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Open,
    Verify,
    Restore,
    /// Reads that are not wanted any more end.
    Drain {
        restored: bool,
    },
    Done,
}

/// Tag of requests that are not reads.
const OTHER: u64 = u64::MAX;

pub(super) struct Restoring {
    identity: Identity,
    block: u64,
    candidates: [CheckpointRef; 2],
    /// The candidate tried at present.
    current: usize,
    pass: Pass,
    len: u64,
    reader: ReadAhead,
    frames: FrameReader,
    in_flight: usize,
    bytes: u64,
    bad: Vec<String>,
}

impl Restoring {
    pub fn begin(superblock: &Superblock, identity: Identity, cx: &mut Cx<'_>) -> Restoring {
        let candidates = [superblock.newest, superblock.older];
        let mut restoring = Restoring {
            identity,
            block: u64::from(superblock.block_bytes),
            candidates,
            current: 0,
            pass: Pass::Done,
            len: 0,
            reader: ReadAhead::new(),
            frames: frames_of(identity, &candidates[0]),
            in_flight: 0,
            bytes: 0,
            bad: Vec::new(),
        };
        restoring.try_candidate(cx);
        restoring
    }

    pub fn bytes_done(&self) -> u64 {
        self.bytes
    }

    /// Every byte is read twice.
    pub fn bytes_total(&self) -> u64 {
        2 * self.len
    }

    pub fn bad(&self) -> u64 {
        self.bad.len() as u64
    }

    /// The checkpoint to replay from, when it is restored.
    pub fn restored(&self) -> Option<CheckpointRef> {
        (self.pass == Pass::Done).then(|| self.candidates[self.current])
    }

    fn push(&mut self, tag: u64, op: IoOp, cx: &mut Cx<'_>) {
        cx.push(tag, op);
        self.in_flight += 1;
    }

    fn try_candidate(&mut self, cx: &mut Cx<'_>) {
        let candidate = self.candidates[self.current];
        self.bytes = 0;
        if candidate.number == 0 {
            self.pass = Pass::Done;
            return;
        }
        self.pass = Pass::Open;
        self.push(OTHER, IoOp::Open { file: FileName::Checkpoint(candidate.number) }, cx);
    }

    fn begin_pass(&mut self, pass: Pass, cx: &mut Cx<'_>) {
        let candidate = self.candidates[self.current];
        self.pass = pass;
        self.frames = frames_of(self.identity, &candidate);
        self.reader.restart(FileName::Checkpoint(candidate.number), 0, self.len);
        self.read_more(cx);
    }

    fn read_more(&mut self, cx: &mut Cx<'_>) {
        while let Some((number, op)) = self.reader.next_request() {
            self.push(number, op, cx);
        }
    }

    pub fn on_done(
        &mut self,
        done: Done,
        cx: &mut Cx<'_>,
        sink: &mut (impl LogSink + ?Sized),
    ) -> Result<(), LogFailure> {
        self.in_flight -= 1;
        match self.pass {
            Pass::Open => match done.result {
                // The length must be block-aligned, as it was written; what is cut off is not ours.
                Ok(IoOk::Opened(len)) => {
                    self.len = len - len % self.block;
                    self.begin_pass(Pass::Verify, cx);
                    if self.len == 0 {
                        self.give_up(CheckpointError::Unfinished.to_string(), cx)?;
                    }
                }
                Ok(_) => unreachable!("the driver answers a request with its own kind of result"),
                Err(error) => self.reject(error.to_string(), cx)?,
            },
            Pass::Verify | Pass::Restore if !self.reader.wants(done.tag) => {}
            Pass::Verify => match done.result {
                Ok(IoOk::Read(buf)) => {
                    self.reader.arrived(done.tag, buf);
                    match self.use_chunks(None) {
                        Ok(Used::End) => self.begin_pass(Pass::Restore, cx),
                        Ok(Used::More) => self.read_more(cx),
                        Err(Trouble::Frames(error)) => self.give_up(error.to_string(), cx)?,
                        Err(Trouble::Owner(failure)) => return Err(failure),
                    }
                }
                Ok(_) => unreachable!("the driver answers a request with its own kind of result"),
                Err(error) => self.give_up(error.to_string(), cx)?,
            },
            Pass::Restore => {
                let number = done.tag;
                if let IoOk::Read(buf) = done.ok()? {
                    self.reader.arrived(number, buf);
                }
                match self.use_chunks(Some(&mut |piece| sink.restore(piece))) {
                    Ok(Used::End) => {
                        self.pass = Pass::Drain { restored: true };
                        self.close(cx);
                    }
                    Ok(Used::More) => self.read_more(cx),
                    Err(Trouble::Owner(failure)) => return Err(failure),
                    Err(Trouble::Frames(error)) => {
                        let number = self.candidates[self.current].number;
                        let what =
                            format!("checkpoint {number} changed while it was read: {error}");
                        return Err(LogFailure::Checkpoints(what));
                    }
                }
            }
            Pass::Drain { restored } => {
                // The file's close may fail without harm: nothing was written to it.
                if self.in_flight == 0 {
                    if restored {
                        self.pass = Pass::Done;
                    } else {
                        self.next_candidate(cx)?;
                    }
                }
            }
            Pass::Done => {}
        }
        Ok(())
    }

    fn use_chunks(&mut self, mut restore: Option<RestorePiece<'_>>) -> Result<Used, Trouble> {
        while let Some(chunk) = self.reader.take() {
            self.bytes += chunk.len() as u64;
            self.frames.feed(&chunk);
            loop {
                match self.frames.next_frame().map_err(Trouble::Frames)? {
                    Frame::End => return Ok(Used::End),
                    Frame::NeedMore => break,
                    Frame::Piece(piece) => {
                        if let Some(restore) = restore.as_mut() {
                            restore(piece).map_err(|error| Trouble::Owner(error.into()))?;
                        }
                    }
                }
            }
        }
        if self.reader.exhausted() {
            return Err(Trouble::Frames(CheckpointError::Unfinished));
        }
        Ok(Used::More)
    }

    fn close(&mut self, cx: &mut Cx<'_>) {
        let file = FileName::Checkpoint(self.candidates[self.current].number);
        self.reader.restart(file, 0, 0);
        self.push(OTHER, IoOp::Close { file }, cx);
    }

    /// The open candidate is not usable.
    fn give_up(&mut self, why: String, cx: &mut Cx<'_>) -> Result<(), LogFailure> {
        self.note(why);
        self.pass = Pass::Drain { restored: false };
        self.close(cx);
        Ok(())
    }

    /// The candidate could not be opened.
    fn reject(&mut self, why: String, cx: &mut Cx<'_>) -> Result<(), LogFailure> {
        self.note(why);
        self.next_candidate(cx)
    }

    fn note(&mut self, why: String) {
        let number = self.candidates[self.current].number;
        self.bad.push(format!("checkpoint {number}: {why}"));
    }

    fn next_candidate(&mut self, cx: &mut Cx<'_>) -> Result<(), LogFailure> {
        if self.current == 1 {
            return Err(LogFailure::Checkpoints(self.bad.join("; ")));
        }
        self.current = 1;
        self.try_candidate(cx);
        Ok(())
    }
}

type RestorePiece<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), crate::RestoreError>;

enum Used {
    More,
    End,
}

enum Trouble {
    Frames(CheckpointError),
    Owner(LogFailure),
}

fn frames_of(identity: Identity, candidate: &CheckpointRef) -> FrameReader {
    FrameReader::new(CheckpointHeader {
        identity,
        number: candidate.number,
        start: candidate.start,
    })
}
