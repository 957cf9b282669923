//! The C library's heap.

/// Gives the heap's free pages back to the kernel: for long-lived processes that go idle after a burst of work.
pub fn trim() {
    // SAFETY: malloc_trim takes no pointer and is safe to call from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Takes the pages of constant data out of this process's memory: for what is read once and rarely again. They come back from the executable when
/// they are touched.
pub fn forget(constant: &'static [u8]) {
    const PAGE_BYTES: usize = 4096;
    let start = constant.as_ptr().addr().next_multiple_of(PAGE_BYTES);
    let end = (constant.as_ptr().addr() + constant.len()) / PAGE_BYTES * PAGE_BYTES;
    if start < end && is_constant_of_a_file(start, end) {
        // SAFETY: only whole pages inside of the slice are named, of a mapping that nobody can write and that has a file behind it: dropped pages
        // are read from there again, so this changes nothing that can be seen.
        unsafe { libc::madvise(constant.as_ptr().with_addr(start).cast_mut().cast(), end - start, libc::MADV_DONTNEED) };
    }
}

/// Whether a range is mapped from a file, and read-only: a slice that lives for ever may also be leaked memory, which would be gone.
fn is_constant_of_a_file(start: usize, end: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let range = fields.next().and_then(|range| range.split_once('-'));
        let bounds = range.and_then(|(low, high)| Some((usize::from_str_radix(low, 16).ok()?, usize::from_str_radix(high, 16).ok()?)));
        let constant = fields.next() == Some("r--p") && fields.nth(2).is_some_and(|inode| inode != "0");
        constant && bounds.is_some_and(|(low, high)| low <= start && end <= high)
    })
}

#[cfg(test)]
mod tests {
    static TEXT: [u8; 64 * 1024] = [7; 64 * 1024];

    #[test]
    fn forgotten_constants_read_as_before() {
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let before = sum(&TEXT);
        super::forget(&TEXT);
        assert_eq!(sum(&TEXT), before);
    }

    #[test]
    fn leaked_memory_is_left_alone() {
        let leaked: &'static [u8] = vec![7; 64 * 1024].leak();
        super::forget(leaked);
        assert!(leaked.iter().all(|byte| *byte == 7));
    }
}
