//! Whole lists of actions, ranks against a naive search, and a home simulated in a loop.

mod decisions;
mod fixture;
mod naive;
mod simulated;
mod upkeep;
