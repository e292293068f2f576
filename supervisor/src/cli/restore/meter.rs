//! How far a restore is, for whoever waits: one line that is drawn anew on a terminal, a line now and then elsewhere.

use crate::api::recovery::progress_words;
use std::time::Duration;

/// What a line that is drawn anew begins with: the one before it goes.
pub const ANEW: &str = "\r\u{1b}[K";
/// How much must have been seen before a guess at the time left is worth its words.
const SEEN_MIN: Duration = Duration::from_secs(5);
/// How long nothing is said at most where lines stay, unless ten percent more are there.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// Signs of a bar.
const BAR: u64 = 20;

/// What was shown so far.
pub struct Meter {
    on_terminal: bool,
    /// When the first bytes were seen, since whenever, and how many.
    first: Option<(Duration, u64)>,
    /// What was said last where lines stay: when, and of how many tenths.
    last: Option<(Duration, u64)>,
    is_drawn: bool,
}

impl Meter {
    pub fn new(on_terminal: bool) -> Self {
        Self { on_terminal, first: None, last: None, is_drawn: false }
    }

    /// What is to be written now of `done` bytes of `total`, if anything is.
    pub fn shows(&mut self, now: Duration, done: u64, total: u64) -> Option<String> {
        // What is less than before is another attempt.
        if self.first.is_none_or(|(_, first)| done < first) {
            self.first = Some((now, done));
            self.last = None;
        }
        let left = self.left(now, done, total).map(|left| format!(", about {} left", words(left)));
        let text = format!("{}{}", progress_words(done, total), left.unwrap_or_default());
        if self.on_terminal {
            self.is_drawn = true;
            return Some(format!("{ANEW}{} {text}", bar(done, total)));
        }
        let tenths = part(done, total, 10);
        let is_due = self.last.is_none_or(|(at, was)| tenths > was || now.saturating_sub(at) >= SILENT_MAX);
        is_due.then(|| {
            self.last = Some((now, tenths));
            format!("{text}\n")
        })
    }

    /// What makes room for a line that stays.
    pub fn gives_way(&mut self) -> &'static str {
        if std::mem::take(&mut self.is_drawn) { ANEW } else { "" }
    }

    fn left(&self, now: Duration, done: u64, total: u64) -> Option<Duration> {
        let (begun, first) = self.first?;
        let (took, more) = (now.saturating_sub(begun), done.saturating_sub(first));
        if took < SEEN_MIN || more == 0 {
            return None;
        }
        let seconds = took.as_secs_f64() * total.saturating_sub(done) as f64 / more as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// So many parts of `of` are done.
fn part(done: u64, total: u64, of: u64) -> u64 {
    (u128::from(done.min(total)) * u128::from(of) / u128::from(total.max(1))) as u64
}

fn bar(done: u64, total: u64) -> String {
    let full = part(done, total, BAR);
    (0..BAR).map(|sign| if sign < full { '█' } else { '░' }).collect()
}

/// A time as somebody would say it.
fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{} s", seconds.max(1)),
        60..5400 => format!("{} min", (seconds + 30) / 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_terminal_has_one_line_with_a_bar_and_the_time_left() {
        let mut meter = Meter::new(true);
        assert_eq!(meter.gives_way(), "");
        let first = meter.shows(at(10), 0, 4 * GIB).unwrap();
        assert_eq!(first, format!("{ANEW}{} 0 %, 0 B of 4.0 GiB", "░".repeat(20)));
        let early = meter.shows(at(12), GIB / 10, 4 * GIB).unwrap();
        assert!(!early.contains("left"), "two seconds say nothing yet: {early}");
        let half = meter.shows(at(70), 2 * GIB, 4 * GIB).unwrap();
        let bar = format!("{}{}", "█".repeat(10), "░".repeat(10));
        assert_eq!(half, format!("{ANEW}{bar} 50 %, 2.0 GiB of 4.0 GiB, about 1 min left"));
        assert_eq!(meter.gives_way(), ANEW);
        assert_eq!(meter.gives_way(), "", "it is gone by then");
        // Another attempt begins anew, and so does the guess.
        let again = meter.shows(at(200), 0, 4 * GIB).unwrap();
        assert!(again.contains("0 %") && !again.contains("left"), "{again}");
        let stuck = meter.shows(at(300), 0, 4 * GIB).unwrap();
        assert!(!stuck.contains("left"), "of nothing nobody can tell how long it takes: {stuck}");
    }

    #[test]
    fn elsewhere_a_line_comes_with_each_tenth_or_each_minute() {
        let mut meter = Meter::new(false);
        let mut said = Vec::new();
        for second in 0..=300u64 {
            // A hundredth every five seconds, then nothing for two minutes.
            let done = second.min(180) / 5;
            said.extend(meter.shows(at(second), done, 100).map(|text| (second, text)));
        }
        let times: Vec<u64> = said.iter().map(|(second, _)| *second).collect();
        assert_eq!(times, [0, 50, 100, 150, 210, 270], "{said:?}");
        assert_eq!(said[2].1, "20 %, 20 B of 100 B, about 7 min left\n");
        assert_eq!(meter.gives_way(), "");
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let all = [
            (0, "1 s"),
            (59, "59 s"),
            (60, "1 min"),
            (100, "2 min"),
            (5400, "1 h 30 min"),
            (90_000, "25 h 00 min"),
        ];
        for (seconds, text) in all {
            assert_eq!(words(at(seconds)), text);
        }
        assert_eq!((part(0, 0, 10), part(9, 3, 10), part(u64::MAX / 2, u64::MAX, 10)), (0, 10, 4));
    }
}
