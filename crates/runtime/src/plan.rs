//! From a specification to ordered steps, without touching the machine.
