//! The command line: one binary, the verbs of the design.

mod apply;
mod backup;
mod certificates;
mod check;
mod details;
mod doctor;
mod friends;
mod home;
mod kit;
mod kit_split;
mod mail;
mod processes;
mod recover;
mod restore;
mod show;
mod snapshots;
mod top;

use crate::api::Refused;
use crate::paths::{DATA_DEFAULT, Paths};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use thermidor_model::name::HomeName;
use thermidor_model::{RadiatorName, ServiceName, SnapshotName, VolumeName};

/// Computers that heat the house and run its services.
#[derive(Debug, Parser)]
#[command(name = "thermidor", version, propagate_version = true)]
pub struct Cli {
    /// Folder of this radiator's state.
    #[arg(long, global = true, env = "THERMIDOR_DATA", default_value = DATA_DEFAULT, value_name = "DIR")]
    pub data: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

/// How a reading command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs; versioned.
    Json,
    /// The same as YAML.
    Yaml,
}

#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// How to answer.
    #[arg(short = 'o', long = "output", value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the main job on this one machine, with three radiators in namespaces.
    Demo(DemoArgs),
    /// Check this machine, and name the command that mends each finding.
    Doctor(Output),
    /// Found a home with this machine as its first radiator.
    Init(home::InitArgs),
    /// Print a token with which another machine can join.
    Invite {
        /// How long it is good: 30m, 1h.
        #[arg(long, default_value = "1h")]
        ttl: String,
    },
    /// Join a home.
    Join(home::JoinArgs),
    /// Take a radiator out of the home for good.
    Leave {
        /// Who; by default this one.
        radiator: Option<RadiatorName>,
        /// A thief has it: change the keys that are on its disk too.
        #[arg(long, requires = "radiator")]
        stolen: bool,
    },
    /// When the majority is gone for good: go on with this member alone.
    Rescue {
        /// The other members are unplugged and never come back as they were.
        #[arg(long)]
        others_are_unplugged: bool,
    },
    /// When every radiator is lost: from the recovery kit and a friend, the home again on this bare machine.
    Recover(recover::RecoverArgs),
    /// Homes that trust this one, and keep each other's backups.
    Friend {
        #[command(subcommand)]
        verb: friends::FriendVerb,
    },
    /// Bring a service's data back from a friend.
    Restore(restore::RestoreArgs),
    /// The recovery kit: words on paper from which a lost home comes back.
    Kit {
        #[command(subcommand)]
        verb: kit::KitVerb,
    },
    /// Declare the home.
    Apply(apply::ApplyArgs),
    /// The JSON schema of home.yaml, for editors.
    Schema,
    /// The home at a glance.
    Status(Output),
    /// Why a service is where it is.
    Explain {
        /// Which.
        service: ServiceName,
        #[command(flatten)]
        output: Output,
    },
    /// Radiators.
    Radiator {
        #[command(subcommand)]
        verb: Listing<RadiatorName>,
    },
    /// Services.
    Service {
        #[command(subcommand)]
        verb: Listing<ServiceName>,
    },
    /// Volumes.
    Volume {
        #[command(subcommand)]
        verb: VolumeVerb,
    },
    /// Backups to friends.
    Backup {
        #[command(subcommand)]
        verb: backup::BackupVerb,
    },
    /// Sealed secrets.
    Secret {
        #[command(subcommand)]
        verb: SecretVerb,
    },
    /// Mail accounts.
    Mail {
        #[command(subcommand)]
        verb: mail::MailVerb,
    },
    /// What runs where.
    Ps(Output),
    /// What a service says.
    Logs {
        /// Which.
        service: ServiceName,
        /// Go on.
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines.
        #[arg(long, default_value_t = 100)]
        tail: u32,
    },
    /// What happened.
    Events {
        /// Go on.
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Watts, degrees and load, again and again.
    Top {
        /// Draw them once.
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Go on although this home was recovered elsewhere: somebody has stolen its recovery kit.
    Resume {
        /// Nobody of this home has recovered or rescued it: it was whoever has stolen the kit.
        #[arg(long)]
        kit_was_stolen: bool,
    },
    /// Move a service to a radiator.
    Move {
        /// Which.
        service: ServiceName,
        /// Where to.
        radiator: RadiatorName,
    },
    /// Stop heating with a radiator; its services move away first.
    Off {
        /// Which.
        radiator: RadiatorName,
        /// On again then: 2026-09-15, or a duration like 12h.
        #[arg(long)]
        until: Option<String>,
        /// Give up the vote too, for its power will be cut.
        #[arg(long)]
        power_off: bool,
    },
    /// Heat with a radiator again.
    On {
        /// Which.
        radiator: RadiatorName,
    },
    /// Want another temperature than the YAML says; `yaml` goes back to it.
    Target {
        /// Which radiator.
        radiator: RadiatorName,
        /// °C, or `yaml`.
        celsius: String,
    },
    /// The daemon of this radiator.
    Run(processes::RunArgs),
    /// The guard: holds the lease, fences.
    Guard,
    /// The ingress: passes connections on.
    Ingress,
    /// The process of one local replica; started by the daemon.
    #[command(hide = true)]
    VolumeProcess(processes::VolumeArgs),
    /// The vault, inside of its container.
    #[command(hide = true)]
    VaultProcess,
    #[command(flatten)]
    Lab(crate::demo::DemoCommand),
    /// Cuts off a volume process that hangs; started by it.
    #[command(hide = true)]
    VolumeWatchdog {
        /// What to watch.
        arguments: Vec<std::ffi::OsString>,
    },
    /// Completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// The manual page of `thermidor`, or of one of its verbs.
    Man {
        /// Which verb.
        verb: Option<String>,
    },
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Leave it running to play with.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Subcommand)]
enum Listing<N: Clone + Send + Sync + std::str::FromStr + 'static>
where
    N::Err: std::error::Error + Send + Sync + 'static,
{
    /// All of them.
    Ls(Output),
    /// One of them.
    Show {
        /// Which.
        name: N,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
enum VolumeVerb {
    /// All of them.
    Ls(Output),
    /// One of them.
    Show {
        /// Which.
        name: VolumeName,
        #[command(flatten)]
        output: Output,
    },
    /// Give blocks back to the disks that the volume's file system does not use; else it is done once a day.
    Trim {
        /// Which.
        name: VolumeName,
    },
    /// Take a snapshot: what a replica holds at one moment, to be looked at or backed up.
    Snapshot {
        /// Of which volume.
        volume: VolumeName,
        /// Its name; else one is made of the moment.
        #[arg(long)]
        name: Option<SnapshotName>,
        /// Of which radiator's replica; else this one's, where that is in sync, or the active's.
        #[arg(long)]
        on: Option<RadiatorName>,
    },
    /// The snapshots of a volume, on every radiator.
    Snapshots {
        /// Of which volume.
        volume: VolumeName,
        #[command(flatten)]
        output: Output,
    },
    /// Mount a snapshot read-only, and print where.
    MountSnapshot(SnapshotArgs),
    /// Unmount a snapshot.
    UnmountSnapshot(SnapshotArgs),
    /// Remove a snapshot that is not mounted.
    RmSnapshot(SnapshotArgs),
    /// Compare all replicas now, and repair what rotted on one of them. Fails unless they are alike then.
    Check {
        /// Which.
        name: VolumeName,
    },
    /// Take an older replica as the truth, when the newer ones are gone for good.
    Promote {
        /// Which volume.
        name: VolumeName,
        /// Whose replica.
        radiator: RadiatorName,
        /// Later writes are lost.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Remove a volume that no service uses, and its data on every radiator, for good.
    Rm {
        /// Which volume.
        name: VolumeName,
        /// Don't ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// Which snapshot.
#[derive(Debug, Args)]
struct SnapshotArgs {
    /// Of which volume.
    volume: VolumeName,
    /// Its name.
    name: SnapshotName,
    /// On which radiator, where several have one of that name.
    #[arg(long)]
    on: Option<RadiatorName>,
}

#[derive(Debug, Subcommand)]
enum SecretVerb {
    /// Names of the sealed secrets.
    Ls(Output),
    /// Seal a secret; its value is read from standard input.
    Set {
        /// Its name, `mail/marie`.
        name: String,
    },
    /// Forget a secret.
    Rm {
        /// Its name.
        name: String,
    },
}

/// Does what was asked; the error knows its exit code.
pub fn main(cli: Cli) -> Result<ExitCode, Refused> {
    match cli.verb {
        Verb::Demo(args) => crate::demo::main(args.keep)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|e| Refused::because(format!("{e:#}"))),
        Verb::Lab(command) => command.run().map_err(|e| Refused::because(format!("{e:#}"))),
        verb => run(&Paths::of(&cli.data), verb).map(|()| ExitCode::SUCCESS),
    }
}

fn run(paths: &Paths, verb: Verb) -> Result<(), Refused> {
    match verb {
        Verb::Demo(_) | Verb::Lab(_) => Ok(()),
        Verb::Doctor(output) => doctor::main(paths, output.format),
        Verb::Init(args) => home::init(paths, args),
        Verb::Invite { ttl } => home::invite(paths, &ttl),
        Verb::Join(args) => home::join(paths, args),
        Verb::Leave { radiator: Some(radiator), stolen: true } => home::stolen(paths, radiator),
        Verb::Leave { radiator, .. } => home::leave(paths, radiator),
        Verb::Rescue { others_are_unplugged } => home::rescue(paths, others_are_unplugged),
        Verb::Resume { kit_was_stolen } => home::resume(paths, kit_was_stolen),
        Verb::Recover(args) => recover::main(paths, &args),
        Verb::Friend { verb } => friends::main(paths, verb),
        Verb::Restore(args) => restore::main(paths, args),
        Verb::Kit { verb } => kit::main(paths, &verb),
        Verb::Apply(args) => apply::main(paths, &args),
        Verb::Schema => show::print_json(&thermidor_model::spec::schema()),
        Verb::Status(output) => show::status(paths, output.format),
        Verb::Explain { service, output } => show::explain(paths, service, output.format),
        Verb::Radiator { verb: Listing::Ls(output) } => show::radiators(paths, None, output.format),
        Verb::Radiator { verb: Listing::Show { name, output } } => {
            show::radiators(paths, Some(name.as_str()), output.format)
        }
        Verb::Service { verb: Listing::Ls(output) } | Verb::Ps(output) => {
            show::services(paths, None, output.format)
        }
        Verb::Service { verb: Listing::Show { name, output } } => {
            show::services(paths, Some(name.as_str()), output.format)
        }
        Verb::Volume { verb } => volume(paths, verb),
        Verb::Backup { verb } => backup::main(paths, verb),
        Verb::Secret { verb } => secret(paths, verb),
        Verb::Mail { verb } => mail::main(paths, verb),
        Verb::Logs { service, follow, tail } => show::logs(paths, service, follow, tail),
        Verb::Events { follow, output } => show::events(paths, follow, output.format),
        Verb::Top { once, output } => top::main(paths, once, output.format),
        Verb::Move { service, radiator } => home::move_service(paths, service, radiator),
        Verb::Off { radiator, until, power_off } => home::off(paths, radiator, until.as_deref(), power_off),
        Verb::On { radiator } => home::on(paths, radiator),
        Verb::Target { radiator, celsius } => home::target(paths, radiator, &celsius),
        Verb::Run(args) => processes::run(paths, args),
        Verb::Guard => processes::guard(paths),
        Verb::Ingress => processes::ingress(paths),
        Verb::VolumeProcess(args) => processes::volume(paths, args),
        Verb::VaultProcess => processes::vault(),
        Verb::VolumeWatchdog { arguments } => processes::volume_watchdog(&arguments),
        Verb::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "thermidor", &mut text);
            show::print_bytes(&text);
            Ok(())
        }
        Verb::Man { verb } => manual(verb.as_deref()),
    }
}

fn manual(verb: Option<&str>) -> Result<(), Refused> {
    let mut command = Cli::command();
    // Builds the verbs' own pages too, with the options they inherit.
    command.build();
    let command = match verb {
        None => command,
        Some(verb) => {
            let found = command.find_subcommand(verb).filter(|c| !c.is_hide_set()).cloned();
            found.ok_or_else(|| Refused::because(format!("there is no verb {verb}: see `thermidor help`")))?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text).map_err(|e| Refused::because(e.to_string()))?;
    show::print_bytes(&text);
    Ok(())
}

fn volume(paths: &Paths, verb: VolumeVerb) -> Result<(), Refused> {
    match verb {
        VolumeVerb::Ls(output) => show::volumes(paths, None, output.format),
        VolumeVerb::Show { name, output } => show::volumes(paths, Some(name.as_str()), output.format),
        VolumeVerb::Trim { name } => home::trim(paths, name),
        VolumeVerb::Snapshot { volume, name, on } => snapshots::take(paths, &volume, name, on),
        VolumeVerb::Snapshots { volume, output } => snapshots::list(paths, &volume, output.format),
        VolumeVerb::MountSnapshot(SnapshotArgs { volume, name, on }) => {
            snapshots::mount(paths, &volume, name, on)
        }
        VolumeVerb::UnmountSnapshot(SnapshotArgs { volume, name, on }) => {
            snapshots::unmount(paths, &volume, name, on)
        }
        VolumeVerb::RmSnapshot(SnapshotArgs { volume, name, on }) => {
            snapshots::remove(paths, &volume, name, on)
        }
        VolumeVerb::Check { name } => check::main(paths, &name),
        VolumeVerb::Promote { name, radiator, accept_loss } => {
            home::promote(paths, name, radiator, accept_loss)
        }
        VolumeVerb::Rm { name, yes } => home::remove_volume(paths, name, yes),
    }
}

fn secret(paths: &Paths, verb: SecretVerb) -> Result<(), Refused> {
    use crate::api::{Request, client};
    match verb {
        SecretVerb::Ls(output) => show::secrets(paths, output.format),
        SecretVerb::Set { name } => {
            let value = Some(mail::read_value(&format!("value of {name}: "))?);
            client::ask(paths, &Request::SetSecret { name, value }).map(drop)
        }
        SecretVerb::Rm { name } => client::ask(paths, &Request::SetSecret { name, value: None }).map(drop),
    }
}

pub(crate) use show::bytes;

/// Parses a home's name as clap wants it.
pub(crate) fn home_name(text: &str) -> Result<HomeName, String> {
    HomeName::new(text).map_err(|e| e.to_string())
}
