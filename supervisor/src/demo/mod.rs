//! A home of several radiators on one machine: the lab that makes them, the client
//! that uses what they serve, and the story that `thermidor demo` tells with both.

pub mod client;
pub mod lab;

use std::process::ExitCode;

/// The verbs of the demo; all but `demo` itself are for the lab's own use.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum DemoCommand {
    /// Acts as a client of the home.
    #[command(hide = true)]
    DemoClient {
        /// What it does.
        #[command(subcommand)]
        command: client::ClientCommand,
    },
    /// Waits for the end of standard input, then removes what a lab left.
    #[command(hide = true)]
    LabReap {
        /// The lab.
        name: String,
    },
    /// Removes what labs left whose process is dead, or one lab even if it runs.
    #[command(hide = true)]
    LabSweep {
        /// The lab.
        name: Option<String>,
    },
}

impl DemoCommand {
    /// Does it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            DemoCommand::DemoClient { command } => println!("{}", client::run(command)?),
            DemoCommand::LabReap { name } => lab::registry::reap(&name)?,
            DemoCommand::LabSweep { name: Some(name) } => lab::registry::sweep_one(&name)?,
            DemoCommand::LabSweep { name: None } => {
                for name in lab::registry::sweep()? {
                    println!("removed what the lab {name} left");
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
