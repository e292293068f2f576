//! What a radiator runs: containers, recipes, volumes, ingress and the floating address.
//!
//! Unsafe code is allowed here in one place, the raw socket that announces the floating address.

#![deny(unsafe_code)]

pub mod address;
pub mod docker;
pub mod fence;
pub mod folder;
pub mod ingress;
pub mod inside;
pub mod lease_page;
pub mod link;
pub mod probe;
pub mod recipe;
pub mod volume;
