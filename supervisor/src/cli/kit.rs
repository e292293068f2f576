//! `kit print`, `kit split`, `kit replace` and `kit show`.

use super::apply::confirmed;
use super::show::{print_bytes, print_line};
use super::{Format, Output, show};
use crate::api::recovery::kit_wait_words;
use crate::api::view::{KitLine, KitPrint, KitReplaced};
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
    /// Print one page for each of several persons, so many of which give the recovery kit back.
    Split(super::kit_split::SplitArgs),
    /// When the kit was made, printed, split and last tried; who still holds to the one before.
    Show(Output),
    /// Draw another kit in place of one whose paper was lost, seen or stolen. Every friend's person must confirm it.
    Replace {
        /// Don't ask.
        #[arg(long, short)]
        yes: bool,
    },
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
        KitVerb::Split(args) => super::kit_split::main(paths, args),
        KitVerb::Show(output) => {
            let home = show::home(paths)?;
            let Some(kit) = home.kit else {
                return Err(Refused::because(
                    "there is no recovery kit yet: `thermidor kit print` makes one",
                ));
            };
            match output.format {
                Format::Table => {
                    print_line(&words(&kit));
                    kit.waits.iter().for_each(|line| print_line(&kit_wait_words(line)));
                }
                format => show::print(&kit, format)?,
            }
            Ok(())
        }
        KitVerb::Replace { yes } => replace(paths, *yes),
    }
}

fn replace(paths: &Paths, yes: bool) -> Result<(), Refused> {
    let home = show::home(paths)?;
    let Some(kit) = home.kit else {
        return Err(Refused::because(
            "there is no recovery kit yet that could be replaced: `thermidor kit print` makes one",
        ));
    };
    print_line(&words(&kit));
    if !kit.waits.is_empty() {
        kit.waits.iter().for_each(|line| print_line(&kit_wait_words(line)));
        return Err(Refused::because("it was replaced already, and that is not done at every friend's yet"));
    }
    print_line(
        "Another one is drawn, to be printed at once. Each friend's home is told, and its person must confirm by voice: until \
         then the old paper opens what lies there, and the new one is a stranger; afterwards it is the other way round. \
         Once the last one has confirmed the old paper opens nothing any more: keep both till then.",
    );
    if !yes && !confirmed("Replace the recovery kit?")? {
        return Err(Refused::because("nothing was changed; `thermidor kit replace --yes` does it"));
    }
    let done: KitReplaced = client::ask_for(paths, &Request::ReplaceKit)?;
    print_line("The recovery kit was replaced. Print it now: `thermidor kit print`");
    done.waits.iter().for_each(|line| print_line(&kit_wait_words(line)));
    Ok(())
}

/// What `status` says of the kit.
pub fn words(kit: &KitLine) -> String {
    let day = |at: u64| show::local_time(at).chars().take(10).collect::<String>();
    let printed = kit.printed_ms.map_or_else(
        || "never printed: `thermidor kit print`".to_owned(),
        |at| format!("printed {}", day(at)),
    );
    let tried = kit.rehearsed_ms.map_or_else(|| "never tried".to_owned(), |at| format!("tried {}", day(at)));
    let held = match kit.waits.len() {
        0 => String::new(),
        count => format!("; {count} of the friends must still confirm it: `thermidor kit show`"),
    };
    let split = kit.split.as_ref().map_or_else(String::new, |split| {
        format!(", split {} of {} on {}", split.needed, split.of, day(split.at_ms))
    });
    format!("recovery kit of {}, {printed}{split}, {tried}{held}", day(kit.made_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::friends::KitSplit;

    #[test]
    fn what_was_done_with_the_kit_is_said_in_a_line() {
        let at = |day: i64| jiff::civil::date(2026, 11, day as i8).at(12, 0, 0, 0);
        let ms =
            |day| at(day).to_zoned(jiff::tz::TimeZone::system()).unwrap().timestamp().as_millisecond() as u64;
        let mut kit =
            KitLine { made_ms: ms(1), printed_ms: None, rehearsed_ms: None, split: None, waits: vec![] };
        assert_eq!(
            words(&kit),
            "recovery kit of 2026-11-01, never printed: `thermidor kit print`, never tried"
        );
        kit.printed_ms = Some(ms(2));
        kit.split = Some(KitSplit { at_ms: ms(3), needed: 2, of: 3 });
        assert_eq!(
            words(&kit),
            "recovery kit of 2026-11-01, printed 2026-11-02, split 2 of 3 on 2026-11-03, never tried"
        );
    }
}
