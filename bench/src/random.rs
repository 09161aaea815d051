//! Lets the distributions of `rand_distr` draw from the project's own seeded generator, so that a
//! seed means the same requests on every machine.

use ironring_core::prng::Prng;
use rand::RngCore;

/// A borrowed [`Prng`] as a `rand` source.
pub struct Source<'a>(pub &'a mut Prng);

impl RngCore for Source<'_> {
    fn next_u32(&mut self) -> u32 {
        (self.0.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, dst: &mut [u8]) {
        self.0.fill(dst);
    }
}

/// The seed of generator thread `thread` in a run seeded with `seed`.
#[must_use]
pub fn thread_seed(seed: u64, thread: usize) -> u64 {
    Prng::new(seed ^ (thread as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).next_u64()
}
