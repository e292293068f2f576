//! YaCy's stand-in in a whole home: its index goes with it, its long stop is waited for on a move and
//! never when the radiator is fenced.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use thermidor_supervisor::demo::home::Status;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_tests::record::{RADIATORS, RecordHome};

const SEARCH: &str = "  search:
    recipe: yacy
    image: thermidor/yacy-standin
    environment: { STANDIN_STOP_S: \"35\" }
    volumes: [ \"index:/opt/yacy_search_server/DATA\" ]
";
const INDEX: &str = "  index: { size: 128m, replicas: 3, durability: 2 }\n";
/// What is put into the index.
const PAGE: &str = "http://found.example/again";

/// One page, asked for through the floating address; none while the service is on its way.
fn get(home: &RecordHome, path: &str) -> Result<Option<String>> {
    let to = SocketAddr::new(home.home.lab.floating().into(), 8090);
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: home\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = home.home.lab.as_client(asked)?;
    Ok(answer.ok().filter(|text| text.starts_with("HTTP/1.0 200")))
}

/// What the index holds of a word; waits until the service answers.
fn found(home: &RecordHome, word: &str) -> Result<usize> {
    let path = format!("/yacysearch.json?query={word}");
    let answer = until(Duration::from_secs(60), "the search page", || {
        // Whatever keeps the page away is over soon, or is what this says after a minute.
        Ok(get(home, &path).unwrap_or_default())
    })?;
    Ok(answer.matches("\"link\"").count())
}

#[test]
fn yacy_is_moved_after_its_long_stop_and_fenced_without_one_and_finds_its_files_again() {
    let mut home = RecordHome::form("yacy").unwrap();
    home.declare_with(SEARCH, INDEX).unwrap();
    let up = |s: &Status| s.runs_on("search").is_some() && RADIATORS.iter().all(|r| s.in_sync(r));
    let status = home.home.wait(120, "the search engine", up).unwrap();
    let first = status.runs_on("search").unwrap().to_owned();
    let second = *RADIATORS.iter().find(|r| **r != first).unwrap();
    assert_eq!(found(&home, "found.example").unwrap(), 0);
    get(&home, &format!("/Crawler_p.html?crawlingURL={PAGE}")).unwrap().expect("the crawler takes a page");
    assert_eq!(found(&home, "found.example").unwrap(), 1);

    let moved = |home: &RecordHome| -> Result<()> {
        home.home.type_here(&["move", "search", second])?;
        home.home.wait(120, "the move", |s| s.runs_on("search") == Some(second))?;
        ensure!(found(home, "found.example")? == 1, "the page is there after the move");
        ensure!(found(home, "stopped")? == 1, "it was given the time to stop in order");
        Ok(())
    };
    home.through(moved).unwrap();

    home.sit_away_from(&[second]).unwrap();
    let fenced = |home: &RecordHome| -> Result<()> {
        home.home.lab.cut_all(second)?;
        let away = |s: &Status| s.runs_on("search").is_some_and(|r| r != second);
        home.home.wait(30, "a take-over, long before a stop would have ended", away)?;
        let standin = |words: &[String]| words.iter().any(|word| word.contains("standin.py"));
        let radiator = home.radiator(second)?;
        let dead = || Ok(radiator.pids_where(standin).is_empty().then_some(()));
        until(Duration::from_secs(20), "the old instance to be killed", dead)?;
        ensure!(found(home, "found.example")? == 1, "the page is there after the take-over");
        ensure!(found(home, "stopped")? == 1, "it was not asked to stop");
        Ok(home.home.lab.heal()?)
    };
    home.through(fenced).unwrap();
    let now = home.home.wait(60, "the search engine", up).unwrap();
    let third = now.runs_on("search").context("it runs").unwrap();
    assert_ne!(third, second);
    assert_eq!(found(&home, "started").unwrap(), 3, "three starts on one index");
}
