//! The bytes of one simulated file: what survives a power failure, what a reader sees, and the
//! writes in between.
//!
//! Invariant: `live` equals `durable` overlaid with `dirty` in order. A power failure picks, sector
//! by sector, which of the dirty writes reached the medium.

use std::rc::Rc;

use ironring_core::prng::Prng;

/// What a device writes atomically, in bytes.
pub const SECTOR: usize = 512;
const BLOCK: usize = 4096;

type Block = Option<Rc<[u8; BLOCK]>>;

/// What data are compared with: one comparison of memory instead of a look at every byte.
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Bytes of a file, in blocks; a block that holds only zeros is not stored.
#[derive(Clone, Debug, Default)]
pub struct Image {
    len: u64,
    blocks: Vec<Block>,
}

impl Image {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True for an empty file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the file at least this long; new bytes are zero.
    pub fn extend_to(&mut self, len: u64) {
        if len > self.len {
            self.len = len;
            self.blocks
                .resize(usize::try_from(len).expect("files are small").div_ceil(BLOCK), None);
        }
    }

    /// Overwrites `data.len()` bytes at `pos`, growing the file when needed.
    pub fn write(&mut self, pos: u64, data: &[u8]) {
        self.extend_to(pos + data.len() as u64);
        let mut at = usize::try_from(pos).expect("files are small");
        let mut rest = data;
        while !rest.is_empty() {
            let (index, inside) = (at / BLOCK, at % BLOCK);
            let n = rest.len().min(BLOCK - inside);
            let (now, later) = rest.split_at(n);
            put(&mut self.blocks[index], inside, now);
            at += n;
            rest = later;
        }
    }

    /// Takes the blocks at `pos` from another image of the same file, which holds `data` there. Whole
    /// blocks are shared until one of the two changes.
    fn take(&mut self, from: &Image, pos: u64, data: &[u8]) {
        let block = BLOCK as u64;
        if !pos.is_multiple_of(block) || !data.len().is_multiple_of(BLOCK) {
            self.write(pos, data);
            return;
        }
        self.extend_to(pos + data.len() as u64);
        let first = usize::try_from(pos / block).expect("files are small");
        let blocks = first..first + data.len() / BLOCK;
        self.blocks[blocks.clone()].clone_from_slice(&from.blocks[blocks]);
    }

    /// Copies out the bytes at `pos`; what lies past the end reads as zero.
    pub fn read(&self, pos: u64, out: &mut [u8]) {
        let mut at = usize::try_from(pos).expect("files are small");
        let mut rest = out;
        while !rest.is_empty() {
            let (index, inside) = (at / BLOCK, at % BLOCK);
            let n = rest.len().min(BLOCK - inside);
            let (now, later) = rest.split_at_mut(n);
            match self.blocks.get(index) {
                Some(Some(block)) => now.copy_from_slice(&block[inside..inside + n]),
                _ => now.fill(0),
            }
            at += n;
            rest = later;
        }
    }

    /// Inverts one bit.
    pub fn flip(&mut self, pos: u64, bit: u8) {
        let mut byte = [0u8];
        self.read(pos, &mut byte);
        self.write(pos, &[byte[0] ^ (1 << (bit % 8))]);
    }

    /// Positions of the blocks that hold something other than zeros.
    #[must_use]
    pub fn written_blocks(&self) -> Vec<u64> {
        let stored = self.blocks.iter().enumerate().filter(|(_, block)| block.is_some());
        stored.map(|(index, _)| (index * BLOCK) as u64).collect()
    }
}

fn put(block: &mut Block, at: usize, data: &[u8]) {
    let zeros = *data == ZEROS[..data.len()];
    if zeros && (block.is_none() || data.len() == BLOCK) {
        *block = None;
        return;
    }
    if let Ok(whole) = <[u8; BLOCK]>::try_from(data) {
        *block = Some(Rc::new(whole));
        return;
    }
    let bytes = block.get_or_insert_with(|| Rc::new([0; BLOCK]));
    Rc::make_mut(bytes)[at..at + data.len()].copy_from_slice(data);
}

/// A completed write that is not durable yet.
#[derive(Clone, Debug)]
struct Dirty {
    id: u64,
    pos: u64,
    data: Rc<[u8]>,
}

impl Dirty {
    fn end(&self) -> u64 {
        self.pos + self.data.len() as u64
    }

    /// The parts of this write outside `from..to`.
    fn without(&self, from: u64, to: u64) -> impl Iterator<Item = Dirty> {
        let part = |a: u64, b: u64| {
            let range = (a - self.pos) as usize..(b - self.pos) as usize;
            Dirty { id: self.id, pos: a, data: self.data[range].into() }
        };
        let before = (self.pos < from).then(|| part(self.pos, from.min(self.end())));
        let after = (self.end() > to).then(|| part(to.max(self.pos), self.end()));
        before.into_iter().chain(after)
    }
}

