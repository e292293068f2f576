//! Whether a child still gets on: what it reports, what it reads and writes, and what it complains of. Decides only;
//! times come in as arguments.

use std::time::Duration;

/// How long a child may do nothing, complain, and take in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Without any sign of life.
    pub silence: Duration,
    /// With one complaint after the other and nothing that gets done.
    pub trouble: Duration,
    /// From its start to its end.
    pub longest: Duration,
}

impl Default for Patience {
    /// Ten minutes of silence, five of trouble, a day in all.
    fn default() -> Self {
        let minutes = |m: u64| Duration::from_secs(m * 60);
        Self { silence: minutes(10), trouble: minutes(5), longest: minutes(24 * 60) }
    }
}

/// What the system tells of a child.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sign {
    /// Bytes read and written, files, pipes and sockets alike.
    pub bytes: u64,
    /// Processor time in ms.
    pub cpu_ms: u64,
}

/// Bytes that are a sign of life: more than status lines and what a client says when it tries again.
const BYTES_LEAST: u64 = 256 << 10;
/// Processor time that is a sign of life, in ms: a child that waits takes less in many minutes.
const CPU_LEAST_MS: u64 = 1000;
/// Complaints further apart than this are of different troubles. restic waits a minute at most before it tries again.
const APART: Duration = Duration::from_secs(120);

/// What is thought of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It gets on.
    Alive,
    /// It has given no sign for too long.
    Stuck,
    /// It only complains.
    Troubled,
    /// It has had all the time there is.
    TooLong,
}

/// The pulse of one child. Times are from its start.
#[derive(Debug)]
pub struct Pulse {
    patience: Patience,
    alive: Duration,
    seen: Sign,
    /// Since when it complains, and when it did last.
    trouble: Option<(Duration, Duration)>,
}

impl Pulse {
    /// A child that has just begun.
    pub fn new(patience: Patience) -> Self {
        Self { patience, alive: Duration::ZERO, seen: Sign::default(), trouble: None }
    }

    /// It has reported that something got done.
    pub fn report(&mut self, now: Duration) {
        self.alive = now;
        self.trouble = None;
    }

    /// It has complained that something does not go and is tried again.
    pub fn complain(&mut self, now: Duration) {
        let since = match self.trouble {
            Some((since, last)) if now.saturating_sub(last) < APART => since,
            _ => now,
        };
        self.trouble = Some((since, now));
    }

    /// Judges it by what the system tells.
    pub fn judge(&mut self, now: Duration, sign: Sign) -> Verdict {
        let bytes = sign.bytes.saturating_sub(self.seen.bytes);
        if bytes >= BYTES_LEAST || sign.cpu_ms.saturating_sub(self.seen.cpu_ms) >= CPU_LEAST_MS {
            self.seen = sign;
            self.alive = now;
        }
        if now >= self.patience.longest {
            return Verdict::TooLong;
        }
        // Between two tries a child is silent, and not stuck.
        if let Some((since, last)) = self.trouble
            && now.saturating_sub(last) < APART
        {
            let too_long = now.saturating_sub(since) >= self.patience.trouble;
            return if too_long { Verdict::Troubled } else { Verdict::Alive };
        }
        let is_stuck = now.saturating_sub(self.alive) >= self.patience.silence;
        if is_stuck { Verdict::Stuck } else { Verdict::Alive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn pulse() -> Pulse {
        Pulse::new(Patience { silence: S(600), trouble: S(300), longest: S(86_400) })
    }

    fn sign(bytes: u64, cpu_ms: u64) -> Sign {
        Sign { bytes, cpu_ms }
    }

    #[test]
    fn silence_is_stuck_and_any_sign_is_not() {
        let mut it = pulse();
        assert_eq!(it.judge(S(599), sign(BYTES_LEAST - 1, 0)), Verdict::Alive);
        assert_eq!(it.judge(S(600), sign(BYTES_LEAST - 1, 999)), Verdict::Stuck);
        assert_eq!(it.judge(S(600), sign(BYTES_LEAST, 999)), Verdict::Alive);
        assert_eq!(it.judge(S(1199), sign(BYTES_LEAST, 1000)), Verdict::Alive);
        assert_eq!(it.judge(S(1200), sign(BYTES_LEAST, 1000)), Verdict::Stuck);
        assert_eq!(it.judge(S(1200), sign(BYTES_LEAST, 2000)), Verdict::Alive);
        it.report(S(1900));
        assert_eq!(it.judge(S(2499), sign(BYTES_LEAST, 2000)), Verdict::Alive);
        assert_eq!(it.judge(S(2500), sign(BYTES_LEAST, 2000)), Verdict::Stuck);
    }

    #[test]
    fn complaints_without_a_report_are_trouble_though_bytes_flow() {
        let mut it = pulse();
        for n in 0..5 {
            it.complain(S(100 + n * 60));
            assert_eq!(it.judge(S(100 + n * 60), sign(n << 24, 0)), Verdict::Alive);
        }
        assert_eq!(it.judge(S(400), sign(5 << 24, 0)), Verdict::Troubled);
        // A report ends it, and so does a while without a complaint.
        it.report(S(400));
        it.complain(S(410));
        assert_eq!(it.judge(S(420), sign(5 << 24, 0)), Verdict::Alive);
        it.complain(S(410 + 121));
        assert_eq!(it.judge(S(410 + 301), sign(6 << 24, 0)), Verdict::Alive);
    }

    #[test]
    fn nothing_takes_for_ever() {
        assert_eq!(pulse().judge(S(86_400), sign(1 << 40, 1 << 30)), Verdict::TooLong);
    }
}
