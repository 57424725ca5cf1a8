//! Sizes, resource limits, restart policies and signals on the command line.

use crate::container::{RestartPolicy, Ulimit};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("invalid size {text:?} for {flag}: expected a number with b, k, m, g or t")]
    Size { flag: &'static str, text: String },
    #[error(
        "invalid restart policy: {text:?}: expected no, always, unless-stopped or on-failure[:N]"
    )]
    Restart { text: String },
    #[error(
        "invalid restart policy: maximum retry count {text:?} goes with on-failure only, as a number"
    )]
    RestartCount { text: String },
    #[error("invalid ulimit {text:?}: expected NAME=SOFT[:HARD], {reason}")]
    Ulimit { text: String, reason: &'static str },
    #[error("invalid signal: {text}")]
    Signal { text: String },
}

/// A size such as `64m`: binary units, as Docker reads limits.
pub fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(1 << unit);
    }
    let value: f64 = digits.parse().ok().filter(|value: &f64| *value >= 0.0)?;
    let value = value * (1u64 << unit) as f64;
    (value.is_finite() && value < i64::MAX as f64).then_some(value as u64)
}

/// # Errors
/// [`LimitError::Size`].
pub fn size(flag: &'static str, text: &str) -> Result<u64, LimitError> {
    bytes(text).ok_or_else(|| LimitError::Size {
        flag,
        text: text.to_owned(),
    })
}

/// # Errors
/// [`LimitError::Restart`], [`LimitError::RestartCount`].
pub fn restart_policy(text: &str) -> Result<RestartPolicy, LimitError> {
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    if !matches!(name, "" | "no" | "always" | "unless-stopped" | "on-failure") {
        return Err(LimitError::Restart {
            text: text.to_owned(),
        });
    }
    let maximum_retry_count = match count {
        None => 0,
        Some(count) => count
            .parse()
            .ok()
            .filter(|_| name == "on-failure")
            .ok_or_else(|| LimitError::RestartCount {
                text: count.to_owned(),
            })?,
    };
    Ok(RestartPolicy {
        name: if name.is_empty() { "no" } else { name }.to_owned(),
        maximum_retry_count,
    })
}

const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// # Errors
/// [`LimitError::Ulimit`].
pub fn ulimit(text: &str) -> Result<Ulimit, LimitError> {
    let invalid = |reason| LimitError::Ulimit {
        text: text.to_owned(),
        reason,
    };
    let (name, limits) = text
        .split_once('=')
        .ok_or_else(|| invalid("the limit is missing"))?;
    if !ULIMITS.contains(&name) {
        return Err(invalid("there is no limit of that name"));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "unlimited" | "-1" => Ok(-1),
        _ => text
            .parse::<i64>()
            .ok()
            .filter(|value| *value >= 0)
            .ok_or_else(|| invalid("the limit is no number")),
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(invalid("the soft limit is above the hard limit"));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// Signals 1 to 31 in order (signal(7), x86 and ARM).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Real-time signals that programs may use; glibc keeps 32 and 33.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// A signal's number from its number or its name with or without `SIG`.
///
/// # Errors
/// [`LimitError::Signal`].
pub fn signal(text: &str) -> Result<i32, LimitError> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_number = || name.parse().ok().filter(|n| (1..=64).contains(n));
    let by_name = || {
        let at = SIGNALS.iter().position(|signal| *signal == name)?;
        i32::try_from(at + 1).ok()
    };
    let real_time = || {
        let number = match name.strip_prefix("RTMIN") {
            Some("") => *REAL_TIME.start(),
            Some(offset) => REAL_TIME.start() + offset.strip_prefix('+')?.parse::<i32>().ok()?,
            None => match name.strip_prefix("RTMAX")? {
                "" => *REAL_TIME.end(),
                offset => REAL_TIME.end() - offset.strip_prefix('-')?.parse::<i32>().ok()?,
            },
        };
        REAL_TIME.contains(&number).then_some(number)
    };
    by_number()
        .or_else(by_name)
        .or_else(real_time)
        .ok_or_else(|| LimitError::Signal {
            text: text.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        let rows = [
            ("16777216", Some(16 << 20)),
            ("16777216b", Some(16 << 20)),
            ("16384k", Some(16 << 20)),
            ("16M", Some(16 << 20)),
            ("1.5g", Some(3 << 29)),
            ("0", Some(0)),
            ("", None),
            ("m", None),
            ("-1m", None),
            ("1x", None),
            ("99999999999999t", None),
        ];
        for (text, expected) in rows {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn restart_policies() {
        let policy = |text| restart_policy(text).map(|p| (p.name, p.maximum_retry_count));
        assert_eq!(policy("always"), Ok(("always".into(), 0)));
        assert_eq!(policy("on-failure:2"), Ok(("on-failure".into(), 2)));
        assert_eq!(policy("no"), Ok(("no".into(), 0)));
        for (text, part) in [
            ("sometimes", "invalid restart policy"),
            ("always:3", "maximum retry count"),
            ("on-failure:x", "maximum retry count"),
            ("on-failure:-1", "maximum retry count"),
        ] {
            let message = policy(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn ulimits() {
        let limit = |text| ulimit(text).map(|l| (l.name, l.soft, l.hard));
        assert_eq!(limit("nofile=123:456"), Ok(("nofile".into(), 123, 456)));
        assert_eq!(limit("core=0"), Ok(("core".into(), 0, 0)));
        assert_eq!(limit("memlock=-1:-1"), Ok(("memlock".into(), -1, -1)));
        for bad in [
            "nofile",
            "files=1",
            "nofile=x",
            "nofile=2:1",
            "nofile=-1:5",
            "nofile=-2",
        ] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("SIGUSR1", 10),
            ("RTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(signal(text), Ok(expected), "{text}");
        }
        for bad in [
            "", "0", "65", "NOSUCH", "-9", "RTMIN+99", "RTMAX+1", "RTMINX",
        ] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }
}