/// How much of a write reaches the medium when the power fails under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Nothing.
    Nothing,
    /// Everything.
    All,
    /// The first so many sectors.
    Prefix(usize),
    /// A random half of the sectors.
    Scattered,
}

impl Reached {
    /// Draws one for a write of `data`. A prefix ends before the zeros that pad a block, where
    /// it would make no difference.
    pub fn draw(rng: &mut Prng, data: &[u8]) -> Reached {
        match rng.below(10) {
            0..=2 => Reached::All,
            3..=5 => Reached::Nothing,
            6..=8 => {
                let filled = data.chunks(SECTOR).rposition(|s| s.iter().any(|b| *b != 0));
                Reached::Prefix(rng.below(filled.unwrap_or(0) as u64 + 1) as usize)
            }
            _ => Reached::Scattered,
        }
    }

    /// Calls `each` with the index of every sector that reaches the medium.
    fn sectors(self, rng: &mut Prng, count: usize, mut each: impl FnMut(usize)) {
        for sector in 0..count {
            let reaches = match self {
                Reached::Nothing => false,
                Reached::All => true,
                Reached::Prefix(n) => sector < n,
                Reached::Scattered => rng.chance(1, 2),
            };
            if reaches {
                each(sector);
            }
        }
    }
}

/// One file's bytes, by how durable they are.
#[derive(Clone, Debug, Default)]
pub struct Inode {
    durable: Image,
    live: Image,
    dirty: Vec<Dirty>,
    next_write: u64,
}

impl Inode {
    /// What a reader sees.
    #[must_use]
    pub fn live(&self) -> &Image {
        &self.live
    }

    /// What survives a power failure for certain.
    #[must_use]
    pub fn durable(&self) -> &Image {
        &self.durable
    }

    /// A mark that [`Inode::sync`] takes: the writes completed so far.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.next_write
    }

    /// True when a power failure could change the file.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// A completed write, durable or not.
    pub fn write(&mut self, pos: u64, data: &[u8], durable: bool) {
        self.live.write(pos, data);
        if durable {
            self.durable.take(&self.live, pos, data);
            let (from, to) = (pos, pos + data.len() as u64);
            self.dirty = self.dirty.iter().flat_map(|d| d.without(from, to)).collect();
        } else {
            self.next_write += 1;
            self.dirty.push(Dirty { id: self.next_write, pos, data: data.into() });
        }
    }

    /// A write of which only some sectors reached the device; the rest keeps what was there.
    pub fn write_torn(&mut self, rng: &mut Prng, pos: u64, data: &[u8], reached: Reached) {
        reached.sectors(rng, data.len() / SECTOR, |sector| {
            let at = sector * SECTOR;
            self.write(pos + at as u64, &data[at..at + SECTOR], false);
        });
    }

    /// Makes the writes before `mark` durable.
    pub fn sync(&mut self, mark: u64) {
        for write in self.dirty.iter().filter(|d| d.id <= mark) {
            self.durable.write(write.pos, &write.data);
        }
        self.dirty.retain(|d| d.id > mark);
    }

    /// A failed sync: the system believes the writes before `mark` clean and forgets them, whether
    /// or not they reached the medium (Rebello et al., ATC'20).
    pub fn fail_sync(&mut self, rng: &mut Prng, mark: u64) {
        let (covered, later): (Vec<_>, Vec<_>) = self.dirty.drain(..).partition(|d| d.id <= mark);
        self.settle(rng, covered);
        self.live = self.durable.clone();
        for write in &later {
            self.live.write(write.pos, &write.data);
        }
        self.dirty = later;
    }

    /// Power failure: every dirty sector is on the medium or not.
    pub fn power_loss(&mut self, rng: &mut Prng) {
        let dirty = std::mem::take(&mut self.dirty);
        self.settle(rng, dirty);
        self.live = self.durable.clone();
    }

    fn settle(&mut self, rng: &mut Prng, writes: Vec<Dirty>) {
        for write in writes {
            let sectors = write.data.len() / SECTOR;
            let reached = Reached::draw(rng, &write.data);
            // The new length may be journaled although the bytes are not: they read as zeros.
            if rng.chance(1, 4) {
                self.durable.extend_to(write.end());
            }
            let durable = &mut self.durable;
            reached.sectors(rng, sectors, |sector| {
                let at = sector * SECTOR;
                durable.write(write.pos + at as u64, &write.data[at..at + SECTOR]);
            });
        }
    }

    /// Inverts one bit on the medium, silently.
    pub fn flip(&mut self, pos: u64, bit: u8) {
        self.live.flip(pos, bit);
        self.durable.flip(pos, bit);
    }
}
