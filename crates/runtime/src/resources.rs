//! Limits: from the specification's form to the control group's.

use crate::{Result, oci};

/// What `resources` asks of a control group; used at the start, and for an update of a running container ([`cgroup::Group::set`]).
///
/// # Errors
/// [`crate::Error::Invalid`] for device types and accesses that are not known, [`crate::Error::Unsupported`] for network classes and RDMA.
pub fn limits(resources: &oci::Resources) -> Result<cgroup::Limits> {
    todo!()
}
