//! `thermidor mail account ...`: passwords come from the terminal or standard input, never from arguments.

use crate::api::{Refused, Request, client};
use crate::paths::Paths;
use clap::Subcommand;
use std::io::{BufRead, IsTerminal, Read, Write};
use thermidor_model::ServiceName;

#[derive(Debug, Subcommand)]
pub enum MailVerb {
    /// Accounts.
    Account {
        #[command(subcommand)]
        verb: AccountVerb,
        /// Which mail service.
        #[arg(long, global = true, default_value = "mail")]
        service: ServiceName,
    },
}

#[derive(Debug, Subcommand)]
pub enum AccountVerb {
    /// All of them.
    Ls(super::Output),
    /// Add one; its password is read from standard input.
    Add {
        /// Local part: `marie` of marie@example.org.
        account: String,
        /// Another local part that reaches it.
        #[arg(long)]
        alias: Vec<String>,
    },
    /// Change a password, read from standard input.
    Password {
        /// Local part.
        account: String,
    },
    /// Take one away; its mail stays on the volume.
    Rm {
        /// Local part.
        account: String,
    },
}

pub fn main(paths: &Paths, verb: MailVerb) -> Result<(), Refused> {
    let MailVerb::Account { verb, service } = verb;
    let request = match verb {
        AccountVerb::Ls(output) => return super::show::mail_accounts(paths, service, output.format),
        AccountVerb::Add { account, alias } => {
            let password = Some(read_secret(&format!("password of {account}: "))?);
            Request::MailAccount { service, account, password, aliases: Some(alias), remove: false }
        }
        AccountVerb::Password { account } => {
            let password = Some(read_secret(&format!("new password of {account}: "))?);
            Request::MailAccount { service, account, password, aliases: None, remove: false }
        }
        AccountVerb::Rm { account } => {
            Request::MailAccount { service, account, password: None, aliases: None, remove: true }
        }
    };
    client::ask(paths, &request).map(drop)
}

/// Longest value of a secret, bytes: the largest keys in PEM fit.
const SECRET_MAX: u64 = 64 << 10;

/// A secret's value: a line typed without being shown, or all of what is piped in (a key has many lines).
pub fn read_value(prompt: &str) -> Result<String, Refused> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return read_secret(prompt);
    }
    let mut text = String::new();
    let read = stdin.lock().take(SECRET_MAX + 1).read_to_string(&mut text);
    read.map_err(|e| Refused::because(format!("standard input: {e}")))?;
    let value = text.trim_end_matches(['\r', '\n']);
    match value.len() as u64 {
        0 => Err(Refused::because("an empty secret is none: type it, or pipe it in")),
        1..=SECRET_MAX => Ok(value.to_string()),
        _ => Err(Refused::because(format!("a secret has at most {SECRET_MAX} bytes"))),
    }
}

/// Reads one line without showing it.
pub fn read_secret(prompt: &str) -> Result<String, Refused> {
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal();
    if terminal {
        eprint!("{prompt}");
        let _unflushed_prompt = std::io::stderr().flush();
    }
    let shown = if terminal { hide_typing(true) } else { false };
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if shown {
        hide_typing(false);
        eprintln!();
    }
    read.map_err(|e| Refused::because(format!("standard input: {e}")))?;
    let secret = line.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(Refused::because("an empty secret is none: type it, or pipe it in"));
    }
    Ok(secret.to_string())
}

/// Switches the terminal's echo off or on; says whether it could.
fn hide_typing(hide: bool) -> bool {
    let word = if hide { "-echo" } else { "echo" };
    std::process::Command::new("stty").arg(word).status().is_ok_and(|s| s.success())
}
