//! `--log-driver` and `--log-opt`: Docker's options, checked before anything is made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use regex::Regex;

use super::attribute::{Chosen, Names};
use super::gelf::Packing;
use super::syslog::{self, Address, Shape};
use super::{Files, Format, fluentd, gelf, subject};
use crate::container::{LogConfig, Record};
use crate::format::template::{Template, TemplateError};

/// As Docker's readers know them; a log has bounds even if nobody asks for them.
const JSON: Files = Files {
    format: Format::Json,
    max_size: 16 << 20,
    max_files: 3,
    compress: false,
};
const LOCAL: Files = Files {
    format: Format::Local,
    max_size: 20 << 20,
    max_files: 5,
    compress: true,
};
/// Of lines that wait for the driver.
const DEFAULT_BUFFER: u64 = 1 << 20;
pub(crate) const DRIVERS: [&str; 7] = [
    "fluentd",
    "gelf",
    "journald",
    "json-file",
    "local",
    "none",
    "syslog",
];

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum LogOptionError {
    #[error(
        "logger: no log driver named {driver:?} is registered; known are {}",
        DRIVERS.join(", ")
    )]
    Driver { driver: String },
    #[error("invalid logging opts for driver none: it takes no --log-opt")]
    None,
    #[error("unknown log opt {key:?} for {driver} log driver; known are {known}")]
    Unknown {
        key: String,
        driver: String,
        known: String,
    },
    #[error("invalid log opt {key}={value:?}: expected {expected}")]
    Value {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("logger: max-buffer-size option is only supported with mode=non-blocking")]
    BufferWithoutMode,
    #[error("invalid log opt {key}={value:?}: {reason}")]
    Pattern {
        key: &'static str,
        value: String,
        reason: String,
    },
    #[error("invalid log opt tag={value:?}: {source}")]
    Tag {
        value: String,
        source: TemplateError,
    },
    #[error("log opt compress=true needs max-file of 2 or more and a max-size")]
    NothingToCompress,
    #[error("log opt {0} needs the other of syslog-tls-cert and syslog-tls-key")]
    HalfAPair(&'static str),
    #[error("the log driver gelf needs --log-opt gelf-address=udp://HOST:PORT, or tcp://")]
    NoAddress,
}

/// What happens to output that the driver does not take at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The container waits.
    Blocking,
    /// So many bytes wait, and what is older is lost.
    NonBlocking { buffer: u64 },
}

