//! `friend invite` waits until somebody has used the code. What it hears is given in, so that all of it can be tried
//! without a home.

use crate::api::Refused;
use crate::api::friends::{FriendInvitation, FriendLine, FriendList};
use std::time::Duration;

/// Between two looks at whether somebody has used the code.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// How many looks in a row the daemon may not answer: it may be upgraded or started again, which takes a minute.
const SILENT_MAX: u32 = 240;
/// How many looks after the guess the home may not know yet who made it.
const NOTED_WITHIN: u32 = 4;

/// What the waiting needs of the world.
pub(super) trait World {
    /// The friends and the code, as the home knows them now.
    fn ask(&mut self) -> Result<FriendList, Refused>;
    /// Lets [`LOOK`] pass. Ctrl-C ends the process here, and the code stays good.
    fn pause(&mut self);
    /// The time, Unix ms.
    fn now_ms(&self) -> u64;
    /// Tells the person something that is no end.
    fn tell(&mut self, text: &str);
}

/// Waits until a home was met by the code. `before` are those that were known when it was given out.
pub(super) fn wait(
    world: &mut impl World,
    before: &[FriendLine],
    given: &FriendInvitation,
) -> Result<FriendLine, Refused> {
    let (mut silent, mut burnt) = (0, 0);
    loop {
        world.pause();
        let list = match world.ask() {
            Ok(list) => list,
            // The code lies in the home's state: it outlives the daemon.
            Err(why) if silent < SILENT_MAX => {
                if silent == 0 {
                    world.tell(&format!("{}; the code stays good, and this goes on waiting", why.text));
                }
                silent += 1;
                continue;
            }
            Err(why) => {
                return Err(Refused {
                    text: format!("{}; the code stays good: `thermidor friend ls` shows who came", why.text),
                    ..why
                });
            }
        };
        if std::mem::take(&mut silent) > 0 {
            world.tell("The daemon answers again.");
        }
        if let Some(met) = list.items.iter().find(|line| is_new(line, before)) {
            return Ok(met.clone());
        }
        match list.invitation.filter(|open| open.id == given.id) {
            None => return Err(Refused::because("another code was given out meanwhile: this one is void")),
            // Who knew it is noted right after.
            Some(open) if open.burnt && burnt < NOTED_WITHIN => burnt += 1,
            Some(open) if open.burnt => {
                return Err(Refused::because(
                    "somebody tried the code, and nothing came of it: it is spent; run `thermidor friend invite` again",
                ));
            }
            Some(open) if open.until_ms <= world.now_ms() => {
                return Err(Refused::because("nobody came in time: run `thermidor friend invite` again"));
            }
            Some(_) => {}
        }
    }
}

