//! Tables of decisions, and weeks that pass in a loop.

use super::*;
use thermidor_model::ServiceName;
use thermidor_model::backup::{Asked, Drill, HeadMark, RETRY_DEFAULT_MS};

/// A Monday, midnight UTC.
const NOW: u64 = 1_764_547_200_000;

fn service(name: &str) -> Subject {
    Subject::Service(ServiceName::new(name).unwrap())
}

fn home(name: &str) -> HomeName {
    HomeName::new(name).unwrap()
}

fn wish(every: u64, friends: &[&str]) -> Wish {
    let friends = friends.iter().map(|name| home(name)).collect();
    Wish {
        subject: service("mail"),
        friends,
        every,
        windows: Vec::new(),
        drill_every: 0,
        retry: RETRY_DEFAULT_MS,
    }
}

fn pair(friend: &str) -> Pair {
    (service("mail"), home(friend))
}

fn known(all: &[(&str, Record)]) -> BTreeMap<Pair, Record> {
    all.iter().map(|(friend, record)| (pair(friend), record.clone())).collect()
}

fn made(at: u64) -> Record {
    Record { made: Some(at), proven: Some(at), ..Record::default() }
}

fn failed(record: Record, at: u64, times: u32, passes: Passes) -> Record {
    let mut failure = None;
    for _ in 0..times {
        failure =
            Some(Failure::next(failure.as_ref(), at, passes, "the friend's vault can't be reached".into()));
    }
    Record { failure, ..record }
}

/// What is decided, in short: friend, task, and in how many ms.
fn short(wish: &Wish, records: &BTreeMap<Pair, Record>, now: u64) -> Vec<(String, Task, u64)> {
    decide(std::slice::from_ref(wish), records, &BTreeSet::new(), 0, now, &TimeZone::UTC)
        .into_iter()
        .map(|d| (d.friend.to_string(), d.task, d.at.saturating_sub(now)))
        .collect()
}

fn one(friend: &str, task: Task, wait: u64) -> (String, Task, u64) {
    (friend.to_string(), task, wait)
}

#[test]
fn a_backup_is_due_at_once_then_every_so_often_and_proved_after_each() {
    let hourly = wish(HOUR, &["alice"]);
    assert_eq!(short(&hourly, &known(&[]), NOW), [one("alice", Task::Backup, 0)]);
    let fresh = Record { made: Some(NOW), ..Record::default() };
    assert_eq!(short(&hourly, &known(&[("alice", fresh)]), NOW), [one("alice", Task::Prove, 0)]);
    let records = known(&[("alice", made(NOW))]);
    let next = short(&hourly, &records, NOW + 1).remove(0);
    assert!(next.1 == Task::Backup && (54 * MINUTE - 1..HOUR).contains(&next.2), "{next:?}");
    assert_eq!(short(&hourly, &records, NOW + HOUR), [one("alice", Task::Backup, 0)]);
    let decision = decide(&[hourly], &records, &BTreeSet::new(), 0, NOW + 3 * HOUR, &TimeZone::UTC).remove(0);
    assert_eq!(decision.why, "mail was last backed up to alice 3 h ago");
}

#[test]
fn a_restore_is_tried_now_and_then() {
    let mut daily = wish(DAY, &["alice"]);
    daily.drill_every = 7 * DAY;
    let records = known(&[("alice", made(NOW))]);
    assert_eq!(short(&daily, &records, NOW + 1), [one("alice", Task::Drill, 0)]);
    let drilled = Record { drilled: Some(NOW), ..made(NOW + 7 * DAY - HOUR) };
    let records = known(&[("alice", drilled)]);
    assert_eq!(short(&daily, &records, NOW + 7 * DAY - 1)[0].1, Task::Backup);
    assert_eq!(short(&daily, &records, NOW + 7 * DAY), [one("alice", Task::Drill, 0)]);
}

