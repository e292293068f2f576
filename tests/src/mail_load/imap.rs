//! An IMAP session that changes things, and tells an answer from silence.

use super::compare::{Listing, Mailbox, Seen};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use thermidor_supervisor::demo::client::any_server::any_server;
use thermidor_supervisor::demo::client::lines::{Lines, connect};

/// Why a command is not acknowledged.
#[derive(Debug)]
pub enum NotDone {
    /// The answer was `NO` or `BAD`, with its text.
    Refused(String),
    /// The connection was lost before the answer.
    Lost(io::Error),
}

impl From<io::Error> for NotDone {
    fn from(error: io::Error) -> Self {
        NotDone::Lost(error)
    }
}

/// The lines before a command's `OK`, and that line.
pub type Answer = Vec<String>;

/// A session that is logged in.
#[derive(Debug)]
pub struct Session<S> {
    lines: Lines<S>,
    tag: u64,
    selected: Option<String>,
}

/// Over the home's network.
pub type Imap = Session<StreamOwned<ClientConnection, TcpStream>>;

impl Imap {
    /// Connects and logs in.
    pub fn open(to: SocketAddr, user: &str, password: &str) -> Result<Self, NotDone> {
        let config = any_server().map_err(io::Error::other)?;
        let name = ServerName::IpAddress(to.ip().into());
        let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut session =
            Self { lines: Lines::new(StreamOwned::new(tls, connect(to)?)), tag: 0, selected: None };
        session.lines.hear()?;
        session.ask(&format!("LOGIN \"{user}\" \"{password}\""))?;
        Ok(session)
    }
}

impl<S: Read + Write> Session<S> {
    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, command: &str) -> Result<Answer, NotDone> {
        self.tag += 1;
        let tag = format!("t{} ", self.tag);
        self.lines.say(&format!("{tag}{command}"))?;
        let mut heard = Vec::new();
        loop {
            let line = self.lines.hear()?;
            match line.strip_prefix(&tag) {
                Some(end) if end.starts_with("OK") => {
                    heard.push(end.to_owned());
                    return Ok(heard);
                }
                Some(end) => return Err(NotDone::Refused(end.to_owned())),
                None => heard.push(line),
            }
        }
    }

    /// Opens a mailbox, unless it is open.
    pub fn select(&mut self, mailbox: &str) -> Result<(), NotDone> {
        if self.selected.as_deref() != Some(mailbox) {
            self.selected = None;
            self.ask(&format!("SELECT {mailbox}"))?;
            self.selected = Some(mailbox.to_owned());
        }
        Ok(())
    }

    /// Puts a message into a mailbox; returns its number.
    pub fn append(
        &mut self,
        mailbox: &str,
        flags: &BTreeSet<&'static str>,
        id: &str,
    ) -> Result<Option<u32>, NotDone> {
        let flags = flags.iter().copied().collect::<Vec<_>>().join(" ");
        let text = format!(
            "Message-ID: <{id}>\r\nFrom: <marie@maison.example>\r\nSubject: {id}\r\n\r\nThis is {id}.\r\n"
        );
        // The literal goes at once (LITERAL+), in one write.
        let answer = self.ask(&format!("APPEND {mailbox} ({flags}) {{{}+}}\r\n{text}", text.len()))?;
        Ok(last_number(&answer, "[APPENDUID "))
    }

    /// Sets or takes away a flag; says whether the server showed the message with it.
    pub fn store(&mut self, uid: u32, flag: &str, set: bool) -> Result<bool, NotDone> {
        let sign = if set { '+' } else { '-' };
        let answer = self.ask(&format!("UID STORE {uid} {sign}FLAGS ({flag})"))?;
        let shown =
            |line: &String| number_after(line, "UID ") == Some(uid) && flags_of(line).contains(flag) == set;
        Ok(answer.iter().any(shown))
    }

    /// Moves or copies a message; returns its number there, `None` if the server knew no such message.
    pub fn transfer(&mut self, verb: &str, uid: u32, to: &str) -> Result<Option<u32>, NotDone> {
        let answer = self.ask(&format!("UID {verb} {uid} {to}"))?;
        Ok(last_number(&answer, "[COPYUID "))
    }

    /// The number of a message.
    pub fn find(&mut self, id: &str) -> Result<Option<u32>, NotDone> {
        let answer = self.ask(&format!("UID SEARCH HEADER Message-ID \"<{id}>\""))?;
        let numbers = answer.iter().find_map(|line| line.strip_prefix("* SEARCH"));
        Ok(numbers.and_then(|n| n.split_whitespace().next()).and_then(|n| n.parse().ok()))
    }

    /// All that is in these mailboxes.
    pub fn list(&mut self, mailboxes: &[String]) -> Result<Listing, NotDone> {
        let mut listing = Listing::new();
        for name in mailboxes {
            self.selected = None;
            let opened = self.ask(&format!("EXAMINE {name}"))?;
            let validity = last_number(&opened, "[UIDVALIDITY ").unwrap_or_default();
            let fetched = self.ask("UID FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")?;
            listing.insert(name.clone(), Mailbox { validity, messages: messages(&fetched) });
        }
        Ok(listing)
    }
}

