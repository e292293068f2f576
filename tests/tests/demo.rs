//! `thermidor demo`, as a person runs it.

#![forbid(unsafe_code)]

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use thermidor_tests::{options, program, traces};

fn start() -> Child {
    let mut command = Command::new(program("thermidor").unwrap());
    command.arg("demo").stdout(Stdio::piped()).spawn().unwrap()
}

/// Where the demo's lab lies.
fn folder() -> PathBuf {
    options(&[]).unwrap().base.join("run/demo")
}

#[test]
fn all_that_the_demo_claims_happens_and_nothing_of_it_stays() {
    let told = start().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&told.stdout);
    println!("{text}");
    let failed: Vec<&str> = text.lines().filter(|line| line.contains("[FAIL]")).collect();
    assert!(told.status.success(), "{}: {}", told.status, failed.join("\n"));
    assert!(text.contains("What was shown"), "it was told to its end");
    assert_eq!(traces("demo", &folder()), Vec::<String>::new());
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let mut demo = start();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    // The home forms: engines, processes, mounts are there.
    assert!(lines.any(|line| line.unwrap().contains("thermidor join")), "it got as far as a second radiator");
    assert_ne!(traces("demo", &folder()), Vec::<String>::new());
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = demo.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{}", rest.join("\n"));
    assert_eq!(traces("demo", &folder()), Vec::<String>::new());
}
