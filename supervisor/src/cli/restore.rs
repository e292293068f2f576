//! `restore`: a service's data back from a friend.

use crate::api::Refused;

/// A moment in the past, in seconds since the Unix epoch: a date, a date with time, or so long ago.
pub fn moment_s(text: &str) -> Result<u64, Refused> {
    let now = jiff::Timestamp::now().as_second().max(0) as u64;
    if let Ok(seconds) = super::home::duration_s(text) {
        return Ok(now.saturating_sub(seconds));
    }
    let local =
        |at: jiff::civil::DateTime| at.to_zoned(jiff::tz::TimeZone::system()).map(|at| at.timestamp());
    let at = text
        .parse::<jiff::Timestamp>()
        .or_else(|_| text.parse::<jiff::civil::DateTime>().and_then(local))
        .or_else(|_| text.parse::<jiff::civil::Date>().and_then(|day| local(day.at(23, 59, 59, 0))));
    match at {
        Ok(at) if at.as_second() >= 0 => Ok(at.as_second() as u64),
        _ => Err(Refused::because(format!(
            "`{text}` is no time: give 2026-11-25, 2026-11-25T18:00, or so long ago: 12h, 3d"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_date_a_time_or_so_long_ago() {
        let now = jiff::Timestamp::now().as_second() as u64;
        assert!((now - 3 * 86400 - 5..=now - 3 * 86400).contains(&moment_s("3d").unwrap()));
        assert_eq!(moment_s("2026-11-25T18:00:00Z").unwrap(), 1_795_629_600);
        let day = moment_s("2026-11-25").unwrap();
        assert!(day > moment_s("2026-11-25T18:00").unwrap(), "a day is meant to its end");
        assert!(moment_s("soon").unwrap_err().text.contains("2026-11-25"));
    }
}
