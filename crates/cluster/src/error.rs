//! What can fail between engines.

use std::net::IpAddr;
use std::path::PathBuf;

use types::{Classify, ErrorKind};

/// What the functions of this crate answer.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of what hosts share.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The description of the store cannot be read.
    #[error("cluster store {text:?}: {reason}")]
    BadStore {
        /// What was given.
        text: String,
        /// What is expected.
        reason: String,
    },
    /// Settings that cannot be.
    #[error("cluster: {reason}")]
    BadConfig {
        /// What is wrong.
        reason: String,
    },
    /// A certificate or key cannot be read.
    #[error("read {path}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A member's name has no address.
    #[error("find the address of etcd member {name}: {reason}")]
    Resolve {
        /// The name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// etcd does not answer, or answers with a failure.
    #[error("etcd: {operation}")]
    Etcd {
        /// What was asked for.
        operation: &'static str,
        /// What came of it.
        source: Box<etcd_client::Error>,
    },
    /// etcd does not answer in time.
    #[error("etcd does not answer ({operation})")]
    Silent {
        /// What was asked for.
        operation: &'static str,
    },
    /// A network of that name is there.
    #[error("network with name {name} already exists")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The addresses are those of another network.
    #[error("subnet {subnet} overlaps with {other} of the overlay network {name}")]
    Overlap {
        /// What was asked for.
        subnet: String,
        /// What is there.
        other: String,
        /// Whose it is.
        name: String,
    },
    /// No range of addresses or no number is left.
    #[error("no {what} is left for another overlay network")]
    Exhausted {
        /// What is used up.
        what: &'static str,
    },
    /// There is no such overlay network (any more).
    #[error("overlay network {id} not found")]
    NoSuchNetwork {
        /// Its id.
        id: String,
    },
    /// Endpoints are on a network that is to go.
    #[error("network {name} has active endpoints: {endpoints}")]
    InUse {
        /// The network.
        name: String,
        /// Containers and hosts.
        endpoints: String,
    },
    /// Somebody has the address.
    #[error("address {address} of network {network} is in use by {owner}")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The network's name.
        network: String,
        /// Container and host.
        owner: String,
    },
    /// All addresses are given away.
    #[error("no address is left in network {network}")]
    NoAddress {
        /// The network's name.
        network: String,
    },
    /// Others were faster, again and again.
    #[error("{operation}: other hosts changed the same things all the time")]
    Contended {
        /// What was tried.
        operation: &'static str,
    },
    /// What was to be stored does not fit.
    #[error("{what} is not a valid record: {reason}")]
    Invalid {
        /// Which record.
        what: String,
        /// Why not.
        reason: String,
    },
}

impl Error {
    pub(crate) fn etcd(operation: &'static str) -> impl Fn(etcd_client::Error) -> Self {
        move |source| Self::Etcd { operation, source: Box::new(source) }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::BadStore { .. } | Self::BadConfig { .. } | Self::Invalid { .. } => ErrorKind::InvalidInput,
            Self::NoSuchNetwork { .. } => ErrorKind::NotFound,
            Self::NameTaken { .. } | Self::AddressTaken { .. } => ErrorKind::Conflict,
            Self::Overlap { .. } | Self::InUse { .. } => ErrorKind::Forbidden,
            Self::Exhausted { .. } | Self::NoAddress { .. } | Self::Contended { .. } => ErrorKind::Unavailable,
            Self::Etcd { .. } | Self::Silent { .. } | Self::Resolve { .. } => ErrorKind::Unavailable,
            Self::Certificate { .. } => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Etcd { source, .. } if is_denied(source) => Some("check cluster-store-user and its rights on the prefix".to_owned()),
            Self::Etcd { .. } | Self::Silent { .. } => {
                Some("containers that run go on; check that etcd runs and can be reached: etcdctl endpoint health".to_owned())
            }
            Self::Overlap { .. } => Some("choose another --subnet, or none: a free one is found".to_owned()),
            Self::InUse { .. } => Some("disconnect them first, on their hosts".to_owned()),
            _ => None,
        }
    }
}

/// Whether etcd refuses this user rather than this request.
fn is_denied(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    ["permission denied", "authentication failed", "user name is empty"].iter().any(|words| status.message().contains(words))
}
