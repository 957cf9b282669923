//! The everyday walk: what a person who learned Docker types, against a real engine and real containers, with the `cais` client
//! and with the unmodified `docker` client.
//!
//! Each check is two tests, one per client, with an engine of its own, so that they run side by side and fail alone.

#![forbid(unsafe_code)]

mod containers;
mod data;
mod files;
mod flags;
mod images;
mod lifecycle;
mod limits;
mod network;
mod network_api;
mod push;
mod registries;
mod runtimes;
mod support;
mod upkeep;
mod users;

/// Declares a check as two tests, `NAME::cais` and `NAME::docker`.
macro_rules! both {
    ($($(#[$doc:meta])* fn $name:ident($walk:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn check($walk: &mut $crate::support::Walk) -> anyhow::Result<()> {
                $body
                #[allow(unreachable_code)]
                Ok(())
            }

            #[test]
            fn cais() -> anyhow::Result<()> {
                $crate::support::Walk::through(stringify!($name), tests::Client::Cais, check)
            }

            #[test]
            fn docker() -> anyhow::Result<()> {
                $crate::support::Walk::through(stringify!($name), tests::Client::Docker, check)
            }
        }
    )*};
}
pub(crate) use both;
