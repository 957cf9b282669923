//! The C library's heap.

/// Gives the heap's free pages back to the kernel: for long-lived processes that go idle after a burst of work.
pub fn trim() {
    // SAFETY: malloc_trim takes no pointer and is safe to call from any thread.
    unsafe { libc::malloc_trim(0) };
}
