//! Backups to friends' homes. `vault` is the space lent to a friend, a server of restic's REST protocol; `restic` runs
//! the program that fills it and restores from it; `pairing` makes friends, `kit` is what a burnt-down home comes back
//! from, `schedule` says what is to be done when, `stock` keeps what a vault will be asked, `line` is the way between two homes.

#![forbid(unsafe_code)]

pub mod generations;
pub mod home_itself;
pub mod kit;
pub mod kit_change;
pub mod line;
pub mod pairing;
mod questions;
pub mod restic;
pub mod restore;
pub mod round;
pub mod schedule;
pub mod stock;
pub mod vault;
pub mod vault_process;
mod words;
