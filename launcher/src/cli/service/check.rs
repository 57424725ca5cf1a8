//! Whether containers can be made of what a service says, as far as can be known before any is.

use api::id::Id;
use api::service::{Service, ServiceEndpoint, ServiceSpec, Version};

use crate::agent::lead::new_task;
use crate::agent::task::Slot;
use crate::agent::template;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::image::config::Section;
use crate::cli::run::draft::{Surroundings, draft};

/// Drafts a container as an agent would, with the words of `hawser run` for what cannot be.
///
/// # Errors
/// [`CliError`] of the first setting.
pub(super) fn check(context: &Context, spec: &ServiceSpec) -> Result<(), CliError> {
    let Some(template) = &spec.task_template else {
        return Ok(());
    };
    let service = Service {
        id: Id::from_bytes([0; 32]),
        version: Version::default(),
        created_at: String::new(),
        updated_at: String::new(),
        spec: spec.clone(),
        previous_spec: None,
        update_status: None,
        endpoint: ServiceEndpoint::default(),
        members: Vec::new(),
        last_resort: false,
        revision: None,
    };
    let info = context.info()?;
    let slot = Slot::numbered(1);
    let now = jiff::Timestamp::now();
    let task = new_task(&service, &slot, Ok(info.name.clone()), now)?;
    let mut flags = template::flags(&service, template, &task, &info.name)?;
    // The daemon has words of its own for the service's name.
    flags.name = None;
    // Another host may have more of them than this one.
    flags.limits.cpus = None;
    // Whatever the image has, it has something to run.
    let image = Section {
        cmd: Some(vec!["command".to_owned()]),
        ..Section::default()
    };
    let around = Surroundings {
        directory: "/".into(),
        logging: info.logging.clone(),
        ..Surroundings::default()
    };
    draft(&flags, &image, &around)?;
    Ok(())
}
