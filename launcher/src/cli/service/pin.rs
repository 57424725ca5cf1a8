//! Services name their image by digest, so that each replica is of the same one, whichever host pulls
//! it and whenever.

use api::id::Digest;
use api::reference::{Reference, Selector};
use api::storage::Image;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::image::pull;
use crate::cli::output;

/// Adds the digest that the tag of `image` has in its registry by now. What came from none, and what has
/// a digest already, stays as it is; so does what no registry tells of, with a warning.
///
/// # Errors
/// The daemon does not answer.
pub(super) fn pin(context: &Context, image: &mut String) -> Result<(), CliError> {
    let Ok(reference) = Reference::parse(image) else {
        return Ok(());
    };
    let Selector::Tag(tag) = reference.selector() else {
        return Ok(());
    };
    let here = match context.image(image) {
        Ok(here) => Some(here),
        Err(CliError::Client(error)) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let own = here.as_ref().map(|here| digest_of(here, &reference));
    if own == Some(None) {
        return Ok(());
    }
    let digest = match (pull::digest(context, &reference), own.flatten()) {
        (Ok(digest), _) => digest,
        (Err(error), Some(own)) => {
            output::warn(format_args!(
                "{error}: the service has the image {image} that is here"
            ));
            own
        }
        (Err(error), None) => {
            output::warn(format_args!(
                "image {image} could not be accessed on a registry to record its digest. Each node \
                 will access {image} independently, possibly leading to different nodes running \
                 different versions of the image: {error}"
            ));
            return Ok(());
        }
    };
    *image = format!("{}:{tag}@{digest}", reference.repository());
    Ok(())
}

/// By which the repository has the image.
fn digest_of(image: &Image, reference: &Reference) -> Option<Digest> {
    let own = image
        .digests
        .iter()
        .filter_map(|text| Reference::parse(text).ok());
    let mut own = own.filter(|own| own.repository() == reference.repository());
    match own.next()?.selector() {
        Selector::Digest(digest) => Some(digest.clone()),
        Selector::Tag(_) => None,
    }
}
