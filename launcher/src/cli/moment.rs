//! Moments on the command line, as flags and filters take them.

use jiff::{SignedDuration, Timestamp};

use super::error::CliError;

/// Reads RFC 3339, the same without zone (UTC), seconds since 1970, or a span before now such as `1h30m`.
///
/// # Errors
/// [`CliError::Flag`].
pub(super) fn parse(flag: &'static str, text: &str, now: Timestamp) -> Result<Timestamp, CliError> {
    let invalid = || CliError::Flag {
        flag,
        text: text.to_owned(),
        expected: "a time such as 2026-01-02T15:04:05Z, or a span such as 10m",
    };
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(civil) = text.parse::<jiff::civil::DateTime>()
        && let Ok(zoned) = civil.to_zoned(jiff::tz::TimeZone::UTC)
    {
        return Ok(zoned.timestamp());
    }
    if let Ok(seconds) = text.parse::<f64>()
        && let Ok(since_epoch) = SignedDuration::try_from_secs_f64(seconds)
    {
        return Timestamp::UNIX_EPOCH
            .checked_add(since_epoch)
            .map_err(|_out_of_range| invalid());
    }
    let span: SignedDuration = text.parse().map_err(|_no_span| invalid())?;
    now.checked_sub(span).map_err(|_out_of_range| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_span_before_now() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-01-02T15:04:05Z", "2026-01-02T15:04:05Z"),
            ("2026-01-02T15:04:05+01:00", "2026-01-02T14:04:05Z"),
            ("2026-01-02T15:04:05", "2026-01-02T15:04:05Z"),
            ("2026-01-02", "2026-01-02T00:00:00Z"),
            ("1h30m", "2026-11-21T08:30:00Z"),
            ("24h", "2026-11-20T10:00:00Z"),
            ("0", "1970-01-01T00:00:00Z"),
        ] {
            let moment = parse("--since", text, now).unwrap();
            assert_eq!(moment.to_string(), expected, "{text}");
        }
        assert!(parse("--since", "yesterday", now).is_err());
    }
}
