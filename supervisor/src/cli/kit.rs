//! `kit print` and `kit show`.

use super::show::{print_bytes, print_line};
use super::{Format, Output, show};
use crate::api::view::{KitLine, KitPrint};
use crate::api::{Refused, Request, client};
use crate::paths::Paths;
use clap::{Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum KitVerb {
    /// Print the words from which the home comes back; drawn if there are none yet. Whoever has them is the home.
    Print {
        /// As the page to keep, or the words alone.
        #[arg(short = 'o', long = "output", value_enum, default_value = "page")]
        form: Form,
    },
    /// When the kit was made, printed and last tried.
    Show(Output),
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// What it is, the words, a QR code, the friends' addresses.
    Page,
    /// The words in one line.
    Words,
}

pub fn main(paths: &Paths, verb: &KitVerb) -> Result<(), Refused> {
    match verb {
        KitVerb::Print { form } => {
            let kit: KitPrint = client::ask_for(paths, &Request::PrintKit)?;
            match form {
                Form::Page => print_bytes(kit.page.as_bytes()),
                Form::Words => print_line(&kit.words.join(" ")),
            }
            eprintln!("Keep it away from the house, and to yourself: whoever has these words is this home.");
            Ok(())
        }
        KitVerb::Show(output) => {
            let home = show::home(paths)?;
            let Some(kit) = home.kit else {
                return Err(Refused::because(
                    "there is no recovery kit yet: `thermidor kit print` makes one",
                ));
            };
            match output.format {
                Format::Table => print_line(&words(&kit)),
                format => show::print(&kit, format)?,
            }
            Ok(())
        }
    }
}

/// What `status` says of the kit.
pub fn words(kit: &KitLine) -> String {
    let day = |at: u64| show::local_time(at).chars().take(10).collect::<String>();
    let printed = kit.printed_ms.map_or_else(
        || "never printed: `thermidor kit print`".to_owned(),
        |at| format!("printed {}", day(at)),
    );
    let tried = kit.rehearsed_ms.map_or_else(|| "never tried".to_owned(), |at| format!("tried {}", day(at)));
    format!("recovery kit of {}, {printed}, {tried}", day(kit.made_ms))
}
