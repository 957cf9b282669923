//! Capability names and numbers.

use crate::{Error, Result, oci};

/// Capability sets as masks: bit N stands for capability number N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What execve can ever give.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept by execve for files that have them too.
    pub inheritable: u64,
    /// Kept by execve for everybody.
    pub ambient: u64,
}

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The number of a capability, by its name with or without `CAP_`, in any case.
pub fn capability_number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).map(|number| number as u32)
}

/// The name of a capability, with `CAP_`.
pub fn capability_name(number: u32) -> Option<String> {
    NAMES.get(number as usize).map(|name| format!("CAP_{name}"))
}

/// The names of a mask, separated by commas.
pub(crate) fn names(mask: u64) -> String {
    let names: Vec<String> = (0..64).filter(|number| mask & (1 << number) != 0).filter_map(capability_name).collect();
    names.join(", ")
}

impl Capabilities {
    /// The masks of a specification's lists. What is ambient must be permitted and inheritable; effective must be permitted.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that Linux does not have.
    pub fn of(lists: &oci::Capabilities) -> Result<Self> {
        let mask = |names: &[String], set: &str| {
            names.iter().enumerate().try_fold(0u64, |mask, (at, name)| {
                let unknown = || {
                    let field = format!("process.capabilities.{set}[{at}]");
                    Error::field(field, format!("{name:?} is not a capability: names like CAP_CHOWN are"))
                };
                capability_number(name).map(|number| mask | 1 << number).ok_or_else(unknown)
            })
        };
        Ok(Self {
            bounding: mask(&lists.bounding, "bounding")?,
            effective: mask(&lists.effective, "effective")?,
            permitted: mask(&lists.permitted, "permitted")?,
            inheritable: mask(&lists.inheritable, "inheritable")?,
            ambient: mask(&lists.ambient, "ambient")?,
        })
    }
}