#[test]
fn between_backups_a_vault_is_asked_what_it_keeps() {
    let daily = wish(DAY, &["alice"]);
    let head = Some(HeadMark { number: 1, hash: "h".into() });
    let signed = Record { head, ..made(NOW) };
    let asked = |at| Record { asked: Some(Asked { at, ..Asked::default() }), ..signed.clone() };
    let next = |record: Record, now| short(&daily, &known(&[("alice", record)]), now).remove(0);
    assert_eq!(next(signed.clone(), NOW + 1), one("alice", Task::Ask, 0));
    assert_eq!(next(asked(NOW + 1), NOW + 6 * HOUR).1, Task::Backup);
    assert_eq!(next(asked(NOW + 1), NOW + 6 * HOUR + 1), one("alice", Task::Ask, 0));
    // What is due goes first, and a failure is waited out.
    assert_eq!(next(asked(NOW + 1), NOW + DAY).1, Task::Backup);
    let failed = failed(asked(NOW), NOW + 6 * HOUR, 1, Passes::ByAPerson);
    assert_eq!(next(failed, NOW + 6 * HOUR), one("alice", Task::Ask, PERSON));
    // A clock that was set back.
    assert_eq!(next(asked(NOW + 400 * DAY), NOW + 1).1, Task::Backup);
}

#[test]
fn a_restore_that_failed_is_tried_again_sooner_and_ever_less_often_and_holds_up_no_backup() {
    let mut hourly = wish(HOUR, &["alice"]);
    hourly.drill_every = 7 * DAY;
    let mut record = Record { drilled: Some(NOW - 8 * DAY), ..made(NOW) };
    let mut waits = Vec::new();
    for _ in 0..8 {
        record = record.after_drill(Drill::default(), Some((Passes::ByAPerson, "no".into())), NOW);
        assert_eq!(short(&hourly, &known(&[("alice", record.clone())]), NOW)[0].1, Task::Backup);
        waits.push((drill_due(&hourly, &record, NOW) - NOW) / MINUTE);
    }
    assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1440, 1440]);
    let later = Record { made: Some(NOW + DAY), proven: Some(NOW + DAY), ..record.clone() };
    assert_eq!(short(&hourly, &known(&[("alice", later)]), NOW + DAY)[0].1, Task::Drill);
    let well = record.after_drill(Drill::default(), None, NOW);
    assert_eq!(drill_due(&hourly, &well, NOW), NOW + 7 * DAY);
    // A failure from the future: the clock was set back.
    assert_eq!(drill_due(&hourly, &record, NOW - DAY), NOW - DAY);
}

#[test]
fn a_restore_that_failed_or_was_not_tried_for_too_long_is_shouted_and_one_that_went_well_is_said() {
    let mut daily = wish(DAY, &["alice"]);
    let stands = |wish: &Wish, record: &Record, now| {
        let stands = standing(wish, &known(&[("alice", record.clone())]), now);
        (stands.untried, stands.text.split("; ").skip(1).collect::<Vec<_>>().join("; "))
    };
    assert_eq!(stands(&daily, &made(NOW), NOW), (false, String::new()), "none is wished");
    daily.drill_every = 7 * DAY;
    assert_eq!(stands(&daily, &Record::default(), NOW), (false, String::new()), "there is nothing to try");
    let never = (true, "no restore from alice has been tried yet".to_owned());
    assert_eq!(stands(&daily, &made(NOW), NOW), never);
    let well = made(NOW).after_drill(Drill::default(), None, NOW);
    let said = |ago: &str| format!("a restore from alice was last tried {ago} ago");
    assert_eq!(stands(&daily, &well, NOW + 14 * DAY), (false, said("14 days")));
    let old = (true, said("15 days") + ", which is too long");
    assert_eq!(stands(&daily, &well, NOW + 15 * DAY), old);
    let why = "the restored mail ended by itself".to_owned();
    let failed = well.after_drill(Drill::default(), Some((Passes::ByAPerson, why.clone())), NOW + HOUR);
    let (untried, text) = stands(&daily, &failed, NOW + 2 * HOUR);
    assert!(
        untried && text.starts_with("the last restore tried from alice failed 1 h ago (1 times)"),
        "{text}"
    );
    assert!(text.contains(&why) && text.contains("backup check mail --from alice --drill"), "{text}");
    // The proofs are as they were.
    assert!(!standing(&daily, &known(&[("alice", failed)]), NOW + HOUR).late);
}

