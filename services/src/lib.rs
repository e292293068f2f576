//! What a radiator runs: containers, recipes, volumes, ingress and the floating address.

pub mod address;
pub mod docker;
pub mod fence;
pub mod ingress;
pub mod lease_page;
pub mod link;
pub mod probe;
pub mod recipe;
pub mod volume;
