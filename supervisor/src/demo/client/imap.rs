//! Reading mail by IMAP over TLS: which Message-IDs a mailbox holds, and how often.

use super::any_server::any_server;
use super::lines::{Lines, connect};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

/// The Message-IDs in the inbox of `user`, without brackets, one per message.
pub fn list(to: SocketAddr, user: &str, password: &str) -> io::Result<Vec<String>> {
    let config = any_server().map_err(io::Error::other)?;
    let name = ServerName::IpAddress(to.ip().into());
    let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    converse(&mut Lines::new(StreamOwned::new(tls, connect(to)?)), user, password)
}

fn converse<S: Read + Write>(lines: &mut Lines<S>, user: &str, password: &str) -> io::Result<Vec<String>> {
    lines.hear()?;
    ask(lines, "a", &format!("LOGIN {} {}", quoted(user), quoted(password)))?;
    let selected = ask(lines, "b", "SELECT INBOX")?;
    let empty = selected.iter().any(|l| l.eq_ignore_ascii_case("* 0 EXISTS"));
    let ids = if empty {
        Vec::new()
    } else {
        let fetched = ask(lines, "c", "FETCH 1:* (BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")?;
        fetched.iter().filter_map(|line| message_id(line)).collect()
    };
    lines.say("d LOGOUT")?;
    Ok(ids)
}

/// Sends a command and returns the lines before its `OK`.
fn ask<S: Read + Write>(lines: &mut Lines<S>, tag: &str, command: &str) -> io::Result<Vec<String>> {
    lines.say(&format!("{tag} {command}"))?;
    let mut heard = Vec::new();
    loop {
        let line = lines.hear()?;
        match line.strip_prefix(&format!("{tag} ")) {
            Some(end) if end.starts_with("OK") => return Ok(heard),
            Some(end) => {
                let verb = command.split(' ').next().unwrap_or_default();
                return Err(io::Error::other(format!("IMAP {verb}: {end}")));
            }
            None => heard.push(line),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn message_id(line: &str) -> Option<String> {
    let (field, value) = line.split_once(':')?;
    let id = value.trim().strip_prefix('<')?.strip_suffix('>')?;
    field.eq_ignore_ascii_case("message-id").then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Server {
        answers: io::Cursor<Vec<u8>>,
        said: Vec<u8>,
    }

    impl Read for Server {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.answers.read(to)
        }
    }

    impl Write for Server {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.said.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answering(text: &str) -> Lines<Server> {
        Lines::new(Server { answers: io::Cursor::new(text.replace('\n', "\r\n").into_bytes()), said: vec![] })
    }

    #[test]
    fn every_message_is_listed_duplicates_too() {
        let one = "* 1 FETCH (BODY[HEADER.FIELDS (MESSAGE-ID)] {20}\nMessage-ID: <a@b>\n\n)\n";
        let two = "* 2 FETCH (BODY[HEADER.FIELDS (MESSAGE-ID)] {20}\nMessage-Id: <a@b>\n\n)\n";
        let mut lines = answering(&format!("* OK hi\na OK in\n* 2 EXISTS\nb OK\n{one}{two}c OK done\n"));
        assert_eq!(converse(&mut lines, "marie", "p\"w").unwrap(), ["a@b", "a@b"]);
    }

    #[test]
    fn an_empty_inbox_is_no_error_and_a_refused_login_is_without_telling_the_password() {
        let mut lines = answering("* OK hi\na OK in\n* 0 EXISTS\nb OK\n");
        assert_eq!(converse(&mut lines, "marie", "pw").unwrap(), Vec::<String>::new());
        let mut lines = answering("* OK hi\na NO [AUTHENTICATIONFAILED] no\n");
        let error = converse(&mut lines, "marie", "pw-secret").unwrap_err().to_string();
        assert!(error.contains("LOGIN") && !error.contains("pw-secret"), "{error}");
    }
}
