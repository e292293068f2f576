//! The story that `thermidor demo` tells: a home forms, runs real mail where heat is wanted,
//! and loses nothing when a plug is pulled. Every sentence of it is checked.

mod acts;
mod friends;
pub mod ledger;
mod old_state;

use crate::demo::home::Home;
use crate::demo::lab::{Lab, Options, registry};
use acts::Demo;
use anyhow::{Context, Result, bail};
use ledger::Ledger;
use std::time::Instant;

/// The lab's name.
const LAB: &str = "demo";

/// Tells it; an error if anything failed.
pub fn tell(keep: bool) -> Result<()> {
    end_on_interrupt()?;
    let began = Instant::now();
    let options = Options::beside(&std::env::current_exe().context("where this program is")?);
    let options = options.with_images(&super::home_images(), &|text| println!("  {text}"))?;
    let lab = Lab::new(LAB, &acts::RADIATORS, options)?;
    let mut demo = Demo::new(Home::new(lab, acts::RADIATORS[0]));
    let told = demo.play();
    if let Err(error) = &told {
        demo.ledger.claim("the story was told to its end", false, format!("{error:#}"));
    }
    demo.ledger.time("the whole demo", began.elapsed().as_millis() as u64);
    if !demo.ledger.all_held() {
        println!("\nLogs of every process: {} (removed with the lab)", demo.home.lab.dir().display());
        demo.show_last_words();
    }
    println!("\nWhat was shown\n{}", demo.ledger);
    if keep {
        play_on(&demo);
    }
    finish(&demo.ledger)
}

fn finish(ledger: &Ledger) -> Result<()> {
    if ledger.all_held() { Ok(()) } else { bail!("{} claims of the demo failed", ledger.failed()) }
}

/// Leaves the home running until Ctrl-C.
fn play_on(demo: &Demo) {
    println!("\nThe home runs on. In another terminal, as root:");
    for radiator in demo.home.lab.radiators().iter().filter(|r| r.has_power()) {
        if let Ok(line) = radiator.enter_line() {
            println!("  {:<8} {line}", radiator.name());
        }
    }
    println!("There `thermidor status` and all other commands speak to that radiator. Ctrl-C ends the home.");
    loop {
        std::thread::park();
    }
}

/// Removes the lab and ends when a person presses Ctrl-C or the process is asked to end.
fn end_on_interrupt() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("watch for Ctrl-C")?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let mut terminated = match terminated {
                Ok(signal) => signal,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // The receiver waits for this right below.
            ready.send(Ok(())).ok();
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            println!("\ninterrupted; removing the lab");
            let code = match registry::sweep_one(LAB) {
                Ok(()) => 130,
                Err(error) => {
                    eprintln!("not everything could be removed: {error}; run `thermidor lab-sweep {LAB}`");
                    1
                }
            };
            std::process::exit(code);
        });
    });
    is_ready.recv().context("watch for Ctrl-C")?.context("watch for Ctrl-C")
}
