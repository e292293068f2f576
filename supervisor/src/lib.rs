//! supervisor
pub mod sensor;