impl Mode {
    /// Of lines that wait.
    pub(crate) fn buffer(self) -> u64 {
        match self {
            Self::Blocking => DEFAULT_BUFFER,
            Self::NonBlocking { buffer } => buffer,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Driver {
    None,
    Files(Files),
    Journald,
    Syslog(Syslog),
    Gelf(Gelf),
    Fluentd(Fluentd),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gelf {
    pub(crate) address: gelf::Address,
    pub(crate) packing: Packing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fluentd {
    pub(crate) address: fluentd::Address,
    /// The container starts without it.
    pub(crate) may_be_away: bool,
    pub(crate) precise: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Syslog {
    pub(crate) address: Address,
    pub(crate) facility: u8,
    pub(crate) shape: Shape,
    pub(crate) tls: Tls,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) authorities: Option<PathBuf>,
    /// The certificate and its key.
    pub(crate) own: Option<(PathBuf, PathBuf)>,
    pub(crate) skips_verification: bool,
}

/// The log of one container.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) driver: Driver,
    pub(crate) mode: Mode,
    pub(crate) chosen: Chosen,
    pub(crate) tag: Option<Template>,
    /// Beside a driver that cannot be read: what `hawser logs` reads.
    pub(crate) cache: Option<Files>,
}

impl Settings {
    /// # Errors
    /// [`LogOptionError`].
    pub(crate) fn parse(config: &LogConfig) -> Result<Self, LogOptionError> {
        let name = match config.driver.as_str() {
            "" => "json-file",
            name => name,
        };
        let options = Options(&config.config);
        if !DRIVERS.contains(&name) {
            return Err(LogOptionError::Driver {
                driver: name.to_owned(),
            });
        }
        options.check_names(name)?;
        let driver = match name {
            "none" => Driver::None,
            "json-file" => Driver::Files(options.files(JSON, &OWN_FILES)?),
            "local" => Driver::Files(options.files(LOCAL, &OWN_FILES)?),
            "journald" => Driver::Journald,
            "gelf" => Driver::Gelf(options.gelf()?),
            "fluentd" => Driver::Fluentd(options.fluentd()?),
            _ => Driver::Syslog(options.syslog()?),
        };
        let is_remote = !matches!(driver, Driver::None | Driver::Files(_));
        let is_cached = is_remote && !options.switch("cache-disabled", false)?;
        Ok(Self {
            cache: match is_cached {
                true => Some(options.files(LOCAL, &CACHE_FILES)?),
                false => None,
            },
            driver,
            mode: options.mode()?,
            chosen: options.chosen()?,
            tag: options.tag()?,
        })
    }

    /// What the container's entries are marked with, where they are: Docker's short id unless
    /// given.
    pub(crate) fn tag(&self, record: &Record) -> Result<String, LogOptionError> {
        let Some(template) = &self.tag else {
            return Ok(record.id.short().to_owned());
        };
        let rendered = template.render(&subject::of(record));
        rendered.map_err(|source| LogOptionError::Tag {
            value: "tag".to_owned(),
            source,
        })
    }

    /// The files that can be read, if there are any.
    pub(crate) fn files(&self) -> Option<Files> {
        match &self.driver {
            Driver::Files(files) => Some(*files),
            _ => self.cache,
        }
    }
}

/// Names of the options that bound files.
struct FileOptions {
    max_size: &'static str,
    max_file: &'static str,
    compress: &'static str,
}

const OWN_FILES: FileOptions = FileOptions {
    max_size: "max-size",
    max_file: "max-file",
    compress: "compress",
};
const CACHE_FILES: FileOptions = FileOptions {
    max_size: "cache-max-size",
    max_file: "cache-max-file",
    compress: "cache-compress",
};

const EVERYWHERE: [&str; 2] = ["max-buffer-size", "mode"];
const ABOUT: [&str; 5] = ["env", "env-regex", "labels", "labels-regex", "tag"];
const FILES: [&str; 3] = ["compress", "max-file", "max-size"];
const CACHE: [&str; 4] = [
    "cache-compress",
    "cache-disabled",
    "cache-max-file",
    "cache-max-size",
];
const SYSLOG: [&str; 7] = [
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
];

const GELF: [&str; 3] = [
    "gelf-address",
    "gelf-compression-level",
    "gelf-compression-type",
];
const FLUENTD: [&str; 3] = [
    "fluentd-address",
    "fluentd-async",
    "fluentd-sub-second-precision",
];

fn known(driver: &str) -> Vec<&'static str> {
    let groups: &[&[&str]] = match driver {
        "json-file" => &[&EVERYWHERE, &ABOUT, &FILES],
        "local" => &[&EVERYWHERE, &FILES],
        "journald" => &[&EVERYWHERE, &ABOUT, &CACHE],
        "gelf" => &[&EVERYWHERE, &ABOUT, &CACHE, &GELF],
        "fluentd" => &[&EVERYWHERE, &ABOUT, &CACHE, &FLUENTD],
        _ => &[&EVERYWHERE, &ABOUT, &CACHE, &SYSLOG],
    };
    let mut known = groups.concat();
    known.sort_unstable();
    known
}

/// Options as they were given.
struct Options<'a>(&'a BTreeMap<String, String>);

impl Options<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn check_names(&self, driver: &str) -> Result<(), LogOptionError> {
        if driver == "none" {
            return match self.0.is_empty() {
                true => Ok(()),
                false => Err(LogOptionError::None),
            };
        }
        let known = known(driver);
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(LogOptionError::Unknown {
                key: key.clone(),
                driver: driver.to_owned(),
                known: known.join(", "),
            }),
        }
    }

    /// The value of `key` as `parse` reads it, or what is usual.
    fn value<T>(
        &self,
        key: &'static str,
        usual: T,
        parse: impl Fn(&str) -> Option<T>,
        expected: &'static str,
    ) -> Result<T, LogOptionError> {
        let Some(text) = self.text(key) else {
            return Ok(usual);
        };
        parse(text).ok_or_else(|| LogOptionError::Value {
            key,
            value: text.to_owned(),
            expected,
        })
    }

