//! Founding, joining and leaving; off and on, targets and moves.

use super::show::bytes;
use crate::api::view::{Home, Stolen, Trimmed};
use crate::api::{Refused, Request, client};
use crate::paths::{HOME_PORT, Paths};
use clap::Args;
use std::net::{IpAddr, SocketAddr};
use thermidor_model::name::HomeName;
use thermidor_model::timing::Timing;
use thermidor_model::{RadiatorName, ServiceName, VolumeName};
use thermidor_services::volume::control::{ControlError, VolumeControl};

#[derive(Debug, Args)]
pub struct InitArgs {
    /// The home's name.
    #[arg(value_parser = super::home_name)]
    home: HomeName,
    /// This radiator's name.
    #[arg(long)]
    radiator: RadiatorName,
    /// This radiator's address in the home's network, with an optional port.
    #[arg(long, value_name = "IP[:PORT]")]
    listen: Option<String>,
    /// How long a silent member keeps its vote while enough others are there.
    #[arg(long, value_name = "SPAN", default_value = "10m", hide = true)]
    forget_after: String,
}

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// What `thermidor invite` printed on a member.
    token: String,
    /// This radiator's name.
    #[arg(long)]
    radiator: RadiatorName,
    /// This radiator's address in the home's network, with an optional port.
    #[arg(long, value_name = "IP[:PORT]")]
    listen: Option<String>,
    /// Only vote: no Docker, no keys.
    #[arg(long)]
    witness: bool,
}

pub fn runtime() -> Result<tokio::runtime::Runtime, Refused> {
    tokio::runtime::Runtime::new().map_err(|e| Refused::because(format!("no runtime: {e}")))
}

/// The address to listen on: given, or the one from which this machine would leave its network.
pub fn listen_address(given: Option<&str>) -> Result<SocketAddr, Refused> {
    let Some(text) = given else {
        let found = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|s| {
            s.connect("192.0.2.1:9")?;
            s.local_addr()
        });
        return match found {
            Ok(address) if !address.ip().is_unspecified() => Ok((address.ip(), HOME_PORT).into()),
            _ => Err(Refused::because("this machine's address is not clear: give it with --listen IP")),
        };
    };
    text.parse::<SocketAddr>().or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, HOME_PORT).into())).map_err(
        |_| Refused::because(format!("`{text}` is no address: give --listen 192.168.1.11 or IP:PORT")),
    )
}

pub fn init(paths: &Paths, args: InitArgs) -> Result<(), Refused> {
    let listen = listen_address(args.listen.as_deref())?;
    let timing = Timing { forget_after_ms: duration_s(&args.forget_after)? * 1000, ..Timing::default() };
    timing.check().map_err(Refused::because)?;
    paths.create().map_err(|e| Refused::because(format!("{}: {e}", paths.data.display())))?;
    let options = thermidor_raft::InitOptions {
        data: paths.data.clone(),
        home: args.home.clone(),
        radiator: args.radiator.clone(),
        listen,
        advertise: Some(listen),
        timing,
    };
    thermidor_raft::init(&options).map_err(refused)?;
    super::processes::remember_listener(paths, listen)?;
    println!("{} is founded; {} is its first radiator, at {listen}.", args.home, args.radiator);
    println!("Next: `thermidor run` here, then `thermidor invite` for each further machine.");
    Ok(())
}

pub fn invite(paths: &Paths, ttl: &str) -> Result<(), Refused> {
    let ttl_s = duration_s(ttl)?;
    let token: String = client::ask_for(paths, &Request::Invite { ttl_s })?;
    println!("{token}");
    eprintln!("Good once, for {ttl}. On the other machine: thermidor join TOKEN --radiator NAME");
    Ok(())
}

pub fn join(paths: &Paths, args: JoinArgs) -> Result<(), Refused> {
    let listen = listen_address(args.listen.as_deref())?;
    paths.create().map_err(|e| Refused::because(format!("{}: {e}", paths.data.display())))?;
    let options = thermidor_raft::JoinOptions {
        data: paths.data.clone(),
        token: args.token,
        name: args.radiator.clone(),
        listen,
        advertise: Some(listen),
        witness: args.witness,
    };
    runtime()?.block_on(thermidor_raft::join(&options)).map_err(refused)?;
    super::processes::remember_listener(paths, listen)?;
    println!("{} has joined, at {listen}. Next: `thermidor run` here.", args.radiator);
    Ok(())
}

pub fn leave(paths: &Paths, radiator: Option<RadiatorName>) -> Result<(), Refused> {
    let radiator = match radiator {
        Some(radiator) => radiator,
        None => own_name(paths)?,
    };
    client::ask(paths, &Request::Leave { radiator: radiator.clone() })?;
    println!("{radiator} has left the home.");
    Ok(())
}

