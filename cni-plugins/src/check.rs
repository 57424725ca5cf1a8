//! What `CHECK` compares once the daemon has checked the kernel: is the attachment still the one
//! that the runtime remembers? Pure.

use api::net::{Attachment, EndpointAddress};

use crate::command::Sandbox;
use crate::error::PluginError;
use crate::previous::Own;

/// Later plugins of a chain may have added to the result and to the sandbox; only what is
/// remembered of this plugin's own interface must still be there.
///
/// # Errors
/// [`PluginError::Drifted`] with the first difference.
pub(crate) fn compare(
    own: Option<Own>,
    sandbox: &Sandbox,
    attachment: &Attachment,
) -> Result<(), PluginError> {
    let own = own.ok_or_else(|| drifted(attachment, "is not in prevResult"))?;
    if attachment.netns != sandbox.netns {
        let difference = format!("is in {}, not in {}", attachment.netns, sandbox.netns);
        return Err(drifted(attachment, difference));
    }
    match own.addresses.iter().find(|ip| !has(attachment, ip)) {
        Some(ip) => {
            let difference = format!(
                "had address {}, it now has {}",
                ip.address,
                list(attachment)
            );
            Err(drifted(attachment, difference))
        }
        None => Ok(()),
    }
}

/// The same for an address lease, whose interface is somebody else's.
///
/// # Errors
/// [`PluginError::Drifted`] when a remembered address is not the lease's.
pub(crate) fn compare_lease(
    remembered: &[EndpointAddress],
    attachment: &Attachment,
) -> Result<(), PluginError> {
    // The result may have addresses of other plugins, but ours must be in it.
    let lost = attachment
        .addresses
        .iter()
        .find(|entry| remembered.iter().all(|ip| ip.address != entry.address));
    match lost {
        None => Ok(()),
        Some(entry) => {
            let difference = format!(
                "was leased address {}, which is not in prevResult",
                entry.address
            );
            Err(drifted(attachment, difference))
        }
    }
}

fn has(attachment: &Attachment, ip: &EndpointAddress) -> bool {
    attachment.addresses.iter().any(|entry| {
        entry.address == ip.address && (ip.gateway.is_none() || entry.gateway == ip.gateway)
    })
}

fn list(attachment: &Attachment) -> String {
    let texts = attachment.addresses.iter().map(|a| a.address.to_string());
    texts.collect::<Vec<_>>().join(", ")
}

fn drifted(attachment: &Attachment, difference: impl Into<String>) -> PluginError {
    PluginError::Drifted {
        container: attachment.container_id.clone(),
        ifname: attachment.ifname.to_string(),
        difference: difference.into(),
    }
}
