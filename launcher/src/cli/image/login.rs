//! `hawser login` and `hawser logout`.

use std::io::{self, IsTerminal};

use api::reference::{DEFAULT_HOST, Reference};
use clap::Args;

use crate::cli::ask::{from_stdin, prompt};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::registry::credential::{Credential, Logins};
use crate::registry::{RegistryError, Repository, endpoints};

/// `hawser login`.
#[derive(Debug, Clone, Args)]
pub struct LoginFlags {
    /// User name
    #[arg(short, long)]
    pub username: Option<String>,
    /// Password; others see it in the list of processes
    #[arg(short, long)]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Registry: HOST[:PORT]; Docker Hub unless given
    pub server: Option<String>,
}

/// `hawser logout`.
#[derive(Debug, Clone, Args)]
pub struct LogoutFlags {
    /// Registry: HOST[:PORT]; Docker Hub unless given
    pub server: Option<String>,
}

/// Keeps a login that the registry accepts.
///
/// # Errors
/// It does not, or cannot be reached, or the file of logins cannot be written.
pub fn login(context: &Context, flags: &LoginFlags) -> Result<i32, CliError> {
    let host = host(flags.server.as_deref())?;
    let mut logins = Logins::open()?;
    let credential = match ask(flags)? {
        Some(credential) => credential,
        None => logins.find(&host)?.ok_or(CliError::Conflict(
            "there is no terminal to ask for name and password: give -u and --password-stdin",
        ))?,
    };
    check(context, &host, &credential)?;
    if logins.store(&host, &credential)? {
        output::warn(format_args!(
            "WARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential \
             helper to remove this warning.\n",
            logins.path().display()
        ));
    }
    output::line("Login Succeeded")?;
    Ok(0)
}

/// # Errors
/// The file of logins cannot be written.
pub fn logout(flags: &LogoutFlags) -> Result<i32, CliError> {
    let host = host(flags.server.as_deref())?;
    match Logins::open()?.forget(&host)? {
        true => output::line(format_args!("Removing login credentials for {host}"))?,
        false => output::line(format_args!("Not logged in to {host}"))?,
    }
    Ok(0)
}

/// The registry, as people type it: also as a URL.
///
/// # Errors
/// It is none.
pub(crate) fn host(server: Option<&str>) -> Result<String, CliError> {
    let Some(server) = server else {
        return Ok(DEFAULT_HOST.to_owned());
    };
    let bare = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    let bare = bare.split('/').next().unwrap_or_default();
    if matches!(bare, "docker.io" | "index.docker.io") {
        return Ok(DEFAULT_HOST.to_owned());
    }
    // What could stand before a repository's name.
    match Reference::parse(&format!("{bare}/x")) {
        Ok(reference) if reference.host() == bare => Ok(bare.to_owned()),
        // A name of one word, which in a reference would be no host.
        Ok(_) if bare.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            Ok(bare.to_owned())
        }
        _ => Err(CliError::Flag {
            flag: "SERVER",
            text: server.to_owned(),
            expected: "HOST[:PORT]",
        }),
    }
}

/// Name and password by flags, from standard input or from a terminal; none if nobody can be asked.
fn ask(flags: &LoginFlags) -> Result<Option<Credential>, CliError> {
    if flags.password_stdin {
        if flags.password.is_some() {
            return Err(CliError::Conflict(
                "--password and --password-stdin are mutually exclusive",
            ));
        }
        if flags.username.is_none() {
            return Err(CliError::Conflict(
                "Must provide --username with --password-stdin",
            ));
        }
    }
    if flags.password.is_some() {
        output::warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    let is_terminal = io::stdin().is_terminal();
    let user = match &flags.username {
        Some(user) => user.clone(),
        None if is_terminal => prompt("Username: ", true)?,
        None => return Ok(None),
    };
    let password = match &flags.password {
        Some(password) => password.clone(),
        None if flags.password_stdin => from_stdin()?,
        None if is_terminal => prompt("Password: ", false)?,
        None => {
            return Err(CliError::Conflict(
                "cannot perform an interactive login from a non TTY device: use --password-stdin",
            ));
        }
    };
    if user.is_empty() || password.is_empty() || user.contains(':') {
        return Err(CliError::Conflict(
            "a login takes a user name without a colon, and a password",
        ));
    }
    Ok(Some(Credential::Password { user, password }))
}

/// # Errors
/// The registry refuses the login, or cannot be reached.
pub(crate) fn check(
    context: &Context,
    host: &str,
    credential: &Credential,
) -> Result<(), CliError> {
    let registries = &context.info()?.registries;
    let mut ways = endpoints(host, registries, true).into_iter().peekable();
    while let Some(way) = ways.next() {
        let checked = Repository::connect(&way, "", Vec::new(), Some(credential.clone()))
            .and_then(|registry| registry.check_login());
        match checked {
            Err(RegistryError::Reach { .. }) if ways.peek().is_some() => {}
            outcome => return Ok(outcome?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_typed_in_many_ways() {
        for (typed, expected) in [
            (None, "docker.io"),
            (Some("docker.io"), "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("r.example:5000"), "r.example:5000"),
            (Some("https://r.example/v2/"), "r.example"),
            (Some("localhost:5000"), "localhost:5000"),
        ] {
            assert_eq!(host(typed).unwrap(), expected, "{typed:?}");
        }
        for typed in ["", "r example", "r.example:port", "../x", "-"] {
            assert!(host(Some(typed)).is_err(), "{typed:?}");
        }
    }
}