/// Whether a home was met since: one that was paired anew has other words.
fn is_new(line: &FriendLine, before: &[FriendLine]) -> bool {
    !line.confirmed && before.iter().all(|known| known.home != line.home || known.words != line.words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::friends::InvitationLine;
    use std::collections::VecDeque;

    /// What is heard at each look; after the last one it is heard again and again.
    struct Story {
        heard: VecDeque<Result<FriendList, Refused>>,
        now_ms: u64,
        looks: u32,
        told: Vec<String>,
    }

    impl World for Story {
        fn ask(&mut self) -> Result<FriendList, Refused> {
            self.looks += 1;
            assert!(self.looks < 1000, "it waits for ever");
            match self.heard.len() {
                1 => self.heard[0].clone(),
                _ => self.heard.pop_front().unwrap(),
            }
        }

        fn pause(&mut self) {
            self.now_ms += LOOK.as_millis() as u64;
        }

        fn now_ms(&self) -> u64 {
            self.now_ms
        }

        fn tell(&mut self, text: &str) {
            self.told.push(text.to_owned());
        }
    }

    const UNTIL_MS: u64 = 60_000;

    fn given() -> FriendInvitation {
        FriendInvitation { id: 7, code: "one-two-three".into(), until_ms: UNTIL_MS, addresses: vec![] }
    }

    fn met(home: &str, word: &str, confirmed: bool) -> FriendLine {
        FriendLine {
            home: home.into(),
            words: std::array::from_fn(|_| word.to_owned()),
            confirmed,
            generation: 1,
            ..FriendLine::default()
        }
    }

    fn heard(items: &[FriendLine], id: u64, burnt: bool) -> Result<FriendList, Refused> {
        let invitation = Some(InvitationLine { id, until_ms: UNTIL_MS, burnt });
        Ok(FriendList { items: items.to_vec(), invitation, vault_trouble: None, left: vec![] })
    }

    fn open() -> Result<FriendList, Refused> {
        heard(&known(), 7, false)
    }

    /// A friend, and one whose words nobody has compared yet.
    fn known() -> Vec<FriendLine> {
        vec![met("alice", "old", true), met("bob", "old", false)]
    }

    fn with(line: FriendLine) -> Vec<FriendLine> {
        known().into_iter().filter(|known| known.home != line.home).chain([line.clone()]).collect()
    }

    fn away() -> Result<FriendList, Refused> {
        Err(Refused::because("no daemon answers"))
    }

    fn waits(heard: Vec<Result<FriendList, Refused>>) -> (Result<FriendLine, String>, Story) {
        let mut story = Story { heard: heard.into(), now_ms: 0, looks: 0, told: vec![] };
        let ended = wait(&mut story, &known(), &given());
        (ended.map_err(|why| why.text), story)
    }

    fn fails(heard: Vec<Result<FriendList, Refused>>, because: &str) -> Story {
        let (ended, story) = waits(heard);
        let why = ended.map(|met| met.home).unwrap_err();
        assert!(why.contains(because), "{why}");
        story
    }

    #[test]
    fn whoever_is_paired_is_told_and_nobody_who_was_known_before() {
        let carol = met("carol", "new", false);
        let (ended, story) = waits(vec![open(), open(), heard(&with(carol), 7, true)]);
        assert_eq!((ended.unwrap().home.as_str(), story.looks), ("carol", 3));
        // The home of somebody known, paired anew: it has other words now.
        let bob = met("bob", "new", false);
        let (ended, _) = waits(vec![open(), heard(&with(bob), 7, true)]);
        assert_eq!(ended.unwrap().words[0], "new");
        assert_eq!(story.told, Vec::<String>::new());
    }

    #[test]
    fn who_made_the_guess_may_be_noted_a_little_later() {
        let carol = met("carol", "new", false);
        let burnt = || heard(&known(), 7, true);
        let (ended, _) = waits(vec![open(), burnt(), burnt(), burnt(), heard(&with(carol), 7, true)]);
        assert_eq!(ended.unwrap().home, "carol");
    }

    #[test]
    fn a_code_that_a_wrong_guess_has_burnt_is_spent() {
        let story = fails(vec![open(), heard(&known(), 7, true)], "it is spent");
        assert_eq!(story.looks, 2 + NOTED_WITHIN);
    }

    #[test]
    fn a_code_that_nobody_used_in_time_ends_the_waiting() {
        let story = fails(vec![open()], "nobody came in time");
        assert_eq!(story.now_ms, UNTIL_MS);
    }

    #[test]
    fn another_code_or_none_voids_this_one() {
        fails(vec![open(), heard(&known(), 8, false)], "this one is void");
        let none = FriendList { items: known(), invitation: None, vault_trouble: None, left: vec![] };
        fails(vec![Ok(none)], "this one is void");
    }

    #[test]
    fn a_daemon_that_is_away_for_a_while_ends_nothing() {
        let carol = met("carol", "new", false);
        let (ended, story) =
            waits(vec![open(), away(), away(), open(), away(), heard(&with(carol), 7, true)]);
        assert_eq!(ended.unwrap().home, "carol");
        assert_eq!(
            story.told.len(),
            4,
            "each time once that it is gone, once that it is back: {:?}",
            story.told
        );
        assert!(story.told[0].contains("no daemon answers; the code stays good"), "{:?}", story.told);
        assert_eq!(story.told[1], "The daemon answers again.");
    }

    #[test]
    fn a_daemon_that_stays_away_is_not_waited_for_for_ever() {
        let story =
            fails(vec![open(), away()], "no daemon answers; the code stays good: `thermidor friend ls`");
        assert_eq!(story.looks, 1 + SILENT_MAX + 1);
        assert_eq!(story.told.len(), 1);
    }
}
