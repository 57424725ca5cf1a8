//! The flags of a health check.

use std::time::Duration;

use api::service::{Health, Probe};
use clap::Args;
use jiff::SignedDuration;

use super::ServiceFlagError;

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);
const RISE: u32 = 2;
const FALL: u32 = 3;

/// How it is found out whether a member is well.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Health")]
pub struct HealthFlags {
    /// A member is well when it takes connections on this port
    #[arg(long, value_name = "PORT")]
    pub health_tcp: Option<u16>,
    /// A member is well when it answers GET PATH with a status from 200 to 399: PORT[/PATH]
    #[arg(long, value_name = "PORT/PATH")]
    pub health_http: Option<String>,
    /// A member is well when this command ends with exit code 0 inside it; run by a shell
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time from one check to the next, 5s unless given
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<String>,
    /// Time after which a check has failed, 2s unless given
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<String>,
    /// Failures in this time after a member's start do not count, 0s unless given
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<String>,
    /// Successes in a row after which a member serves again, 2 unless given
    #[arg(long, value_name = "NUMBER")]
    pub health_rise: Option<u32>,
    /// Failures in a row after which a member is down, 3 unless given
    #[arg(long, visible_alias = "health-retries", value_name = "NUMBER")]
    pub health_fall: Option<u32>,
    /// No health check: members serve from their start to their end
    #[arg(long)]
    pub no_healthcheck: bool,
}

impl HealthFlags {
    /// The check that is asked for; what is not said stays as in `before`.
    ///
    /// # Errors
    /// [`ServiceFlagError`] of a flag that cannot be, or does not go with another one.
    pub fn check(&self, before: Option<&Health>) -> Result<Option<Health>, ServiceFlagError> {
        let probe = self.probe()?;
        if self.no_healthcheck {
            return match probe {
                Some(_) => Err(ServiceFlagError::Both("--no-healthcheck", "a health check")),
                None => Ok(None),
            };
        }
        let Some(probe) = probe.or_else(|| before.map(|before| before.probe.clone())) else {
            return match self.first_setting() {
                Some(flag) => Err(ServiceFlagError::NoProbe { flag }),
                None => Ok(None),
            };
        };
        let time = |flag, text: &Option<String>, old: Option<Duration>, default| match text {
            Some(text) => duration(flag, text),
            None => Ok(old.unwrap_or(default)),
        };
        let interval = before.map(|before| before.interval);
        let timeout = before.map(|before| before.timeout);
        let start = before.map(|before| before.start_period);
        Ok(Some(Health {
            probe,
            interval: time(
                "--health-interval",
                &self.health_interval,
                interval,
                INTERVAL,
            )?,
            timeout: time("--health-timeout", &self.health_timeout, timeout, TIMEOUT)?,
            start_period: time(
                "--health-start-period",
                &self.health_start_period,
                start,
                Duration::ZERO,
            )?,
            rise: self.health_rise.or(before.map(|b| b.rise)).unwrap_or(RISE),
            fall: self.health_fall.or(before.map(|b| b.fall)).unwrap_or(FALL),
        }))
    }

    fn probe(&self) -> Result<Option<Probe>, ServiceFlagError> {
        let http = self.health_http.as_deref().map(http).transpose()?;
        let tcp = self.health_tcp.map(|port| Probe::Tcp { port });
        let command = self.health_cmd.as_ref().map(|command| Probe::Command {
            command: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        });
        let asked = [
            ("--health-tcp", tcp),
            ("--health-http", http),
            ("--health-cmd", command),
        ];
        let mut asked = asked
            .into_iter()
            .filter_map(|(flag, probe)| Some((flag, probe?)));
        match (asked.next(), asked.next()) {
            (Some((flag, _)), Some((other, _))) => Err(ServiceFlagError::Both(flag, other)),
            (first, _) => Ok(first.map(|(_, probe)| probe)),
        }
    }

    fn first_setting(&self) -> Option<&'static str> {
        let given = [
            ("--health-interval", self.health_interval.is_some()),
            ("--health-timeout", self.health_timeout.is_some()),
            ("--health-start-period", self.health_start_period.is_some()),
            ("--health-rise", self.health_rise.is_some()),
            ("--health-fall", self.health_fall.is_some()),
        ];
        given
            .iter()
            .find(|(_, given)| *given)
            .map(|(flag, _)| *flag)
    }
}

/// `PORT[/PATH]`.
fn http(text: &str) -> Result<Probe, ServiceFlagError> {
    let invalid = || ServiceFlagError::Value {
        flag: "--health-http",
        text: text.to_owned(),
        expected: "PORT[/PATH], such as 80/health",
    };
    let end = text.find('/').unwrap_or(text.len());
    let (port, path) = text.split_at(end);
    Ok(Probe::Http {
        port: port.parse().map_err(|_not_a_port| invalid())?,
        path: if path.is_empty() { "/" } else { path }.to_owned(),
    })
}

/// A span such as `1m30s` or `200ms`.
///
/// # Errors
/// [`ServiceFlagError::Value`].
pub fn duration(flag: &'static str, text: &str) -> Result<Duration, ServiceFlagError> {
    let span: Option<SignedDuration> = text.parse().ok();
    let duration = span.and_then(|span| Duration::try_from(span).ok());
    duration.ok_or_else(|| ServiceFlagError::Value {
        flag,
        text: text.to_owned(),
        expected: "a span such as 10s or 1m30s",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> HealthFlags {
        HealthFlags::default()
    }

    #[test]
    fn what_is_not_said_is_the_default_or_stays() {
        assert_eq!(flags().check(None), Ok(None));
        let http = HealthFlags {
            health_http: Some("8080/up".to_owned()),
            health_interval: Some("200ms".to_owned()),
            ..flags()
        };
        let first = http.check(None).unwrap().unwrap();
        assert_eq!(first.probe.to_string(), "http 8080/up");
        assert_eq!(
            (first.interval, first.timeout),
            (Duration::from_millis(200), TIMEOUT)
        );
        let slower = HealthFlags {
            health_fall: Some(9),
            ..flags()
        };
        let second = slower.check(Some(&first)).unwrap().unwrap();
        assert_eq!(
            second,
            Health {
                fall: 9,
                ..first.clone()
            }
        );
        let none = HealthFlags {
            no_healthcheck: true,
            ..flags()
        };
        assert_eq!(none.check(Some(&first)), Ok(None));
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let message = |flags: HealthFlags| flags.check(None).unwrap_err().to_string();
        let tcp = Some(80);
        let both = HealthFlags {
            health_tcp: tcp,
            health_cmd: Some("true".to_owned()),
            ..flags()
        };
        assert_eq!(
            message(both),
            "conflicting options: --health-tcp and --health-cmd"
        );
        let nothing = HealthFlags {
            health_rise: Some(2),
            ..flags()
        };
        assert!(message(nothing).starts_with("--health-rise needs a health check"));
        let soon = HealthFlags {
            health_tcp: tcp,
            health_timeout: Some("soon".to_owned()),
            ..flags()
        };
        assert!(message(soon).contains("a span such as 10s"));
    }
}