#[test]
fn one_friend_that_fails_holds_up_no_other() {
    let hourly = wish(HOUR, &["alice", "carol"]);
    let late = NOW - 3 * HOUR;
    let records =
        known(&[("alice", failed(made(late), NOW - 1, 6, Passes::ByItself)), ("carol", made(late))]);
    let waits = RETRY_DEFAULT_MS * 32 - 1;
    assert_eq!(
        short(&hourly, &records, NOW),
        [one("carol", Task::Backup, 0), one("alice", Task::Backup, waits)]
    );
    let running = BTreeSet::from([pair("carol")]);
    let left = decide(std::slice::from_ref(&hourly), &records, &running, 0, NOW, &TimeZone::UTC);
    assert_eq!(left.iter().map(|d| d.friend.as_str()).collect::<Vec<_>>(), ["alice"]);

    let stands = standing(
        &hourly,
        &known(&[("alice", records[&pair("alice")].clone()), ("carol", made(NOW - HOUR))]),
        NOW,
    );
    assert!(!stands.late && !stands.person);
    assert_eq!(stands.failing, [home("alice")]);
    assert_eq!(
        stands.text,
        "mail: the last proved backup is 1 h old, at carol's; alice has failed for less than a minute (6 times): \
         the friend's vault can't be reached"
    );
}

#[test]
fn waits_double_and_end_and_a_person_is_given_time() {
    let hourly = wish(HOUR, &["alice"]);
    let after = |times, passes| {
        short(&hourly, &known(&[("alice", failed(Record::default(), NOW, times, passes))]), NOW).remove(0).2
    };
    let waits: Vec<u64> = (1..=9).map(|times| after(times, Passes::ByItself) / MINUTE).collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 120, 120, 120]);
    assert_eq!(after(100, Passes::ByItself), RETRY_MAX_MS);
    assert_eq!(after(1, Passes::ByAPerson), PERSON);
    let hasty = Wish { retry: 5_000, ..hourly.clone() };
    let wait = |times| {
        let failed = failed(Record::default(), NOW, times, Passes::ByItself);
        short(&hasty, &known(&[("alice", failed)]), NOW).remove(0).2
    };
    assert_eq!((wait(1), wait(3), wait(100)), (5_000, 20_000, RETRY_MAX_MS));
    assert_eq!(passes(&ResticError::NoRoom), Passes::ByAPerson);
    assert_eq!(passes(&ResticError::Unreachable(String::new())), Passes::ByItself);
    let records = known(&[("alice", failed(made(NOW), NOW, 1, Passes::ByAPerson))]);
    assert!(standing(&hourly, &records, NOW).person);
}

#[test]
fn backups_begin_within_the_windows_only() {
    let mut nightly = wish(DAY, &["alice"]);
    nightly.windows = vec![Window { from: 22 * 60, to: 6 * 60 }];
    let records = known(&[]);
    assert_eq!(short(&nightly, &records, NOW + 3 * HOUR), [one("alice", Task::Backup, 0)]);
    assert_eq!(short(&nightly, &records, NOW + 6 * HOUR), [one("alice", Task::Backup, 16 * HOUR)]);
    let late = NOW + 12 * HOUR + 1234;
    assert_eq!(short(&nightly, &records, late), [one("alice", Task::Backup, 10 * HOUR - 1234)]);
    // In the zone of the house.
    let paris = TimeZone::fixed(jiff::tz::offset(1));
    let there = decide(&[nightly.clone()], &records, &BTreeSet::new(), 0, NOW + 5 * HOUR, &paris).remove(0);
    assert_eq!(there.at, NOW + 21 * HOUR);
    // A proof needs no window, and a day without a window is not late.
    let fresh = Record { made: Some(NOW), proven: Some(NOW - DAY), ..Record::default() };
    assert_eq!(short(&nightly, &known(&[("alice", fresh)]), NOW + 12 * HOUR), [one("alice", Task::Prove, 0)]);
    let records = known(&[("alice", made(NOW))]);
    assert!(!standing(&nightly, &records, NOW + 64 * HOUR).late);
    assert!(standing(&nightly, &records, NOW + 66 * HOUR).late);
}

#[test]
fn after_a_sleep_one_backup_makes_up_for_all_and_not_in_the_first_minutes() {
    let hourly = wish(HOUR, &["alice"]);
    let records = known(&[("alice", made(NOW))]);
    let woken = NOW + 10 * DAY;
    let decided = |now| {
        let all =
            decide(std::slice::from_ref(&hourly), &records, &BTreeSet::new(), woken, now, &TimeZone::UTC);
        assert_eq!(all.len(), 1);
        all[0].at
    };
    assert_eq!(decided(woken), woken + RETRY_DEFAULT_MS);
    assert!(decided(woken + RETRY_DEFAULT_MS) <= woken + RETRY_DEFAULT_MS);
    let records = known(&[("alice", made(woken + RETRY_DEFAULT_MS))]);
    assert!(short(&hourly, &records, woken + RETRY_DEFAULT_MS + 1)[0].2 > 50 * MINUTE);
}