/// The messages of a FETCH: each a line with number and flags, then its header.
fn messages(lines: &[String]) -> Vec<Seen> {
    let mut found = Vec::new();
    let mut head: Option<(u32, BTreeSet<String>)> = None;
    for line in lines {
        if line.starts_with("* ") {
            head = number_after(line, "UID ")
                .filter(|_| line.contains(" FETCH ("))
                .map(|uid| (uid, flags_of(line)));
        } else if let Some(id) = line.split_once(':').and_then(|(_, value)| value.trim().strip_prefix('<'))
            && let Some((uid, flags)) = head.take()
        {
            found.push(Seen { uid, id: id.trim_end_matches('>').to_owned(), flags });
        }
    }
    found
}

fn flags_of(line: &str) -> BTreeSet<String> {
    let list = line.split_once("FLAGS (").and_then(|(_, rest)| rest.split_once(')'));
    list.map(|(flags, _)| flags.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

fn number_after(line: &str, word: &str) -> Option<u32> {
    let (_, rest) = line.split_once(word)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The last number of a response code.
fn last_number(answer: &[String], code: &str) -> Option<u32> {
    answer.iter().find_map(|line| {
        let (_, rest) = line.split_once(code)?;
        rest.split_once(']')?.0.split_whitespace().last()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Server {
        answers: io::Cursor<Vec<u8>>,
    }

    impl Read for Server {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.answers.read(to)
        }
    }

    impl Write for Server {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answering(text: &str) -> Session<Server> {
        let answers = io::Cursor::new(text.replace('\n', "\r\n").into_bytes());
        Session { lines: Lines::new(Server { answers }), tag: 0, selected: None }
    }

    #[test]
    fn numbers_are_read_from_what_the_server_answers() {
        let mut session = answering(
            "t1 OK [APPENDUID 1764 12] done\n* OK [COPYUID 1764 12 3] Moved\n* 1 EXPUNGE\nt2 OK Move done\n\
             t3 OK no such message\n* SEARCH 9 11\nt4 OK found\n* SEARCH\nt5 OK none\n",
        );
        assert_eq!(session.append("INBOX", &BTreeSet::new(), "a").unwrap(), Some(12));
        assert_eq!(session.transfer("MOVE", 12, "Archive").unwrap(), Some(3));
        assert_eq!(session.transfer("MOVE", 12, "Archive").unwrap(), None);
        assert_eq!(session.find("a").unwrap(), Some(9));
        assert_eq!(session.find("a").unwrap(), None);
    }

    #[test]
    fn a_lost_connection_is_no_refusal() {
        let mut session = answering("t1 NO [SERVERBUG] Internal error\n* 1 FETCH (UID 4 FLAGS (\\Seen))\n");
        assert!(matches!(session.store(4, "\\Seen", true), Err(NotDone::Refused(_))));
        assert!(matches!(session.store(4, "\\Seen", true), Err(NotDone::Lost(_))));
    }

    #[test]
    fn a_listing_tells_numbers_flags_and_message_ids() {
        let mut session = answering(
            "* 1 EXISTS\n* OK [UIDVALIDITY 77] valid\nt1 OK [READ-ONLY] opened\n\
             * 1 FETCH (UID 5 FLAGS (\\Seen \\Recent) BODY[HEADER.FIELDS (MESSAGE-ID)] {19}\nMessage-ID: <a@b>\n\n)\n\
             * 2 FETCH (UID 6 FLAGS () BODY[HEADER.FIELDS (MESSAGE-ID)] {19}\nMessage-ID: <c@b>\n\n)\nt2 OK done\n",
        );
        let listing = session.list(&["INBOX".into()]).unwrap();
        let inbox = &listing["INBOX"];
        assert_eq!((inbox.validity, inbox.messages.len()), (77, 2));
        assert_eq!((inbox.messages[0].uid, inbox.messages[0].id.as_str()), (5, "a@b"));
        assert!(inbox.messages[0].flags.contains("\\Seen") && inbox.messages[1].flags.is_empty());
    }
}
