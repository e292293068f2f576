//! A home of several radiators on one machine: the lab that makes them, the client
//! that uses what they serve, and the story that `thermidor demo` tells with both.

pub mod client;
pub mod home;
pub mod lab;
pub mod story;

use crate::api::Refused;
use thermidor_services::docker::ImageSource;
use thermidor_services::recipe::mail::mail_image;
use thermidor_services::recipe::yacy;

use lab::{Lab, Options, images};
use std::process::ExitCode;

/// The verbs of the lab, for its own use; none is shown in the help.
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
    /// Runs a command on a machine with an engine of its own, whose socket it finds in
    /// THERMIDOR_TEST_DOCKER.
    #[command(hide = true)]
    LabRun {
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
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
            DemoCommand::LabRun { command } => return lab_run(&command),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The images that a home's radiators start with where no image registry answers.
pub fn home_images() -> Vec<images::Image> {
    let mut images = vec![images::record()];
    for image in [mail_image(), yacy::stand_in()] {
        let tag = image.reference();
        if let ImageSource::Build { context, .. } = image {
            images.push(images::Image { tag, context: images::Context::Packed(context.to_vec()) });
        }
    }
    images
}

fn lab_run(command: &[String]) -> anyhow::Result<ExitCode> {
    let options = Options::beside(&std::env::current_exe()?);
    let options = options.with_images(&home_images(), &|text| eprintln!("{text}"))?;
    let lab = Lab::new(&format!("run-{}", std::process::id()), &["bench"], options)?;
    lab.engines_ready()?;
    let here = std::env::current_dir()?;
    let mut run = lab.radiator("bench")?.command("sh")?;
    run.args(["-c", r#"mount --make-rshared / && cd "$1" && shift && exec "$@""#, "lab"])
        .arg(here)
        .args(command);
    let status = run.env("THERMIDOR_TEST_DOCKER", "/run/docker.sock").status()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Tells the story of a home: `thermidor demo`. Refused if a claim of it failed.
pub fn main(keep: bool) -> Result<(), Refused> {
    story::tell(keep).map_err(|error| Refused::because(format!("{error:#}")))
}
