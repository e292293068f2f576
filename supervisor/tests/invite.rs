//! `thermidor friend invite` as a person runs it, at a daemon that is played here: what is printed, and that Ctrl-C ends
//! the waiting alone.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;
use thermidor_supervisor::api::friends::{FriendInvitation, FriendLine, FriendList, InvitationLine};
use thermidor_supervisor::api::{Reply, Request};

const UNTIL_MS: u64 = u64::MAX;

/// What the daemon knows, and what it was asked.
#[derive(Default)]
struct Home {
    friends: Vec<FriendLine>,
    asked: Vec<Value>,
}

impl Home {
    fn answer(&mut self, request: &Request) -> Value {
        let told = match request {
            Request::InviteFriend { .. } => serde_json::to_value(FriendInvitation {
                id: 7,
                code: "one-two-three".into(),
                until_ms: UNTIL_MS,
                addresses: vec!["maison.example:7746".into()],
            }),
            Request::Friends { .. } => serde_json::to_value(FriendList {
                items: self.friends.clone(),
                invitation: Some(InvitationLine {
                    id: 7,
                    until_ms: UNTIL_MS,
                    burnt: !self.friends.is_empty(),
                }),
                vault_trouble: None,
                left: vec![],
            }),
            other => panic!("nobody should ask for {other:?}"),
        };
        told.unwrap()
    }
}

/// Answers as the daemon would.
fn plays(data: &Path) -> Arc<Mutex<Home>> {
    let home = Arc::new(Mutex::new(Home::default()));
    let listener = UnixListener::bind(data.join("thermidor.sock")).unwrap();
    let at = home.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream: UnixStream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let mut home = at.lock().unwrap();
            home.asked.push(serde_json::from_str(&line).unwrap());
            let reply = Reply::Ok(home.answer(&serde_json::from_str(&line).unwrap()));
            drop(home);
            // Whoever was ended by Ctrl-C hears no answer.
            let _gone = writeln!(&stream, "{}", serde_json::to_string(&reply).unwrap());
        }
    });
    home
}

fn invites(data: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_thermidor"))
        .args(["friend", "invite", "--data"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the daemon was asked so often.
fn until_asked(home: &Mutex<Home>, times: usize) {
    for _ in 0..400 {
        if home.lock().unwrap().asked.len() >= times {
            return;
        }
        sleep(Duration::from_millis(50));
    }
    panic!("{:?}", home.lock().unwrap().asked);
}

fn words(mut child: Child) -> (std::process::ExitStatus, String, String) {
    let (mut out, mut errors) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    (child.wait().unwrap(), out, errors)
}

#[test]
fn ctrl_c_ends_the_waiting_and_leaves_the_code_good() {
    let dir = tempfile::tempdir().unwrap();
    let home = plays(dir.path());
    let child = invites(dir.path());
    until_asked(&home, 4);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let (status, out, errors) = words(child);
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()), "{errors}");
    assert_eq!(out, "one-two-three\n");
    assert!(errors.contains("Ctrl-C leaves the code good"), "{errors}");
    // Nothing is taken back: after the code it has only looked.
    let asked = home.lock().unwrap().asked.clone();
    assert_eq!(asked[1]["do"], json!("invite-friend"), "{asked:?}");
    assert!(asked[2..].iter().all(|asked| asked["do"] == json!("friends")), "{asked:?}");
}

#[test]
fn whoever_came_by_the_code_is_shown_with_the_four_words() {
    let dir = tempfile::tempdir().unwrap();
    let home = plays(dir.path());
    let child = invites(dir.path());
    until_asked(&home, 4);
    home.lock().unwrap().friends.push(FriendLine {
        home: "alpes".into(),
        words: ["cabin", "lemon", "orbit", "tiger"].map(String::from),
        generation: 1,
        ..FriendLine::default()
    });
    let (status, out, errors) = words(child);
    assert!(status.success(), "{errors}");
    assert!(out.contains("alpes was met") && out.contains("    cabin lemon orbit tiger\n"), "{out}");
    // Nobody is there to say yes: what is to be run instead is said.
    assert!(out.contains("`thermidor friend confirm alpes` in both homes"), "{out}");
}
