//! Sending mail the way another mail server does: plain SMTP to port 25.

use super::deliver::{Session, Trouble};
use super::lines::{Lines, connect};
use std::net::{SocketAddr, TcpStream};

/// The domain of the Message-IDs made here.
pub const ID_DOMAIN: &str = "sender.elsewhere.example";

/// An SMTP session after its EHLO.
#[derive(Debug)]
pub struct Smtp {
    lines: Lines<TcpStream>,
    from: String,
    rcpt: Vec<String>,
}

impl Smtp {
    /// Connects and greets.
    pub fn open(to: SocketAddr, from: &str, rcpt: &[String]) -> Result<Self, Trouble> {
        let mut session =
            Self { lines: Lines::new(connect(to)?), from: from.to_owned(), rcpt: rcpt.to_vec() };
        session.answer('2')?;
        session.ask(&format!("EHLO {ID_DOMAIN}"), '2')?;
        Ok(session)
    }

    fn ask(&mut self, line: &str, good: char) -> Result<String, Trouble> {
        self.lines.say(line)?;
        self.answer(good)
    }

    /// The last line of an answer whose code must begin with `good`.
    fn answer(&mut self, good: char) -> Result<String, Trouble> {
        loop {
            let line = self.lines.hear()?;
            if line.chars().nth(3) == Some('-') {
                continue;
            }
            return match line.chars().next() {
                Some(first) if first == good => Ok(line),
                Some('5') => Err(Trouble::Refused(line)),
                _ => Err(Trouble::Again(line)),
            };
        }
    }
}

/// The Message-ID of an item.
pub fn message_id(name: &str) -> String {
    format!("{name}@{ID_DOMAIN}")
}

impl Session for Smtp {
    fn put(&mut self, name: &str) -> Result<(), Trouble> {
        self.ask(&format!("MAIL FROM:<{}>", self.from), '2')?;
        for rcpt in self.rcpt.clone() {
            self.ask(&format!("RCPT TO:<{rcpt}>"), '2')?;
        }
        self.ask("DATA", '3')?;
        let head = format!("From: <{}>\r\nTo: <{}>\r\n", self.from, self.rcpt.join(">, <"));
        let id = message_id(name);
        let mail = format!("{head}Subject: {name}\r\nMessage-ID: <{id}>\r\n\r\nThis is {name}.\r\n.");
        self.ask(&mail, '2').map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    /// A server that answers each line with the next answer of its script.
    fn scripted(answers: &'static [&'static str]) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for answer in answers {
                (&stream).write_all(answer.as_bytes()).unwrap();
                let in_data = answer.starts_with("354");
                while let Some(Ok(line)) = lines.next() {
                    heard.push(line.clone());
                    if !in_data || line == "." {
                        break;
                    }
                }
            }
            heard
        });
        (to, server)
    }

    #[test]
    fn a_message_counts_only_when_its_end_is_answered_250() {
        let answers =
            ["220 hi\r\n", "250-mail\r\n250 8BITMIME\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"];
        let (to, server) = scripted(Box::leak(Box::new(answers)));
        let mut smtp = Smtp::open(to, "a@elsewhere.example", &["marie@example.org".into()]).unwrap();
        let trouble = smtp.put("m-1").unwrap_err();
        assert!(matches!(trouble, Trouble::Again(_)), "the connection ended before the 250: {trouble:?}");
        let heard = server.join().unwrap();
        assert!(heard.contains(&format!("Message-ID: <{}>", message_id("m-1"))));
        assert_eq!(heard.last().unwrap(), ".");
    }

    #[test]
    fn a_5xx_is_a_refusal_and_a_4xx_asks_to_try_again() {
        let (to, _) =
            scripted(&["220 hi\r\n", "250 mail\r\n", "554 relay access denied\r\n", "451 later\r\n"]);
        let mut smtp = Smtp::open(to, "a@elsewhere.example", &["b@elsewhere.example".into()]).unwrap();
        assert_eq!(smtp.put("m-1"), Err(Trouble::Refused("554 relay access denied".into())));
        assert_eq!(smtp.put("m-1"), Err(Trouble::Again("451 later".into())));
    }
}
