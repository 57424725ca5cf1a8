//! The caller's login for the registry of an image, which goes with a service to the hosts that pull it.

use api::reference::Reference;
use api::service::{RegistryLogin, ServiceSpec};
use api::storage::Secret;

use crate::cli::error::CliError;
use crate::cli::output;
use crate::registry::credential::{self, Logins};

/// Gives the service the caller's login. Where there is none, it keeps none either, as Docker's.
///
/// # Errors
/// The caller's logins cannot be read.
pub(super) fn carry(spec: &mut ServiceSpec) -> Result<(), CliError> {
    let template = spec.task_template.as_ref();
    let image = template.map(|template| Reference::parse(&template.container_spec.image));
    let Some(Ok(reference)) = image else {
        return Ok(());
    };
    let host = reference.host();
    let own = Logins::open()?.find(host)?;
    if own.is_none() {
        output::warn(format_args!(
            "no login for {host} here: hosts pull with their own, if they have one; hawser login {host} first"
        ));
    }
    spec.login = Some(RegistryLogin {
        host: host.to_owned(),
        auth: own.map_or_else(Secret::default, |own| credential::text(&own)),
    });
    Ok(())
}
