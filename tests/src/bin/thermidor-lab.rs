//! The demo's verbs alone, so that the lab can be tested without the daemon.

#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;
use thermidor_supervisor::demo::DemoCommand;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: DemoCommand,
}

fn main() -> anyhow::Result<ExitCode> {
    Arguments::parse().command.run()
}
