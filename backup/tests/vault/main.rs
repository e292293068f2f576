//! The vault from outside: requests over TCP, whatever a client, a disk, a crash or a hostile home may do, and the
//! real restic. Cases of rest-server's and restic's own suites bear their names.

#![forbid(unsafe_code)]

mod backend;
mod cable;
mod challenges;
mod faults;
mod handover;
mod hours;
mod memory;
mod past;
mod power;
mod protocol;
mod prune;
mod restic;
mod round;
mod stage;
mod supervised;
mod visit;
