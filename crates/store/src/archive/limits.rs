//! What an archive may contain at most.

/// Bounds on untrusted archives. Exceeding one is an error that names it.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one uncompressed layer.
    pub layer_bytes: u64,
    /// Entries of one layer.
    pub entries: u64,
    /// Components of one path.
    pub depth: usize,
    /// How many times larger than its compressed form a layer may be, once it is larger than [`Limits::ratio_free_bytes`].
    pub ratio: u64,
    /// Up to this size the compression ratio does not matter.
    pub ratio_free_bytes: u64,
    /// Bytes of a configuration, manifest or index.
    pub document_bytes: u64,
    /// Layers of one image.
    pub layers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 512 << 30,
            entries: 10_000_000,
            depth: 512,
            ratio: 1500,
            ratio_free_bytes: 1 << 30,
            document_bytes: 4 << 20,
            layers: 127,
        }
    }
}
