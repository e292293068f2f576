//! Replicated volumes: one process per replica. On the active it exports the device; on the others
//! it follows. It stands apart from the daemon, so that a crash or an upgrade of that leaves the
//! service running.
//!
//! [`process::run`] is the process, [`control::VolumeControl`] the daemon's end of it. What is
//! replicated, when a flush is answered and who counts as in sync is decided in
//! [`thermidor_model::replication`]; here are the disk, the sessions, the kernel's device and the mounts.

pub mod active;
mod attached;
pub mod control;
pub mod device;
pub mod disk;
mod entrance;
pub mod export;
pub mod following;
pub mod group;
pub mod growth;
pub mod header;
pub mod image;
mod leading;
pub mod marks;
pub mod mounts;
mod peers;
mod platter;
pub mod process;
pub mod removal;
mod roles;
pub mod scrub;
pub mod seals;
mod session;
pub mod snapshot;
mod status;
mod trim;

pub mod watchdog;
mod wire;

use futures::future::BoxFuture;
use std::sync::Arc;
use thermidor_model::{Command, Outcome};

/// A proposal whose outcome is not known: it may have been applied, or may still be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outcome is unknown")]
pub struct Unknown;

/// Brings a command to Raft and back what `apply` answered.
pub type Propose = Arc<dyn Fn(Command) -> BoxFuture<'static, Result<Outcome, Unknown>> + Send + Sync>;
