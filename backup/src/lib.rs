//! Backups to friends' homes: restic as a child process, the vaults, restoring. The crate's place is kept
//! here; what it does comes with its own issue.

#![forbid(unsafe_code)]
