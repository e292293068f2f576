//! The `thermidor` binary's parts: daemon, guard, ingress, volume, CLI, demo.

pub mod demo;
