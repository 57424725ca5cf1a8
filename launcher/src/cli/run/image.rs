//! The image of a container that is to be: the one that is here, or the registry's.

use api::reference::{Reference, names_version};
use api::storage::Image;

use super::flags::{CreateFlags, PullPolicy};
use crate::cli::context::{Context, image_config};
use crate::cli::error::CliError;
use crate::cli::image::progress::Voice;
use crate::cli::image::pull;
use crate::cli::output;
use crate::registry::manifest::Platform;

/// # Errors
/// There is none, and none is to be pulled or can be.
pub(super) fn find(context: &Context, flags: &CreateFlags) -> Result<Image, CliError> {
    let typed = flags.image();
    let platform = flags.platform.as_deref().map(Platform::parse).transpose()?;
    if flags.pull != PullPolicy::Always {
        match context.image(typed) {
            Ok(image) if is_for(&image, platform.as_ref(), typed)? => return Ok(image),
            Ok(_) => {}
            Err(CliError::Client(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        if flags.pull == PullPolicy::Never {
            return Err(CliError::NoImage {
                reference: tagged(typed),
            });
        }
        output::warn(format_args!(
            "Unable to find image '{}' locally",
            tagged(typed)
        ));
    }
    let voice = if flags.quiet {
        Voice::Quiet
    } else {
        Voice::Err
    };
    // An id names no image of a registry.
    let reference = Reference::parse(typed)?;
    pull::fetch(context, &reference, platform.as_ref(), voice)
}

/// Without a platform asked for, whatever is here will do.
fn is_for(image: &Image, platform: Option<&Platform>, typed: &str) -> Result<bool, CliError> {
    let Some(wanted) = platform else {
        return Ok(true);
    };
    let config = image_config(image, typed)?;
    Ok(config.os == wanted.os && config.architecture == wanted.architecture)
}

/// The reference with the tag that stands for none.
fn tagged(reference: &str) -> String {
    if names_version(reference) {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tag_means_latest() {
        for (reference, expected) in [
            ("img", "img:latest"),
            ("img:1", "img:1"),
            ("host:5000/img", "host:5000/img:latest"),
            ("img@sha256:ab", "img@sha256:ab"),
        ] {
            assert_eq!(tagged(reference), expected);
        }
    }
}
