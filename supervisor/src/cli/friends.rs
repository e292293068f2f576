//! `friend invite`, `accept`, `confirm`, `ls`, `readdress`, `rm`.

mod part;
mod waiting;

use super::apply::confirmed;
use super::show::{bytes, local_time, print, print_line, table};
use super::{Format, Output};
use crate::api::friends::{FriendInvitation, FriendLine, FriendList, FriendMet, LeftLine};
use crate::api::view::VERSION;
use crate::api::{Refused, Request, client};
use crate::clock::unix_ms;
use crate::paths::Paths;
use clap::Subcommand;
use serde::Serialize;
use std::io::IsTerminal;
use thermidor_model::name::HomeName;

#[derive(Debug, Subcommand)]
pub enum FriendVerb {
    /// Give out a code with which another home becomes a friend; waits until it is used.
    Invite {
        /// How long the code is good: 30m, 1h.
        #[arg(long, default_value = "1h")]
        ttl: String,
        /// Print the code and don't wait.
        #[arg(long)]
        no_wait: bool,
        /// Both people read the same words: don't ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Become a friend of the home whose person has told you a code and an address.
    Accept {
        /// The three words.
        code: String,
        /// Host, or host and port; several are tried in turn.
        #[arg(required = true)]
        addresses: Vec<String>,
        /// Both people read the same words: don't ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Both people read the same words, or a friend's home was really recovered or rescued, or its kit replaced.
    Confirm {
        /// Who.
        home: HomeName,
        /// The words that its person reads, where it says to have several kits: "one two three four".
        #[arg(long)]
        words: Option<String>,
        /// Don't ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Whether each is reached, what is lent and used, the last backup each way.
    Ls(Output),
    /// A friend is reached elsewhere.
    Readdress {
        /// Who.
        home: HomeName,
        /// Host, or host and port, the best first.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Be friends no longer: nothing is sent there, nothing of theirs is taken or given any more.
    Rm {
        /// Who.
        home: HomeName,
        /// Delete what it keeps here, for good; also of one that was removed before.
        #[arg(long)]
        delete_data: bool,
        /// Don't ask.
        #[arg(long, short)]
        yes: bool,
    },
}

pub fn main(paths: &Paths, verb: FriendVerb) -> Result<(), Refused> {
    match verb {
        FriendVerb::Invite { ttl, no_wait, yes } => invite(paths, &ttl, no_wait, yes),
        FriendVerb::Accept { code, addresses, yes } => accept(paths, code, addresses, yes),
        FriendVerb::Confirm { home, words, yes } => confirm(paths, &home, words.as_deref(), yes),
        FriendVerb::Ls(output) => list(paths, output.format),
        FriendVerb::Readdress { home, addresses } => {
            client::ask(paths, &Request::ReaddressFriend { home: home.clone(), addresses })?;
            print_line(&format!("{home} is dialled there from now on."));
            Ok(())
        }
        FriendVerb::Rm { home, delete_data, yes } => part::main(paths, &home, delete_data, yes),
    }
}

fn friends(paths: &Paths, look: bool) -> Result<FriendList, Refused> {
    client::ask_for(paths, &Request::Friends { look })
}

fn invite(paths: &Paths, ttl: &str, no_wait: bool, yes: bool) -> Result<(), Refused> {
    let ttl_s = super::home::duration_s(ttl)?;
    let before = friends(paths, false)?;
    let given: FriendInvitation = client::ask_for(paths, &Request::InviteFriend { ttl_s })?;
    print_line(&given.code);
    eprintln!("Good once, for {ttl}. Tell it to the other person, not by mail; there they type:");
    eprintln!("    thermidor friend accept {} {}", given.code, given.addresses.join(" "));
    if no_wait {
        return Ok(());
    }
    eprintln!("Waiting for them; Ctrl-C leaves the code good, `thermidor friend ls` shows who came.");
    let met = waiting::wait(&mut Daemon(paths), &before.items, &given)?;
    compare(paths, &met.home, &met.words, yes)
}

/// This radiator's daemon, asked again and again.
struct Daemon<'a>(&'a Paths);

impl waiting::World for Daemon<'_> {
    fn ask(&mut self) -> Result<FriendList, Refused> {
        friends(self.0, false)
    }

    fn pause(&mut self) {
        std::thread::sleep(waiting::LOOK);
    }

    fn now_ms(&self) -> u64 {
        unix_ms()
    }

    fn tell(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

fn accept(paths: &Paths, code: String, addresses: Vec<String>, yes: bool) -> Result<(), Refused> {
    let met: FriendMet = client::ask_for(paths, &Request::AcceptFriend { code, addresses })?;
    if met.addresses.is_empty() {
        eprintln!("{} lends no space: it can send backups here, not take any.", met.home);
    }
    compare(paths, &met.home, &met.words, yes)
}

/// Shows the words, and confirms them if the person says that the other reads the same.
fn compare(paths: &Paths, home: &str, words: &[String; 4], yes: bool) -> Result<(), Refused> {
    print_line(&format!("{home} was met. Its person must read these words:"));
    print_line(&format!("    {}", words.join(" ")));
    let later = format!("Compare them, then run `thermidor friend confirm {home}` in both homes.");
    if !yes && !std::io::stdin().is_terminal() {
        print_line(&later);
        return Ok(());
    }
    if !yes && !confirmed("Does the other person read the same?")? {
        print_line(&format!(
            "Not confirmed. If they differ, somebody is in between: `thermidor friend rm {home}` in both homes. {later}"
        ));
        return Ok(());
    }
    let home = super::home_name(home).map_err(Refused::because)?;
    client::ask(paths, &Request::ConfirmFriend { home: home.clone(), words: words.clone() })?;
    print_line(&format!("{home} is a friend."));
    Ok(())
}

fn known(paths: &Paths, home: &HomeName, look: bool) -> Result<FriendLine, Refused> {
    let list = friends(paths, look)?;
    list.items
        .into_iter()
        .find(|line| line.home == home.as_str())
        .ok_or_else(|| Refused::because(format!("{home} is no friend: `thermidor friend ls` lists them")))
}

/// Which of the kits that a friend says to have is meant.
fn claimed<'a>(line: &'a FriendLine, words: Option<&str>) -> Result<&'a [String; 4], Refused> {
    let all = || line.kit_claims.iter().map(|words| format!("    {}", words.join(" "))).collect::<Vec<_>>();
    let meant: Vec<&[String; 4]> = match words {
        Some(words) => {
            let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
            line.kit_claims.iter().filter(|claim| claim[..] == words[..]).collect()
        }
        None => line.kit_claims.iter().collect(),
    };
    match (&meant[..], words) {
        ([one], _) => Ok(one),
        (_, Some(_)) => Err(Refused::because(format!(
            "{} says to have no kit with those words, but:\n{}",
            line.home,
            all().join("\n")
        ))),
        (_, None) => Err(Refused::because(format!(
            "{} says to have several new kits: all but one are somebody's who has found its old paper. Ask its person, not \
             by mail, which words `thermidor kit show` gives there:\n{}\nthen run `thermidor friend confirm {} --words \
             \"...\"`",
            line.home,
            all().join("\n"),
            line.home
        ))),
    }
}

fn confirm_kit(paths: &Paths, line: &FriendLine, words: Option<&str>, yes: bool) -> Result<(), Refused> {
    let claim = claimed(line, words)?;
    let home = super::home_name(&line.home).map_err(Refused::because)?;
    print_line(&format!(
        "{home} says that its recovery kit was replaced. A thief with its old paper would say the same, with other words. Its \
         person must read these, by `thermidor kit show`: {}",
        claim.join(" ")
    ));
    if !yes && !confirmed("Has its person read them to you, by voice?")? {
        return Err(Refused::because(format!(
            "nothing was changed; `thermidor friend confirm {home} --yes` does it"
        )));
    }
    client::ask(paths, &Request::ConfirmKit { home: home.clone(), words: claim.clone() })?;
    print_line(&format!("{home} is known by its new kit from now on; the old one is refused."));
    Ok(())
}

fn confirm(paths: &Paths, home: &HomeName, words: Option<&str>, yes: bool) -> Result<(), Refused> {
    let line = known(paths, home, false)?;
    let ask = |question: &str| -> Result<(), Refused> {
        if yes || confirmed(question)? {
            return Ok(());
        }
        Err(Refused::because(format!("nothing was changed; `thermidor friend confirm {home} --yes` does it")))
    };
    if !line.confirmed {
        print_line(&format!("{home}'s person must read these words: {}", line.words.join(" ")));
        ask("Do they?")?;
        client::ask(paths, &Request::ConfirmFriend { home: home.clone(), words: line.words })?;
        print_line(&format!("{home} is a friend."));
        return Ok(());
    }
    if !line.kit_claims.is_empty() {
        return confirm_kit(paths, &line, words, yes);
    }
    let Some(generation) = line.claims else {
        print_line(&format!("{home} is a friend already, and there is nothing to confirm."));
        return Ok(());
    };
    print_line(&format!(
        "{home} says that it was recovered or rescued: generation {generation} instead of {}. A thief with its recovery \
         kit would say the same. From then on it writes, and whoever speaks for the earlier home is refused.",
        line.generation
    ));
    ask("Has its person told you so, by voice?")?;
    client::ask(paths, &Request::ConfirmGeneration { home: home.clone(), generation })?;
    print_line(&format!("{home} is believed to be of generation {generation}."));
    Ok(())
}

fn time(at: Option<u64>) -> String {
    at.map_or("-".into(), local_time)
}

fn row(line: &FriendLine) -> [String; 7] {
    let size = |n: Option<u64>| n.map_or("-".into(), bytes);
    let state = match (line.confirmed, line.claims) {
        (false, _) => format!("not confirmed: `thermidor friend confirm {}`", line.home),
        (true, Some(claims)) => {
            format!("says to be of generation {claims}: `thermidor friend confirm {}`", line.home)
        }
        (true, None) if !line.kit_claims.is_empty() => {
            format!("says that its kit was replaced: `thermidor friend confirm {}`", line.home)
        }
        (true, None) => line.reach.clone(),
    };
    [
        line.home.clone(),
        state,
        size(line.lent_bytes),
        size(line.used_bytes),
        time(line.newest_here_ms),
        time(line.newest_there_ms),
        time(line.proven_there_ms),
    ]
}

/// What programs get.
#[derive(Serialize)]
struct Listed {
    version: u32,
    items: Vec<FriendLine>,
    left: Vec<LeftLine>,
}

fn list(paths: &Paths, format: Format) -> Result<(), Refused> {
    let list = friends(paths, true)?;
    if let Some(trouble) = &list.vault_trouble {
        eprintln!("what friends keep here is not known: {trouble}");
    }
    match format {
        Format::Table => {
            let header = ["FRIEND", "STATE", "LENT", "USED", "LAST BACKUP HERE", "OURS THERE", "PROVED"];
            print_line(&table(header, list.items.iter().map(row).chain(list.left.iter().map(part::row))));
            Ok(())
        }
        format => print(&Listed { version: VERSION, items: list.items, left: list.left }, format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> [String; 4] {
        let all: Vec<String> = text.split(' ').map(String::from).collect();
        all.try_into().unwrap()
    }

    fn line(kit_claims: &[&str]) -> FriendLine {
        FriendLine {
            home: "alice".into(),
            words: words("a b c d"),
            confirmed: true,
            generation: 1,
            kit_claims: kit_claims.iter().map(|claim| words(claim)).collect(),
            reach: "reachable".into(),
            ..FriendLine::default()
        }
    }

    #[test]
    fn of_two_new_kits_a_person_says_by_its_words_which_one_is_meant() {
        let one = line(&["one two three four"]);
        assert_eq!(claimed(&one, None).unwrap(), &one.kit_claims[0]);
        let two = line(&["one two three four", "five six seven eight"]);
        let asked = claimed(&two, None).unwrap_err().text;
        assert!(asked.contains("    one two three four\n    five six seven eight"), "{asked}");
        assert_eq!(claimed(&two, Some("Five six  seven eight")).unwrap(), &two.kit_claims[1]);
        let none = claimed(&two, Some("five six seven nine")).unwrap_err().text;
        assert!(none.contains("no kit with those words"), "{none}");
        assert!(row(&two)[1].contains("thermidor friend confirm alice"));
        assert_eq!(row(&line(&[]))[1], "reachable");
    }
}
