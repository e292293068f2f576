//! `make bench`: measures groups of figures, keeps them in `figures.json` and shows them.

#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;
use thermidor_tests::bench;

/// Measures groups of figures, all where none is named.
#[derive(Parser)]
struct Arguments {
    /// Groups.
    groups: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Only fails where a provider is installed already, and then it is this one.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    match bench::run(&arguments.groups) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thermidor-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
