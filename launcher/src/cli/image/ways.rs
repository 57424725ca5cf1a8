//! The ways to a registry: its mirrors, and where it may be reached itself.

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::registry::credential::Logins;
use crate::registry::{RegistryError, Repository, endpoints};

/// Mirrors hold what is read only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    Pull,
    Push,
    /// What there is.
    Search,
}

/// Does `work` at the first way to the registry that it succeeds at. Once a server has spoken for the
/// registry itself, no worse way is tried.
///
/// # Errors
/// Those of the last way.
pub(super) fn over_ways<T>(
    context: &Context,
    (host, path): (&str, &str),
    scopes: &[String],
    errand: Errand,
    work: impl Fn(&Repository) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let registries = &context.info()?.registries;
    let logins = Logins::open()?.with(context.logins());
    let mut ways = endpoints(host, registries, errand != Errand::Pull)
        .into_iter()
        .peekable();
    while let Some(way) = ways.next() {
        let connected = logins
            .find(&way.host)
            .and_then(|login| Repository::connect(&way, path, scopes.to_vec(), login));
        let is_reached = !matches!(connected, Err(RegistryError::Reach { .. }));
        let outcome = connected.map_err(CliError::from).and_then(|to| work(&to));
        match outcome {
            Err(error) if ways.peek().is_some() && (way.is_mirror || !is_reached) => {
                if way.is_mirror {
                    output::warn(format_args!("hawser: mirror {}: {error}", way.base));
                }
            }
            outcome => return outcome,
        }
    }
    Err(CliError::NoObject(format!("{host}/{path}")))
}
