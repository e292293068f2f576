//! Backups to friends' homes. `vault` is the space lent to a friend, a server of restic's REST protocol.
//! What runs restic and restores comes with its own issue.

#![forbid(unsafe_code)]

pub mod vault;
