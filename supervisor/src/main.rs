//! `thermidor`: see `thermidor --help`.

#![forbid(unsafe_code)]

use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = thermidor_supervisor::cli::Cli::parse();
    let filter = EnvFilter::try_from_env("THERMIDOR_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=error,fuser=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // Its words on a line it could not write would go to the same stderr, and panic where that is on a full disk.
        .log_internal_errors(false)
        .init();
    // Only fails where a provider is installed already, and then it is this one.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    match thermidor_supervisor::cli::main(cli) {
        Ok(code) => code,
        Err(refused) => {
            eprintln!("thermidor: {refused}");
            ExitCode::from(refused.exit)
        }
    }
}
