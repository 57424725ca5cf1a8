//! Logging to standard error: one line an event, text or JSON. journald adds the time to text.

use std::io;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

use crate::config::{Config, ConfigError};
use crate::flags::LogFormat;

/// Changes what is logged while the daemon runs.
#[derive(Debug, Clone)]
pub(crate) struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// # Errors
    /// [`ConfigError::LogLevel`]; the level stays what it was.
    pub(crate) fn set(&self, level: &str) -> Result<(), ConfigError> {
        let filter = parse(level)?;
        // The subscriber lives as long as the process, so that there always is one to change.
        self.0.reload(filter).unwrap_or(());
        Ok(())
    }
}

/// Starts logging. To be called once.
///
/// # Errors
/// [`ConfigError::LogLevel`].
pub(crate) fn start(config: &Config) -> Result<Level, ConfigError> {
    let (filter, handle) = reload::Layer::new(parse(&config.log_level)?);
    let output = fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Text => registry.with(output.with_ansi(false).without_time()).init(),
        LogFormat::Json => registry.with(output.json().flatten_event(true)).init(),
    }
    Ok(Level(handle))
}

/// # Errors
/// [`ConfigError::LogLevel`].
pub(crate) fn check_level(level: &str) -> Result<(), ConfigError> {
    parse(level).map(drop)
}

fn parse(level: &str) -> Result<EnvFilter, ConfigError> {
    let refused = |source| ConfigError::LogLevel {
        level: level.to_owned(),
        source,
    };
    // The one of Docker's levels that does not exist here: what is fatal is said at the end.
    if level == "fatal" {
        return parse("off");
    }
    // The filter takes an unknown word for a part of the program, of which it then says everything,
    // and nothing of the others.
    for word in level.split(',').filter(|word| is_word(word)) {
        word.parse::<LevelFilter>()
            .map_err(|error| refused(error.into()))?;
    }
    EnvFilter::builder().parse(level).map_err(refused)
}

/// Neither `netd=debug` nor `[request]`.
fn is_word(directive: &str) -> bool {
    directive.chars().all(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_dockers_and_a_misspelt_one_is_refused() {
        for level in ["debug", "info", "warn", "error", "fatal", "off"] {
            assert!(check_level(level).is_ok(), "{level}");
        }
        assert!(check_level("netd=debug,info").is_ok());
        for level in ["debgu", "netd=debug,inof"] {
            assert!(check_level(level).is_err(), "{level}");
        }
    }
}