/// Has the home go on beside a later generation of itself.
pub fn resume(paths: &Paths, kit_was_stolen: bool) -> Result<(), Refused> {
    if !kit_was_stolen {
        return Err(Refused::because(
            "two homes of one name and one kit serve then, and mail is split between them: only if nobody of this home \
             has recovered or rescued it, run `thermidor resume --kit-was-stolen`",
        ));
    }
    client::ask(paths, &Request::Resume)?;
    println!("This home goes on: its services start again.");
    println!(
        "Whoever has the kit can read every backup at your friends'. Run `thermidor kit replace`, and tell them by voice; \
         each that believes in the thief's generation takes nothing from here before you have paired anew."
    );
    Ok(())
}

/// Takes it out and changes the keys that are on its disk, then says what the thief has seen.
pub fn stolen(paths: &Paths, radiator: RadiatorName) -> Result<(), Refused> {
    let done: Stolen = client::ask_for(paths, &Request::LeaveStolen { radiator: radiator.clone() })?;
    println!("{radiator} has left the home, which has a new authority and a new home key.");
    match done.sealed_anew {
        true => println!("The secrets are sealed under the new home key."),
        false => println!(
            "The secrets are not sealed anew yet: a second radiator must get the new home key first."
        ),
    }
    if !done.waits_for.is_empty() {
        let names = done.waits_for.join(", ");
        println!("{names}: gets the new keys by itself as soon as it is on; `thermidor status` says when.");
    }
    println!(
        "Invitations given out before are void. Mail programs ask once whether to trust the new certificate."
    );
    println!("What is on {radiator}'s disk can be read by whoever has it: its replicas of volumes, and");
    match done.secrets.is_empty() {
        true => println!("no secret, for none is set."),
        false => {
            println!(
                "these secrets. Change each where it is used, then here with `thermidor secret set NAME`:"
            );
            done.secrets.iter().for_each(|name| println!("  {name}"));
        }
    }
    Ok(())
}

/// This member's name, as the home knows it.
fn own_name(paths: &Paths) -> Result<RadiatorName, Refused> {
    let node = thermidor_raft::Identity::load(&paths.data).map_err(refused)?.node();
    let state: thermidor_model::State = client::ask_for(paths, &Request::State)?;
    let member = state.members.get(&node);
    member.map(|m| m.name.clone()).ok_or_else(|| Refused::because("this machine is no member any more"))
}

pub fn rescue(paths: &Paths, others_are_unplugged: bool) -> Result<(), Refused> {
    let options = thermidor_raft::RescueOptions { data: paths.data.clone(), confirmed: others_are_unplugged };
    let runtime = runtime()?;
    let report = match runtime.block_on(thermidor_raft::rescue(&options)) {
        Err(e @ thermidor_raft::RescueError::Unconfirmed(_)) => {
            return Err(Refused::because(format!("{e}: `thermidor rescue --others-are-unplugged`")));
        }
        report => report.map_err(refused)?,
    };
    runtime.block_on(end_volumes(paths));
    println!("Rescued: this member alone is the home now, in generation {}.", report.generation);
    for kept in &report.kept {
        println!("{kept} alone holds some data: see `thermidor volume ls` and `thermidor volume promote`.");
    }
    if report.uncertain > 0 {
        println!(
            "{} late changes were taken over without knowing whether a majority had them.",
            report.uncertain
        );
    }
    println!("Next: `thermidor run`, then `thermidor status`.");
    Ok(())
}

/// Ends the volume processes, which know the old generation only: the daemon starts them anew.
async fn end_volumes(paths: &Paths) {
    let folders = std::fs::read_dir(paths.data.join("volumes")).into_iter().flatten().flatten();
    for volume in folders.filter_map(|f| VolumeName::new(f.file_name().to_str()?).ok()) {
        match VolumeControl::new(&paths.run, volume.clone()).quit().await {
            Ok(()) | Err(ControlError::Absent { .. }) => {}
            Err(e) => eprintln!("the process of the volume {volume} goes on, end it by hand: {e}"),
        }
    }
}

fn refused(error: impl std::fmt::Display) -> Refused {
    Refused::because(error.to_string())
}

pub fn move_service(paths: &Paths, service: ServiceName, radiator: RadiatorName) -> Result<(), Refused> {
    client::ask(paths, &Request::Move { service: service.clone(), radiator: radiator.clone() })?;
    println!("{service} moves to {radiator}; watch `thermidor status`.");
    Ok(())
}

pub fn off(
    paths: &Paths,
    radiator: RadiatorName,
    until: Option<&str>,
    power_off: bool,
) -> Result<(), Refused> {
    let until_ms = until.map(moment_ms).transpose()?;
    client::ask(paths, &Request::Off { radiator: radiator.clone(), until_ms, power_off })?;
    match power_off {
        true => {
            println!("{radiator} goes off; cut its power once `thermidor status` shows nothing active there.")
        }
        false => println!("{radiator} goes off; its services move away, it still votes."),
    }
    Ok(())
}