    fn switch(&self, key: &'static str, usual: bool) -> Result<bool, LogOptionError> {
        // What Go's `strconv.ParseBool` takes.
        let parse = |text: &str| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        };
        self.value(key, usual, parse, "true or false")
    }

    fn files(&self, usual: Files, names: &FileOptions) -> Result<Files, LogOptionError> {
        let size = "a number with k, m or g, or -1 for no bound";
        let count = |text: &str| text.parse().ok().filter(|files| *files > 0);
        let files = Files {
            max_size: self.value(names.max_size, usual.max_size, parse_size, size)?,
            max_files: self.value(names.max_file, usual.max_files, count, "a number above 0")?,
            ..usual
        };
        let can_compress = files.max_files > 1 && files.max_size < u64::MAX;
        let compress = self.switch(names.compress, usual.compress && can_compress)?;
        match compress && !can_compress {
            true => Err(LogOptionError::NothingToCompress),
            false => Ok(Files { compress, ..files }),
        }
    }

    fn mode(&self) -> Result<Mode, LogOptionError> {
        let buffer = self.value(
            "max-buffer-size",
            DEFAULT_BUFFER,
            |text| parse_size(text).filter(|size| *size < u64::MAX),
            "a number with k, m or g",
        )?;
        let parse = |text: &str| match text {
            "blocking" | "" => Some(Mode::Blocking),
            "non-blocking" => Some(Mode::NonBlocking { buffer }),
            _ => None,
        };
        let mode = self.value("mode", Mode::Blocking, parse, "blocking or non-blocking")?;
        match mode == Mode::Blocking && self.text("max-buffer-size").is_some() {
            true => Err(LogOptionError::BufferWithoutMode),
            false => Ok(mode),
        }
    }

    fn chosen(&self) -> Result<Chosen, LogOptionError> {
        let names = |listed, matching| {
            let texts = self.text(listed).unwrap_or_default().split(',');
            let texts = texts.map(str::trim).filter(|name| !name.is_empty());
            Ok(Names {
                listed: texts.map(str::to_owned).collect(),
                matching: self.pattern(matching)?,
            })
        };
        Ok(Chosen {
            labels: names("labels", "labels-regex")?,
            variables: names("env", "env-regex")?,
        })
    }

    fn pattern(&self, key: &'static str) -> Result<Option<Regex>, LogOptionError> {
        let text = self.text(key).filter(|text| !text.is_empty());
        let pattern = text.map(|text| {
            Regex::new(text).map_err(|error| LogOptionError::Pattern {
                key,
                value: text.to_owned(),
                // The lines before show where.
                reason: error
                    .to_string()
                    .lines()
                    .next_back()
                    .unwrap_or_default()
                    .to_owned(),
            })
        });
        pattern.transpose()
    }

    fn tag(&self) -> Result<Option<Template>, LogOptionError> {
        let text = self.text("tag").filter(|text| !text.is_empty());
        let template = text.map(|text| {
            subject::parse(text).map_err(|source| LogOptionError::Tag {
                value: text.to_owned(),
                source,
            })
        });
        template.transpose()
    }

    fn gelf(&self) -> Result<Gelf, LogOptionError> {
        let address = self.value(
            "gelf-address",
            None,
            |text| gelf::Address::parse(text).map(Some),
            "udp:// or tcp:// and HOST[:PORT]",
        )?;
        // -1 is what is usual.
        let level = |text: &str| {
            text.parse::<i8>()
                .ok()
                .filter(|level| (-1..=9).contains(level))
        };
        let level = self.value("gelf-compression-level", 1, level, "a number from -1 to 9")?;
        let level = u32::try_from(level).unwrap_or(6);
        let parse = |text: &str| match text {
            "gzip" => Some(Packing::Gzip(level)),
            "zlib" => Some(Packing::Zlib(level)),
            "none" => Some(Packing::None),
            _ => None,
        };
        let usual = Packing::Gzip(level);
        let packing = self.value("gelf-compression-type", usual, parse, "gzip, zlib or none")?;
        Ok(Gelf {
            address: address.ok_or(LogOptionError::NoAddress)?,
            packing,
        })
    }

    fn fluentd(&self) -> Result<Fluentd, LogOptionError> {
        Ok(Fluentd {
            address: self.value(
                "fluentd-address",
                fluentd::Address::usual(),
                fluentd::Address::parse,
                "HOST[:PORT], with tcp:// or tls:// if wanted, or unix:// and a path",
            )?,
            may_be_away: self.switch("fluentd-async", false)?,
            precise: self.switch("fluentd-sub-second-precision", false)?,
        })
    }

    fn syslog(&self) -> Result<Syslog, LogOptionError> {
        let path = |key| {
            self.text(key)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        };
        let own = match (path("syslog-tls-cert"), path("syslog-tls-key")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(LogOptionError::HalfAPair("syslog-tls-cert")),
            (None, Some(_)) => return Err(LogOptionError::HalfAPair("syslog-tls-key")),
        };
        Ok(Syslog {
            address: self.value(
                "syslog-address",
                Address::Here,
                Address::parse,
                "udp://, tcp:// or tcp+tls:// and HOST[:PORT], or unix:// or unixgram:// and a path",
            )?,
            facility: self.value(
                "syslog-facility",
                syslog::DAEMON,
                syslog::facility,
                "the name of a facility, or a number below 24",
            )?,
            shape: self.value(
                "syslog-format",
                Shape::Plain,
                Shape::parse,
                "rfc3164, rfc5424 or rfc5424micro",
            )?,
            tls: Tls {
                authorities: path("syslog-tls-ca-cert"),
                own,
                skips_verification: self.switch("syslog-tls-skip-verify", false)?,
            },
        })
    }
}

fn parse_size(text: &str) -> Option<u64> {
    if text == "-1" {
        return Some(u64::MAX);
    }
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (digits, shift) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 10),
        'm' => (&text[..text.len() - 1], 20),
        'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let size = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (size > 0).then_some(size)
}

#[cfg(test)]
mod tests;
