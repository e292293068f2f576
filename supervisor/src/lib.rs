//! The `thermidor` binary's parts: daemon, guard, ingress, volume, CLI.

pub mod guard;
