//! The `ironring` binary: server and tool.

/// jemalloc, for its huge pages: the index and the cache are read at random, and under a hypervisor
/// each miss of the TLB walks two page tables. Measured with gets of 1 KiB, 64 connections x 16:
/// glibc 2.5 us of CPU each, jemalloc 2.3, with huge pages 2.2 or less.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc when it starts; the environment's `_RJEM_MALLOC_CONF` goes before it.
#[expect(unsafe_code, reason = "the name is how jemalloc finds it")]
// SAFETY: nothing else has this name; jemalloc expects a pointer to a string that ends with a zero.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_SETTINGS: Option<&'static u8> = Some(&b"thp:always,metadata_thp:auto\0"[0]);

fn main() -> std::process::ExitCode {
    ironring_node::cli::main()
}
