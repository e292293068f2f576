//! The home: one Raft group of the household's radiators, on redb, under the home's own
//! certificate authority. See DESIGN.md beside this crate's Cargo.toml.

#![forbid(unsafe_code)]

mod barrier;
mod calling;
pub mod client;
mod clock;
pub mod codec;
mod config;
mod disk;
pub mod founding;
mod hedge;
pub mod identity;
mod introducing;
mod invitation;
mod joining;
mod keeper;
mod leadership;
mod line;
mod line_pool;
mod listener;
pub mod log_store;
pub mod machine;
mod members_file;
mod membership;
mod muting;
mod network;
pub mod node;
mod proposing;
mod quiet;
pub mod recovering;
pub mod rescue;
pub mod reserve;
mod rotation;
mod serving;
mod snapshot_stream;
mod standing;
pub mod types;
mod wire;

pub use calling::CallError;
pub use client::{ClientError, HomeClient};
pub use clock::boottime_ns;
pub use founding::{InitError, InitOptions, init};
pub use identity::{HomeKey, Identity, IdentityError, KeptKeys};
pub use invitation::{Token, TokenError};
pub use joining::{JoinError, JoinOptions, join};
pub use leadership::Leadership;
pub use membership::MembershipError;
pub use node::{Handler, Node, StartError, StartOptions};
pub use proposing::ProposeError;
pub use recovering::{RecoverError, RecoverOptions, found_again};
pub use rescue::{RescueError, RescueOptions, RescueReport, rescue};
pub use reserve::Reserve;
pub use rotation::RotationError;
pub use standing::Standing;
