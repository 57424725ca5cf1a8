//! `--service`: membership of services, for as long as the container runs.

use api::service::{Service, ServiceJoin};

use super::draft::Draft;
use super::flags::CreateFlags;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::service::{self, ServiceFlagError};

/// The flags with the networks of the services that they ask for, where they name no networks.
///
/// # Errors
/// A service or one of its networks is not there.
pub(super) fn on_their_networks(
    context: &Context,
    flags: &CreateFlags,
) -> Result<CreateFlags, CliError> {
    let mut flags = flags.clone();
    if flags.service.is_empty() && flags.service_weight.is_some() {
        return Err(ServiceFlagError::WeightOfNothing.into());
    }
    if !flags.network.is_empty() {
        return Ok(flags);
    }
    for key in &flags.service {
        let service = service::find(context, key)?;
        for network in service::networks(context, &service)? {
            if !flags.network.contains(&network) {
                flags.network.push(network);
            }
        }
    }
    Ok(flags)
}

/// Makes the container a member, on those of its networks that a service is on.
///
/// # Errors
/// A service is not there, or on none of the container's networks.
pub(super) fn join(
    context: &Context,
    flags: &CreateFlags,
    draft: &mut Draft,
) -> Result<(), CliError> {
    if draft.networks.is_empty() && !flags.service.is_empty() {
        let mode = draft.host_config.network_mode.clone();
        return Err(ServiceFlagError::Unfit { mode }.into());
    }
    for key in &flags.service {
        let service: Service = service::find(context, key)?;
        let networks = service::networks(context, &service)?;
        let own = draft.networks.iter_mut();
        let mut fit = own.filter(|own| networks.contains(&own.network)).peekable();
        if fit.peek().is_none() {
            return Err(ServiceFlagError::Elsewhere {
                service: service.spec.name,
                networks: networks.join(", "),
            }
            .into());
        }
        for request in fit {
            let join = ServiceJoin {
                service: service.spec.name.clone(),
                weight: flags.service_weight.unwrap_or(1),
            };
            if !request
                .services
                .iter()
                .any(|other| other.service == join.service)
            {
                request.services.push(join);
            }
        }
    }
    Ok(())
}
