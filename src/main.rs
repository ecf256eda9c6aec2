//! The binary: the allocator, and everything else in the library.

/// musl's own allocator maps and unmaps memory for every other request: 340 calls and 1.3 ms of a
/// start that finds its volume seeded (`bench/start`).
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() {
    volseed::main();
}
