//! `--health-cmd` and its like: how a container's health is checked. Pure.

use clap::Args;
use jiff::SignedDuration;

use crate::container::Healthcheck;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HealthError {
    #[error("--no-healthcheck conflicts with --health-* options")]
    Conflict,
    #[error("invalid {flag} {text:?}: expected a span such as 10s or 1m30s")]
    Span { flag: &'static str, text: String },
    #[error("{flag} cannot be less than 1ms")]
    Short { flag: &'static str },
    #[error("--health-retries cannot be negative")]
    Retries,
    #[error("{0} needs a health check: give --health-cmd, or take an image that has one")]
    NoCommand(&'static str),
}

/// How it is found out whether the container is well.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Health")]
pub struct HealthFlags {
    /// The container is well when this command ends with exit code 0 inside it; run by a shell
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time from one check to the next, 30s unless given
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<String>,
    /// Time after which a check has failed, 30s unless given
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<String>,
    /// Failures in a row after which the container is unhealthy, 3 unless given
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub health_retries: Option<i64>,
    /// Failures in this time after the start do not count, 0s unless given
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<String>,
    /// Time from one check to the next in the start period, 5s unless given
    #[arg(long, value_name = "DURATION")]
    pub health_start_interval: Option<String>,
    /// No check, whatever the image says
    #[arg(long)]
    pub no_healthcheck: bool,
}

impl HealthFlags {
    /// The flags laid over the image's check.
    ///
    /// # Errors
    /// [`HealthError`].
    pub fn over(&self, image: Option<&Healthcheck>) -> Result<Option<Healthcheck>, HealthError> {
        let times = [
            ("--health-interval", &self.health_interval),
            ("--health-timeout", &self.health_timeout),
            ("--health-start-period", &self.health_start_period),
            ("--health-start-interval", &self.health_start_interval),
        ];
        let first = times.iter().find(|(_, text)| text.is_some());
        let first = first.map(|(flag, _)| *flag);
        let first = first.or(self.health_retries.map(|_| "--health-retries"));
        if self.no_healthcheck {
            if self.health_cmd.is_some() || first.is_some() {
                return Err(HealthError::Conflict);
            }
            return Ok(Some(Healthcheck {
                test: vec!["NONE".to_owned()],
                ..Healthcheck::default()
            }));
        }
        let mut check = image.cloned().unwrap_or_default();
        if let Some(command) = &self.health_cmd {
            check.test = vec!["CMD-SHELL".to_owned(), command.clone()];
        }
        let places = [
            &mut check.interval,
            &mut check.timeout,
            &mut check.start_period,
            &mut check.start_interval,
        ];
        for ((flag, text), place) in times.into_iter().zip(places) {
            if let Some(text) = text {
                *place = nanoseconds(flag, text)?;
            }
        }
        if let Some(retries) = self.health_retries {
            if retries < 0 {
                return Err(HealthError::Retries);
            }
            check.retries = retries;
        }
        match (check.test.is_empty(), first) {
            (false, _) => Ok(Some(check)),
            (true, Some(flag)) => Err(HealthError::NoCommand(flag)),
            (true, None) => Ok(None),
        }
    }
}

/// Zero stands for the default.
fn nanoseconds(flag: &'static str, text: &str) -> Result<i64, HealthError> {
    let span = || HealthError::Span {
        flag,
        text: text.to_owned(),
    };
    if text == "0" {
        return Ok(0);
    }
    let parsed: SignedDuration = text.parse().map_err(|_no_span| span())?;
    let nanoseconds = i64::try_from(parsed.as_nanos()).map_err(|_too_long| span())?;
    if nanoseconds != 0 && nanoseconds < 1_000_000 {
        return Err(HealthError::Short { flag });
    }
    Ok(nanoseconds)
}

/// The words of a `HEALTHCHECK` instruction: `NONE`, or options and `CMD`. `command` makes words of
/// what follows `CMD`.
///
/// # Errors
/// What is wrong with it.
pub fn instruction(
    text: &str,
    command: impl Fn(&str) -> Vec<String>,
) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = text.trim();
    while let Some(option) = rest.strip_prefix("--") {
        let (option, more) = option.split_once(char::is_whitespace).ok_or("no CMD")?;
        rest = more.trim_start();
        let (name, value) = option.split_once('=').ok_or("an option has no value")?;
        let time = || nanoseconds("--interval", value).map_err(|error| error.to_string());
        match name {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => {
                let retries = value.parse().ok().filter(|retries: &i64| *retries >= 0);
                check.retries = retries.ok_or("--retries is no number")?;
            }
            _ => return Err(format!("there is no option --{name}")),
        }
    }
    let (verb, words) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    check.test = match (verb.to_ascii_uppercase().as_str(), words.trim()) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", line) if !line.is_empty() => test(command(line)),
        _ => return Err("expected NONE, or CMD and a command".to_owned()),
    };
    Ok(check)
}

/// Words that begin with a shell are a line for one.
fn test(words: Vec<String>) -> Vec<String> {
    match words.as_slice() {
        [shell, flag, line] if shell == "/bin/sh" && flag == "-c" => {
            vec!["CMD-SHELL".to_owned(), line.clone()]
        }
        _ => ["CMD".to_owned()].into_iter().chain(words).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Healthcheck {
        Healthcheck {
            test: vec!["CMD".to_owned(), "/check".to_owned()],
            retries: 9,
            ..Healthcheck::default()
        }
    }

    #[test]
    fn flags_are_laid_over_the_images_check() {
        let flags = HealthFlags {
            health_interval: Some("1m30s".to_owned()),
            ..HealthFlags::default()
        };
        let check = flags.over(Some(&image())).unwrap().unwrap();
        assert_eq!((check.interval, check.retries), (90_000_000_000, 9));
        assert_eq!(check.test, ["CMD", "/check"]);
        let own = HealthFlags {
            health_cmd: Some("true".to_owned()),
            ..HealthFlags::default()
        };
        let check = own.over(Some(&image())).unwrap().unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "true"]);
        assert_eq!(HealthFlags::default().over(None), Ok(None));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let message = |change: fn(&mut HealthFlags)| {
            let mut flags = HealthFlags::default();
            change(&mut flags);
            flags.over(None).unwrap_err().to_string()
        };
        let both = message(|flags| {
            flags.no_healthcheck = true;
            flags.health_cmd = Some("true".to_owned());
        });
        assert_eq!(both, "--no-healthcheck conflicts with --health-* options");
        assert!(message(|f| f.health_interval = Some("soon".into())).contains("\"soon\""));
        assert!(message(|f| f.health_timeout = Some("1us".into())).contains("less than 1ms"));
        assert!(message(|f| f.health_retries = Some(-1)).contains("negative"));
        assert!(message(|f| f.health_retries = Some(1)).contains("needs a health check"));
    }

    #[test]
    fn an_instruction_has_options_and_a_command() {
        let words = |line: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()];
        let check = instruction("--interval=5s --retries=2 CMD test -e /x", words).unwrap();
        assert_eq!((check.interval, check.retries), (5_000_000_000, 2));
        assert_eq!(check.test, ["CMD-SHELL", "test -e /x"]);
        assert_eq!(instruction("NONE", words).unwrap().test, ["NONE"]);
        for bad in ["", "CMD", "--interval CMD x", "--often=1 CMD x", "RUN x"] {
            assert!(instruction(bad, words).is_err(), "{bad}");
        }
    }
}
