//! Stop and go.
