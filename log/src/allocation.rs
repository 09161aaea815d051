//! What heap blocks really take, for memory that is promised in bytes.

/// What an allocator adds to a block: glibc's chunk header.
pub(crate) const ALLOCATOR_HEADER_BYTES: usize = 8;

/// What an allocation of `bytes` really takes: header, rounding to 16, at least 32. The rules of
/// glibc's malloc on 64-bit machines; jemalloc's size classes round up by a tenth on average.
pub(crate) fn block_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + ALLOCATOR_HEADER_BYTES).next_multiple_of(16).max(32) }
}
