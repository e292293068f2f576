//! A recovery kit is replaced in a living home: the friend is told and changes nothing before its person has compared the words;
//! then shares of the new one bring the home back on a bare machine, and the old paper opens nothing.

#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use serde_json::Value;
use std::time::Duration;
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_tests::alone::{asked, befriend, found};

const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until something that is asked in JSON is as wanted.
fn becomes(
    home: &Home,
    machine: &str,
    args: &[&str],
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let found = until(PATIENCE, what, || {
        std::thread::sleep(Duration::from_millis(500));
        let said = asked(home, machine, args).unwrap_or_default();
        Ok(is(&said).then_some(said))
    });
    Ok(found?)
}

#[test]
fn a_kit_is_replaced_and_the_friend_believes_it_when_its_person_has_compared_the_words() {
    let mut home = found("kit-replace", "every: 1h", "lend: 64m").unwrap();
    let chalet = home.lab.radiator("chalet").unwrap().address().to_string();
    let said = home.refused_on("salon", &["kit", "replace", "--yes"]).unwrap();
    assert!(said.contains("`thermidor kit print` makes one"), "{said}");
    befriend(&mut home).unwrap();
    let old = home.type_on("salon", &["kit", "print", "-o", "words"]).unwrap();
    home.type_on("salon", &["backup", "run"]).unwrap();
    replaced(&home).unwrap();
    let new = home.type_on("salon", &["kit", "print", "-o", "words"]).unwrap();
    assert_ne!(old, new);
    let shares = split(&home).unwrap();
    recovered(&mut home, &old, &shares, &chalet).unwrap();
}

/// The new kit in three shares, of which two are needed: where they lie.
fn split(home: &Home) -> Result<Vec<String>> {
    let dir = home.lab.radiator("neuf")?.dir().join("shares");
    let to = dir.to_string_lossy().into_owned();
    home.type_on(
        "salon",
        &["kit", "split", "--among", "alpes,plaine,riviere", "--needed", "2", "--to", &to],
    )?;
    let kit = asked(home, "salon", &["kit", "show", "-o", "json"])?;
    ensure!(kit["split"]["needed"] == 2 && kit["split"]["of"] == 3, "{kit}");
    Ok(["1-of-3-alpes", "2-of-3-plaine", "3-of-3-riviere"]
        .map(|share| format!("{to}/share-{share}.txt"))
        .into())
}

fn replaced(home: &Home) -> Result<()> {
    home.type_on("salon", &["kit", "replace", "--yes"])?;
    let again = home.refused_on("salon", &["kit", "replace", "--yes"])?;
    ensure!(again.contains("replaced already"), "{again}");
    let show = ["kit", "show", "-o", "json"];
    let told = becomes(home, "salon", &show, "the new kit to be announced", |said| {
        said["waits"][0]["announced_ms"].is_u64()
    })?;
    ensure!(told["waits"][0]["friend"] == "alpes" && told["printed_ms"].is_null(), "{told}");
    let words = told["waits"][0]["words"].clone();
    let list = ["friend", "ls", "-o", "json"];
    let heard = becomes(home, "chalet", &list, "alpes to have heard of it", |said| {
        said["items"][0]["kit_claims"][0].is_array()
    })?;
    ensure!(heard["items"][0]["kit_claims"] == Value::from(vec![words.clone()]), "{heard} is not {words}");
    // Everything goes on as before, both ways.
    home.type_on("salon", &["backup", "run", "notes"])?;
    let status = asked(home, "chalet", &["status", "-o", "json"])?;
    ensure!(status["warnings"].to_string().contains("recovery kit was replaced"), "{status}");

    home.type_on("chalet", &["friend", "confirm", "maison", "--yes"])?;
    becomes(home, "salon", &show, "alpes to hold to the new kit", |said| {
        said["made_ms"].is_u64() && said["waits"].is_null()
    })?;
    let events = home.type_on("salon", &["events"])?;
    ensure!(events.contains("destroy it") && !events.contains("has lost something"), "{events}");
    for args in [&["backup", "run"][..], &["backup", "check", "notes"]] {
        home.type_on("salon", args)?;
    }
    becomes(home, "salon", &["backup", "ls", "-o", "json"], "everything to be proved", |said| {
        let lines = said["items"].as_array().cloned().unwrap_or_default();
        lines.len() == 2 && lines.iter().all(|line| line["state"] == "proved")
    })?;
    Ok(())
}

/// The power is gone for good: only shares of the kit that was confirmed last are of use, and enough of them.
fn recovered(home: &mut Home, old: &str, shares: &[String], friend: &str) -> Result<()> {
    home.lab.radiator("salon")?.power_off()?;
    let listen = home.listener("neuf")?;
    let paper = home.lab.radiator("neuf")?.dir().join("paper");
    let path = paper.to_string_lossy().into_owned();
    let args = ["--friend", friend, "--radiator", "salon", "--listen", &listen, "--others-are-unplugged"];
    let with = |given: &[&'static str], papers: &[&str]| -> Vec<String> {
        let papers = given.iter().zip(papers).flat_map(|(flag, paper)| [*flag, *paper]);
        ["recover"].into_iter().chain(papers).chain(args).map(str::to_owned).collect()
    };
    fn strs(all: &[String]) -> Vec<&str> {
        all.iter().map(String::as_str).collect()
    }
    std::fs::write(&paper, old)?;
    let said = home.refused_on("neuf", &strs(&with(&["--kit"], &[&path])))?;
    ensure!(said.contains("does not know this home") && said.contains("try the other paper"), "{said}");
    let said = home.refused_on("neuf", &strs(&with(&["--share"], &[&shares[2]])))?;
    ensure!(said.contains("one more share") && said.contains("any of 1, 2"), "{said}");
    let said = home.type_on("neuf", &strs(&with(&["--share"; 2], &[&shares[2], &shares[0]])))?;
    ensure!(said.contains("maison is recovered from alpes") && said.contains("in generation 2"), "{said}");
    home.start_units("neuf", true)?;
    home.sit_at("neuf");
    home.wait(180, "the notes with their data", |s| {
        s.service("notes").is_some_and(|n| n.state == "runs" && n.active.as_deref() == Some("salon"))
    })?;
    Ok(())
}
