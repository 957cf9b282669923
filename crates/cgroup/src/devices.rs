//! Which device nodes a group may use: the rules, what they amount to, and the eBPF program that version 2 needs for it.

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both kinds.
    All,
    /// Block.
    Block,
    /// Character.
    Char,
}

/// One rule of a device list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether it allows or denies.
    pub allow: bool,
    /// Which kind it is about.
    pub kind: DeviceKind,
    /// Major number; `None` any.
    pub major: Option<u32>,
    /// Minor number; `None` any.
    pub minor: Option<u32>,
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Making a node.
    pub mknod: bool,
}
