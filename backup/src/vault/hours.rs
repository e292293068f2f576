//! How fast, and at which hours: bandwidth limits by a bucket of bytes, and windows of the day in which a friend
//! may send. Decides only; the time comes in as an argument. Reading is never refused: a house may have burnt.

pub use thermidor_model::backup::Window;

/// What a friend may send and fetch, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hours {
    /// Bytes a second that are taken; `None` is without limit.
    pub up: Option<u64>,
    /// Bytes a second that are given; `None` is without limit.
    pub down: Option<u64>,
    /// Windows of the day in which backups are taken; none at all is the whole day.
    pub windows: Vec<Window>,
}

/// Minutes of a day.
const DAY: u16 = 24 * 60;

impl Hours {
    /// Whether backups are taken at a minute of the day; errors with the minutes until they are.
    pub fn open(&self, minute: u16) -> Result<(), u16> {
        if self.windows.is_empty() || self.windows.iter().any(|window| window.holds(minute)) {
            return Ok(());
        }
        let until = |window: &Window| (window.from + DAY - minute) % DAY;
        Err(self.windows.iter().map(until).min().unwrap_or(DAY))
    }
}

/// A bucket that fills at a rate; what is taken beyond its content is waited for.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    /// In byte-microseconds a microsecond: bytes times 10^6. Negative is owed.
    level: i128,
    seen_us: u64,
}

impl Bucket {
    /// Takes bytes at a time in µs; answers how long to wait for them, in µs. The bucket holds what comes in a
    /// quarter of a second: no more goes at once after a rest.
    pub fn take(&mut self, bytes: u64, rate: u64, now_us: u64) -> u64 {
        let rate = i128::from(rate.max(1));
        let gone = i128::from(now_us.saturating_sub(self.seen_us));
        self.seen_us = self.seen_us.max(now_us);
        self.level = (self.level + gone * rate).min(rate * 250_000) - i128::from(bytes) * 1_000_000;
        u64::try_from(-self.level / rate).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(windows: &[(u16, u16)]) -> Hours {
        let windows = windows.iter().map(|&(from, to)| Window { from, to }).collect();
        Hours { windows, ..Hours::default() }
    }

    #[test]
    fn backups_are_taken_inside_the_windows_only() {
        assert_eq!(hours(&[]).open(0), Ok(()));
        let night = hours(&[(22 * 60, 6 * 60)]);
        assert_eq!(night.open(22 * 60), Ok(()));
        assert_eq!(night.open(5 * 60 + 59), Ok(()));
        assert_eq!(night.open(6 * 60), Err(16 * 60));
        assert_eq!(night.open(21 * 60 + 59), Err(1));
        let two = hours(&[(60, 120), (600, 660)]);
        assert_eq!(two.open(119), Ok(()));
        assert_eq!(two.open(120), Err(480));
        assert_eq!(two.open(700), Err(DAY - 640));
    }

    #[test]
    fn a_bucket_lets_through_its_rate_and_not_much_more() {
        let mut bucket = Bucket::default();
        let mut now = 1_000_000;
        let begun = now;
        let mut sent = 0;
        for _ in 0..1000 {
            now += bucket.take(16_384, 1_000_000, now);
            sent += 16_384;
        }
        let seconds = (now - begun) as f64 / 1e6;
        assert!((seconds - (sent as f64 - 250_000.0) / 1e6).abs() < 0.01, "{seconds} s for {sent} bytes");
    }

    #[test]
    fn a_bucket_holds_no_more_after_a_long_rest() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(250_000, 1_000_000, 1 << 50), 0);
        assert_eq!(bucket.take(1_000_000, 1_000_000, 1 << 50), 1_000_000);
        // A clock that stands still or goes back gives nothing away.
        assert_eq!(bucket.take(1_000_000, 1_000_000, 0), 2_000_000);
    }
}
