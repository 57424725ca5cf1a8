//! Ages and sizes as Docker words them.

use jiff::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A span of time in one unit: "3 seconds", "About an hour", "2 weeks".
pub fn duration(seconds: i64) -> String {
    let (count, unit) = match seconds {
        ..1 => return "Less than a second".to_owned(),
        1 => return "1 second".to_owned(),
        2..60 => (seconds, "seconds"),
        _ if seconds < 2 * MINUTE => return "About a minute".to_owned(),
        _ if seconds < HOUR => (seconds / MINUTE, "minutes"),
        // Docker rounds hours and cuts everything else.
        _ if (seconds + HOUR / 2) / HOUR == 1 => return "About an hour".to_owned(),
        _ if (seconds + HOUR / 2) / HOUR < 48 => ((seconds + HOUR / 2) / HOUR, "hours"),
        _ if seconds < 14 * DAY => (seconds / DAY, "days"),
        _ if seconds < 60 * DAY => (seconds / DAY / 7, "weeks"),
        _ if seconds < 2 * 365 * DAY => (seconds / DAY / 30, "months"),
        _ => (seconds / DAY / 365, "years"),
    };
    format!("{count} {unit}")
}

/// How long ago an RFC 3339 time was, at `now`: "5 minutes ago". "N/A" when it is no time.
pub fn ago(time: &str, now: Timestamp) -> String {
    match since(time, now) {
        Some(seconds) => format!("{} ago", duration(seconds)),
        None => "N/A".to_owned(),
    }
}

/// An RFC 3339 time as Go's `Time.String` writes it, with at most `digits` digits of the second's
/// fraction: "2026-11-21 10:00:05.9 +0000 UTC". A text that is no time stays as it is.
pub fn moment(time: &str, digits: usize) -> String {
    let Ok(parsed) = time.parse::<Timestamp>() else {
        return time.to_owned();
    };
    let nanoseconds = format!("{:09}", parsed.subsec_nanosecond().unsigned_abs());
    let fraction = nanoseconds[..digits.min(9)].trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let second = parsed.strftime("%Y-%m-%d %H:%M:%S");
    format!("{second}{point}{fraction} +0000 UTC")
}

/// Seconds from an RFC 3339 time to `now`.
pub fn since(time: &str, now: Timestamp) -> Option<i64> {
    let time: Timestamp = time.parse().ok()?;
    Some(now.as_second() - time.as_second())
}

/// Decimal units, as storage is sold, with at most `digits` digits: "1.24MB".
pub fn size(bytes: u64, digits: usize) -> String {
    scaled(
        bytes,
        1000.0,
        &["B", "kB", "MB", "GB", "TB", "PB", "EB"],
        digits,
    )
}

/// Binary units, as memory is, with at most `digits` digits: "1.5GiB".
pub fn binary_size(bytes: u64, digits: usize) -> String {
    scaled(
        bytes,
        1024.0,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
        digits,
    )
}

fn scaled(bytes: u64, base: f64, units: &[&str], digits: usize) -> String {
    let mut value = bytes as f64;
    let mut at = 0;
    while value >= base && at + 1 < units.len() {
        value /= base;
        at += 1;
    }
    format!("{}{}", significant(value, digits), units[at])
}

/// Go's `%.{digits}g` for values from 0 up to what fits `digits` before the point: trailing zeros
/// go.
fn significant(value: f64, digits: usize) -> String {
    let before = if value >= 1.0 {
        value.log10().floor() as usize + 1
    } else {
        1
    };
    let decimals = digits.saturating_sub(before);
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_dockers() {
        let rows = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (HOUR, "About an hour"),
            (90 * MINUTE, "2 hours"),
            (47 * HOUR, "47 hours"),
            (2 * DAY, "2 days"),
            (14 * DAY, "2 weeks"),
            (61 * DAY, "2 months"),
            (3 * 365 * DAY, "3 years"),
        ];
        for (seconds, expected) in rows {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn an_age_is_measured_from_now() {
        let now: Timestamp = "2026-11-21T10:00:05.9Z".parse().unwrap();
        assert_eq!(ago("2026-11-21T10:00:00.1Z", now), "5 seconds ago");
        assert_eq!(ago("2026-11-21T11:00:00+01:00", now), "5 seconds ago");
        assert_eq!(ago("", now), "N/A");
    }

    #[test]
    fn memory_is_in_binary_units() {
        for (bytes, expected) in [
            (0, "0B"),
            (64 << 20, "64MiB"),
            (1_500_000, "1.431MiB"),
            (3 << 29, "1.5GiB"),
        ] {
            assert_eq!(binary_size(bytes, 4), expected);
        }
    }

    #[test]
    fn a_moment_reads_as_gos() {
        let time = "2026-11-21T11:00:05.900000000+01:00";
        assert_eq!(moment(time, 9), "2026-11-21 10:00:05.9 +0000 UTC");
        assert_eq!(moment(time, 0), "2026-11-21 10:00:05 +0000 UTC");
        assert_eq!(moment("never", 0), "never");
    }

    #[test]
    fn sizes_keep_three_digits() {
        let rows = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_240_000, "1.24MB"),
            (123_456_789, "123MB"),
            (4_200_000_000, "4.2GB"),
            (u64::MAX, "18.4EB"),
        ];
        for (bytes, expected) in rows {
            assert_eq!(size(bytes, 3), expected, "{bytes}");
        }
    }
}
