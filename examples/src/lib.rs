//! Homes to copy from.
