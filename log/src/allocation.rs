//! What heap blocks really take, for memory that is promised in bytes.

/// The largest block jemalloc keeps in slabs; a larger one has pages of its own.
pub(crate) const SLAB_BLOCK_BYTES_MAX: usize = 14 << 10;
/// What jemalloc adds to a block with pages of its own, so that not all begin in the same cache
/// lines.
const PAGE_BYTES: usize = 4 << 10;

/// What an allocation of `bytes` really takes. The rules of jemalloc, the node's allocator: blocks
/// have no header; their sizes are the multiples of 16 to 128, and from there on four for each
/// doubling, so that up to a fifth of a block is not what was asked for.
pub(crate) fn block_bytes(bytes: usize) -> usize {
    let class = size_class(bytes);
    if class > SLAB_BLOCK_BYTES_MAX { class + PAGE_BYTES } else { class }
}

/// The smallest size of jemalloc's that holds `bytes`.
pub(crate) fn size_class(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let doubling = (bytes - 1).checked_ilog2().unwrap_or(0);
    bytes.next_multiple_of((1 << doubling >> 2).max(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_are_those_of_jemalloc() {
        // As `malloc_stats_print` lists them.
        let small = [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512];
        let others = [14 << 10, 16 << 10, 20 << 10, 24 << 10, 28 << 10, 32 << 10, 40 << 10];
        let mut before = 0;
        for class in small {
            assert_eq!((size_class(before + 1), size_class(class)), (class, class));
            before = class;
        }
        for class in others.windows(2) {
            assert_eq!((size_class(class[0] + 1), size_class(class[1])), (class[1], class[1]));
        }
        assert_eq!(block_bytes(0), 0);
        assert_eq!(block_bytes(14 << 10), 14 << 10);
        assert_eq!(block_bytes((1 << 20) + 1), (1 << 20) + (256 << 10) + PAGE_BYTES);
    }
}
