//! `thermidor volume check`: has a volume's replicas compared, shows how far it is, and says whether they are alike.

use crate::api::checked::Checked;
use crate::api::view::Home;
use crate::api::{Refused, Request, client};
use crate::paths::Paths;
use serde::Deserialize;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use thermidor_model::VolumeName;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// How long a comparison may stand still before that is said: somebody catches up, or writes much.
const STILL: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Begun {
    pass: u64,
}

/// Runs to its end; refused (exit 1) unless all replicas hold the same then.
pub fn main(paths: &Paths, volume: &VolumeName) -> Result<(), Refused> {
    let Begun { pass } = client::ask_for(paths, &Request::CheckVolume { volume: volume.clone() })?;
    eprintln!(
        "{volume} is being compared; Ctrl-C does not end that: `thermidor volume show {volume}` tells how far it is."
    );
    let checked = wait(paths, volume, pass)?;
    for repair in checked.repairs.iter().rev().take(checked.repaired as usize).rev() {
        println!("{repair}");
    }
    verdict(volume, &checked)
}

fn wait(paths: &Paths, volume: &VolumeName, pass: u64) -> Result<Checked, Refused> {
    let (mut done, mut moved, mut told) = (None, Instant::now(), false);
    let on_terminal = std::io::stderr().is_terminal();
    loop {
        let home: Home = client::ask_for(paths, &Request::Status)?;
        let line = home.volumes.into_iter().find(|v| v.name == volume.as_str());
        let line = line.ok_or_else(|| Refused::because(format!("the volume {volume} is gone")))?;
        if let Some(checked) = line.check.filter(|checked| checked.pass >= pass) {
            if checked.pass > pass || !checked.running {
                return Ok(checked);
            }
            if done != Some(checked.done) {
                (done, moved) = (Some(checked.done), Instant::now());
                if on_terminal {
                    eprint!("\r{}  ", checked.progress());
                    let _ = std::io::stderr().flush();
                }
            }
        }
        if moved.elapsed() > STILL && !told {
            told = true;
            eprintln!(
                "it stands still: a replica catches up, or the volume is moving; see `thermidor volume ls`"
            );
        }
        std::thread::sleep(LOOK);
    }
}

fn verdict(volume: &VolumeName, checked: &Checked) -> Result<(), Refused> {
    let mended = match checked.repaired {
        0 => String::new(),
        1 => "; one extent was wrong and was repaired".into(),
        n => format!("; {n} extents were wrong and were repaired"),
    };
    if checked.alike() {
        println!("{volume}: all replicas are alike{mended}");
        return Ok(());
    }
    let mut words = checked.differences.clone();
    if !checked.left_out.is_empty() {
        words.push(format!(
            "not compared, for it was not in sync throughout: {}",
            checked.left_out.join(", ")
        ));
    }
    Err(Refused::because(format!("{volume}: {}{mended}", words.join("\n  "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_alike_replicas_are_a_success() {
        let volume = VolumeName::new("box").unwrap();
        let mut checked = Checked {
            pass: 1,
            running: false,
            asked: false,
            done: 8,
            of: 8,
            began_ms: 0,
            ended_ms: 1,
            left_out: vec![],
            repaired: 1,
            repaired_ever: 1,
            repairs: vec![],
            differences: vec![],
        };
        assert_eq!(verdict(&volume, &checked), Ok(()));
        checked.left_out.push("bureau".into());
        let refused = verdict(&volume, &checked).unwrap_err();
        assert!(refused.exit == 1 && refused.text.contains("bureau") && refused.text.contains("repaired"));
        checked.left_out.clear();
        checked.differences.push("MiB 5 differs".into());
        assert!(verdict(&volume, &checked).unwrap_err().text.contains("MiB 5 differs"));
    }
}