pub fn on(paths: &Paths, radiator: RadiatorName) -> Result<(), Refused> {
    client::ask(paths, &Request::On { radiator: radiator.clone() })?;
    println!("{radiator} is on.");
    Ok(())
}

pub fn target(paths: &Paths, radiator: RadiatorName, text: &str) -> Result<(), Refused> {
    let celsius = match text {
        "yaml" => None,
        text => Some(text.trim_end_matches("°C").trim().parse::<f64>().map_err(|_| {
            Refused::because(format!("`{text}` is no temperature: give °C like 20.5, or `yaml`"))
        })?),
    };
    client::ask(paths, &Request::Target { radiator: radiator.clone(), celsius })?;
    match celsius {
        Some(c) => println!("{radiator} is wanted at {c} °C, whatever the YAML says."),
        None => println!("{radiator} is wanted as the YAML says."),
    }
    Ok(())
}

pub fn trim(paths: &Paths, volume: VolumeName) -> Result<(), Refused> {
    let done: Trimmed = client::ask_for(paths, &Request::Trim { volume: volume.clone() })?;
    println!(
        "{} of {volume} are in no use and given back, on {} and every replica.",
        bytes(done.bytes),
        done.radiator
    );
    Ok(())
}

pub fn promote(
    paths: &Paths,
    volume: VolumeName,
    radiator: RadiatorName,
    accept_loss: bool,
) -> Result<(), Refused> {
    if !accept_loss {
        return Err(Refused::because(format!(
            "this takes {radiator}'s older replica of {volume} as the truth; what was written later is lost. \
             See its age with `thermidor volume show {volume}`, then add --accept-loss"
        )));
    }
    client::ask(paths, &Request::Promote { volume: volume.clone(), radiator: radiator.clone() })?;
    println!("{volume} goes on from {radiator}'s replica.");
    Ok(())
}

pub fn remove_volume(paths: &Paths, volume: VolumeName, yes: bool) -> Result<(), Refused> {
    let home: Home = client::ask_for(paths, &Request::Status)?;
    let Some(line) = home.volumes.iter().find(|v| v.name == volume.as_str()) else {
        return Err(refused(format!("there is no volume {volume}: `thermidor volume ls` lists them")));
    };
    if !yes {
        let holders: Vec<String> = line.replicas.iter().map(|r| r.radiator.clone()).collect();
        println!("{volume} and all its data on {} would be gone for good.", holders.join(", "));
        if !super::apply::confirmed("Remove it?")? {
            return Err(refused(format!(
                "nothing was changed; `thermidor volume rm {volume} --yes` does it"
            )));
        }
    }
    client::ask(paths, &Request::RemoveVolume { volume: volume.clone() })?;
    println!("{volume} is removed; a radiator that is away removes its image when it returns.");
    Ok(())
}

/// `90s`, `30m`, `12h`, `7d` in seconds.
pub fn duration_s(text: &str) -> Result<u64, Refused> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => 0,
    };
    match number.parse::<u64>() {
        Ok(n) if n > 0 && unit_s > 0 && n < 1_000_000 => Ok(n * unit_s),
        _ => Err(Refused::because(format!("`{text}` is no duration: give 90s, 30m, 12h or 7d"))),
    }
}

/// A date, or a duration from now, as Unix ms.
fn moment_ms(text: &str) -> Result<u64, Refused> {
    let now = jiff::Timestamp::now();
    if let Ok(seconds) = duration_s(text) {
        return Ok(now.as_millisecond() as u64 + seconds * 1000);
    }
    text.parse::<jiff::civil::Date>()
        .and_then(|date| date.to_zoned(jiff::tz::TimeZone::system()))
        .map(|zoned| zoned.timestamp().as_millisecond().max(0) as u64)
        .map_err(|_| {
            Refused::because(format!("`{text}` is no date: give 2027-09-15, or a duration like 12h"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_dates_are_taken_and_nonsense_is_named() {
        assert_eq!(duration_s("30m"), Ok(1800));
        assert!(duration_s("0m").is_err() && duration_s("soon").is_err() && duration_s("5").is_err());
        assert!(moment_ms("2100-01-01").unwrap() > 4_000_000_000_000);
        assert!(moment_ms("tomorrow").unwrap_err().text.contains("2027-09-15"));
    }

    #[test]
    fn an_address_may_come_with_a_port_or_without() {
        assert_eq!(listen_address(Some("10.0.0.1")).unwrap().port(), HOME_PORT);
        assert_eq!(listen_address(Some("10.0.0.1:99")).unwrap().port(), 99);
        assert!(listen_address(Some("salon")).unwrap_err().text.contains("--listen"));
    }
}
