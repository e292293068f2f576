//! `make bench`: measures groups of figures, keeps them in `figures.json` and shows them.

#![forbid(unsafe_code)]

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;
use thermidor_tests::bench::{self, friends, volumes};

/// Measures groups of figures, all where none is named.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Groups.
    groups: Vec<String>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What this program is when a group starts it again.
#[derive(Subcommand)]
#[command(disable_help_subcommand = true)]
enum Part {
    /// Measures on the lab's machine.
    #[command(hide = true, name = volumes::INSIDE)]
    Inside(volumes::Orders),
    /// A volume process.
    #[command(hide = true, name = volumes::REPLICA)]
    Replica {
        /// What it is told.
        orders: String,
    },
    /// A friend's vault.
    #[command(hide = true, name = friends::VAULT)]
    Vault {
        /// Its folders.
        root: std::path::PathBuf,
        /// Where friends come in.
        listen: std::net::SocketAddr,
    },
    /// A volume process's watchdog.
    #[command(hide = true, name = volumes::WATCHDOG)]
    Watchdog {
        /// What to watch.
        arguments: Vec<OsString>,
    },
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.part {
        None => bench::run(&arguments.groups),
        Some(Part::Inside(orders)) => volumes::run_inside(&orders),
        Some(Part::Replica { orders }) => volumes::be_a_replica(&orders),
        Some(Part::Vault { root, listen }) => friends::be_a_vault(&root, listen),
        Some(Part::Watchdog { arguments }) => volumes::be_a_watchdog(&arguments),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Only fails where a provider is installed already, and then it is this one.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thermidor-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
