//! The `thermidor` binary: the daemon and the processes beside it, and the command line.

#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
mod clock;
pub mod daemon;
pub mod demo;
pub mod guard;
pub mod notify;
pub mod paths;
pub mod priority;
pub mod sensor;
#[cfg(test)]
mod testing;
