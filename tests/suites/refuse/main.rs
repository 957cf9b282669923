//! Bad input of every kind: each is refused with a message that names the cause and the object, and leaves nothing half-made.

#![forbid(unsafe_code)]

mod archive;
mod command;
mod machine;