#[test]
fn a_clock_that_was_set_back_stops_nothing() {
    let hourly = wish(HOUR, &["alice"]);
    let records = known(&[("alice", failed(made(NOW + 400 * DAY), NOW + 400 * DAY, 3, Passes::ByAPerson))]);
    let next = short(&hourly, &records, NOW).remove(0);
    assert!(next.2 <= HOUR, "{next:?}");
    assert_eq!(standing(&hourly, &records, NOW).age, Some(0));
}

#[test]
fn the_most_overdue_goes_first() {
    let mut weekly = wish(7 * DAY, &["alice"]);
    weekly.subject = service("notes");
    let hourly = wish(HOUR, &["alice"]);
    let mut records = known(&[("alice", made(NOW - 5 * HOUR))]);
    records.insert((service("notes"), home("alice")), made(NOW - 8 * DAY));
    let order = decide(&[weekly, hourly], &records, &BTreeSet::new(), 0, NOW, &TimeZone::UTC);
    assert_eq!(order.iter().map(|d| d.subject.as_str()).collect::<Vec<_>>(), ["mail", "notes"]);
}

#[test]
fn what_was_never_proved_or_never_wished_is_said() {
    let stands = standing(&wish(HOUR, &["alice"]), &known(&[]), NOW);
    assert_eq!((stands.age, stands.late), (None, true));
    assert_eq!(stands.text, "mail: no backup has been proved yet");
    let stands = standing(&wish(HOUR, &[]), &known(&[]), NOW);
    assert_eq!((stands.late, stands.text.as_str()), (false, "mail: no backup is wished"));
    // Made and not proved is not proved.
    let fresh = Record { made: Some(NOW), ..made(NOW - 30 * DAY) };
    let stands = standing(&wish(HOUR, &["alice"]), &known(&[("alice", fresh)]), NOW);
    assert!(
        stands.late && stands.text.contains("30 days old, at alice's, which is too long"),
        "{}",
        stands.text
    );
}

/// A month in which a friend is away every third day: no proved backup ever gets older than the rule says while the friend
/// is there, there are never more backups than needed, and they don't drift later.
#[test]
fn a_month_keeps_its_rhythm() {
    let hourly = wish(HOUR, &["alice", "carol"]);
    let mut records = BTreeMap::new();
    let mut backups = BTreeMap::new();
    for minute in 0..30 * 24 * 60 {
        let now = NOW + minute * MINUTE;
        let is_away =
            |friend: &HomeName| friend.as_str() == "alice" && (minute / (24 * 60)).is_multiple_of(3);
        let all = decide(std::slice::from_ref(&hourly), &records, &BTreeSet::new(), NOW, now, &TimeZone::UTC);
        for decision in all.into_iter().filter(|d| d.at <= now) {
            let is_away = is_away(&decision.friend);
            let record: &mut Record =
                records.entry((decision.subject.clone(), decision.friend.clone())).or_default();
            if is_away {
                let next = Failure::next(record.failure.as_ref(), now, Passes::ByItself, "away".into());
                record.failure = Some(next);
                continue;
            }
            record.failure = None;
            match decision.task {
                Task::Backup => {
                    record.made = Some(now);
                    *backups.entry(decision.friend.to_string()).or_insert(0u64) += 1;
                }
                Task::Prove => record.proven = record.made,
                Task::Drill | Task::Ask => panic!("no drill is wished, and no head was signed"),
            }
        }
        if minute > 10 {
            let stands = standing(&hourly, &records, now);
            assert!(stands.age.unwrap() <= HOUR + MINUTE && !stands.late, "{minute}: {stands:?}");
        }
    }
    let hours = 30 * 24;
    assert!((hours..hours * 11 / 10 + 2).contains(&backups["carol"]), "{backups:?}");
    assert!((hours * 2 / 3 - 30..hours * 11 / 15 + 2).contains(&backups["alice"]), "{backups:?}");
}
