//! `volume snapshot` and what can be done with one.

use super::Format;
use super::show::{bytes, local_time, print_line, print_list, table};
use crate::api::view::{SnapshotLine, SnapshotList};
use crate::api::{Refused, Request, SnapshotOrder, client};
use crate::paths::Paths;
use thermidor_model::{RadiatorName, SnapshotName, VolumeName};

fn ask(
    paths: &Paths,
    volume: &VolumeName,
    on: Option<RadiatorName>,
    order: SnapshotOrder,
) -> Result<SnapshotList, Refused> {
    client::ask_for(paths, &Request::Snapshot { volume: volume.clone(), on, order })
}

fn where_it_is(list: &SnapshotList) -> &str {
    list.radiator.as_deref().unwrap_or("the radiator")
}

/// `at-2026-11-26-160312`, by UTC.
fn name_of_now() -> Result<SnapshotName, Refused> {
    let name = jiff::Timestamp::now().strftime("at-%Y-%m-%d-%H%M%S").to_string();
    SnapshotName::new(name).map_err(|e| Refused::because(e.to_string()))
}

pub fn take(
    paths: &Paths,
    volume: &VolumeName,
    name: Option<SnapshotName>,
    on: Option<RadiatorName>,
) -> Result<(), Refused> {
    let name = name.map_or_else(name_of_now, Ok)?;
    let list = ask(paths, volume, on, SnapshotOrder::Take { name: name.clone() })?;
    print_line(&format!(
        "{name} of {volume} is taken on {}; look at it with `thermidor volume mount-snapshot {volume} {name}`.",
        where_it_is(&list)
    ));
    Ok(())
}

fn row(s: &SnapshotLine) -> [String; 6] {
    let state = match (&s.lost, &s.mounted) {
        (Some(why), _) => format!("given up: {why}"),
        (None, Some(at)) => format!("mounted: {}", at.display()),
        (None, None) => "kept".into(),
    };
    let kept = if s.kept_bytes > 0 { bytes(s.kept_bytes) } else { "-".into() };
    [s.name.clone(), s.radiator.clone(), local_time(s.taken_ms), s.way.clone(), kept, state]
}

pub fn list(paths: &Paths, volume: &VolumeName, format: Format) -> Result<(), Refused> {
    let list = ask(paths, volume, None, SnapshotOrder::List)?;
    for silent in &list.silent {
        eprintln!("not heard: {silent}");
    }
    match format {
        Format::Table => {
            let header = ["SNAPSHOT", "RADIATOR", "TAKEN", "WAY", "KEEPS", "STATE"];
            print_line(&table(header, list.items.iter().map(row)));
            Ok(())
        }
        format => print_list(list.items, format),
    }
}

/// Prints the path alone, for a script; on which radiator goes to standard error.
pub fn mount(
    paths: &Paths,
    volume: &VolumeName,
    name: SnapshotName,
    on: Option<RadiatorName>,
) -> Result<(), Refused> {
    let list = ask(paths, volume, on, SnapshotOrder::Mount { name })?;
    let Some(mount) = &list.mount else {
        return Err(Refused::because("the daemon did not say where it is mounted"));
    };
    eprintln!("mounted read-only on {}:", where_it_is(&list));
    print_line(&mount.display().to_string());
    Ok(())
}

pub fn unmount(
    paths: &Paths,
    volume: &VolumeName,
    name: SnapshotName,
    on: Option<RadiatorName>,
) -> Result<(), Refused> {
    let list = ask(paths, volume, on, SnapshotOrder::Unmount { name: name.clone() })?;
    print_line(&format!("{name} of {volume} is unmounted on {}.", where_it_is(&list)));
    Ok(())
}

pub fn remove(
    paths: &Paths,
    volume: &VolumeName,
    name: SnapshotName,
    on: Option<RadiatorName>,
) -> Result<(), Refused> {
    let list = ask(paths, volume, on, SnapshotOrder::Remove { name: name.clone() })?;
    print_line(&format!("{name} of {volume} is removed on {}.", where_it_is(&list)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_the_moment() {
        assert!(name_of_now().unwrap().as_str().starts_with("at-2"));
    }

    #[test]
    fn a_line_says_what_became_of_a_snapshot() {
        let mut line = SnapshotLine {
            radiator: "salon".into(),
            name: "s".into(),
            taken_ms: 0,
            way: "copy-on-write".into(),
            epoch: 3,
            kept_bytes: 1 << 20,
            mounted: None,
            lost: None,
        };
        assert_eq!(row(&line)[4..], ["1.0 MiB", "kept"]);
        line.mounted = Some("/mnt".into());
        assert_eq!(row(&line)[5], "mounted: /mnt");
        line.lost = Some("the disk became short".into());
        assert_eq!(row(&line)[5], "given up: the disk became short");
    }
}
