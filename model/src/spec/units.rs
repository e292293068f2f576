//! Durations, sizes and times of day as Compose and a household write them.

/// Reads `1h30m`, `500ms`, `10s`; ms. `None` where it is no duration with its units.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total_us = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit_us = match &rest[..letters] {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            "m" => 60e6,
            "h" => 3600e6,
            _ => return None,
        };
        total_us += number * unit_us;
        rest = &rest[letters..];
    }
    let ms = (total_us / 1e3).round();
    // A century is no duration of a home; it also keeps the conversion exact.
    (ms.is_finite() && ms < 3.2e12).then_some(ms as u64)
}

/// Reads `50g`, `512m`, `1gb`, `1.5G`, `1024`; bytes, in powers of 1024.
pub(super) fn size_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let bytes = number * (1u64 << shift) as f64;
    (bytes.is_finite() && bytes < (1u64 << 60) as f64).then_some(bytes.round() as u64)
}

/// Bytes as a person reads them: `50 GiB`, `512 MiB`, `1000 bytes`.
pub(super) fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let one = 1u64 << shift;
        if bytes >= one {
            let tenths = (bytes as f64 / one as f64 * 10.0).round() / 10.0;
            return format!("{tenths} {unit}");
        }
    }
    format!("{bytes} bytes")
}

/// Reads `22:00-06:00`; minutes of the day.
pub(super) fn span_minutes(text: &str) -> Option<(u16, u16)> {
    let (from, until) = text.split_once('-')?;
    Some((clock_minutes(from)?, clock_minutes(until)?))
}

fn clock_minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |t: &str, max: u16| {
        let sound = (1..=2).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
        t.parse::<u16>().ok().filter(|n| sound && *n <= max)
    };
    let (hours, minutes) = (number(hours, 24)?, number(minutes, 59)?);
    match (hours, minutes) {
        (24, 0) => Some(0),
        (24, _) => None,
        _ => Some(hours * 60 + minutes),
    }
}

/// Minutes of the day as `22:00`.
pub(super) fn clock_text(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// Milliseconds as a person writes them: `1h30m`, `500ms`.
pub(super) fn duration_text(ms: u64) -> String {
    let (h, m, s, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    let parts: String = [(h, "h"), (m, "m"), (s, "s"), (rest, "ms")]
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n}{unit}"))
        .collect();
    if parts.is_empty() { "0s".to_string() } else { parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_compose_s() {
        let cases = [
            ("30m", Some(1_800_000)),
            ("1h30m", Some(5_400_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("0s", Some(0)),
            ("10", None),
            ("10 minutes", None),
            ("m", None),
            ("", None),
            ("1d", None),
            ("99999999999999999999h", None),
        ];
        for (text, ms) in cases {
            assert_eq!(duration_ms(text), ms, "{text}");
        }
        assert_eq!(duration_text(5_400_000), "1h30m");
        assert_eq!(duration_text(0), "0s");
    }

    #[test]
    fn sizes_are_compose_s() {
        let cases = [
            ("50g", Some(50 << 30)),
            ("512m", Some(512 << 20)),
            ("1gb", Some(1 << 30)),
            ("1.5G", Some(3 << 29)),
            ("2t", Some(2 << 40)),
            ("1024", Some(1024)),
            ("10 MB", Some(10 << 20)),
            ("50go", None),
            ("g", None),
            ("-1g", None),
            ("9999999999999t", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(size_bytes(text), bytes, "{text}");
        }
        assert_eq!(size_text(50 << 30), "50 GiB");
        assert_eq!(size_text(1000), "1000 bytes");
    }

    #[test]
    fn spans_are_times_of_day() {
        assert_eq!(span_minutes("22:00-06:00"), Some((1320, 360)));
        assert_eq!(span_minutes("7:30 - 24:00"), Some((450, 0)));
        for bad in ["22-6", "25:00-06:00", "22:60-06:00", "22:00", "24:01-01:00", "-1:00-02:00"] {
            assert_eq!(span_minutes(bad), None, "{bad}");
        }
        assert_eq!(clock_text(365), "06:05");
    }
}
