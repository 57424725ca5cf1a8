//! What each error means to a client. The only place in this crate where codes are assigned.

use std::io;

use api::{ApiError, ErrorCode};

use crate::disk::StepError;
use crate::image::ImageError;
use crate::import::EntryError;
use crate::layer::LayerError;
use crate::owners::OwnerError;
use crate::rootfs::RootfsError;
use crate::volume::VolumeError;
use crate::volume::directory::LimitFailure;
use crate::volume::image_file::ImageFailure;

fn step(error: &StepError) -> ErrorCode {
    match error {
        error if error.is_out_of_space() => ErrorCode::Exhausted,
        // What was asked for is not to be had here.
        StepError::Limit {
            source: LimitFailure::NoQuota { .. } | LimitFailure::NoInodes,
            ..
        }
        | StepError::Image {
            source:
                ImageFailure::NoLoop(_) | ImageFailure::NoFilesystem(_) | ImageFailure::NoProgram { .. },
            ..
        } => ErrorCode::InvalidInput,
        StepError::Image {
            source: ImageFailure::Mounted,
            ..
        }
        | StepError::PoolBusy { .. } => ErrorCode::InUse,
        _ => ErrorCode::Internal,
    }
}

fn entry(error: &EntryError) -> ErrorCode {
    match error.io().map(io::Error::kind) {
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => ErrorCode::Exhausted,
        Some(_) => ErrorCode::Internal,
        None => ErrorCode::InvalidInput,
    }
}

fn layer(error: &LayerError) -> ErrorCode {
    match error {
        LayerError::NoParent(_) | LayerError::NotFound(_) => ErrorCode::NotFound,
        LayerError::TooDeep | LayerError::Mismatch { .. } => ErrorCode::InvalidInput,
        LayerError::Content(error) => entry(error),
        LayerError::InUse { .. } => ErrorCode::InUse,
        LayerError::Damaged { .. } => ErrorCode::Internal,
        LayerError::Step(error) => step(error),
    }
}

fn image(error: &ImageError) -> ErrorCode {
    match error {
        ImageError::Reference(_)
        | ImageError::Ambiguous(_)
        | ImageError::Config(_)
        | ImageError::Moment(_) => ErrorCode::InvalidInput,
        ImageError::NotFound(_) | ImageError::LayerMissing(_) => ErrorCode::NotFound,
        ImageError::ReferenceInUse { .. } | ImageError::InUse { .. } => ErrorCode::InUse,
        ImageError::ManyTags(_) => ErrorCode::Conflict,
        ImageError::Step(error) => step(error),
    }
}

fn rootfs(error: &RootfsError) -> ErrorCode {
    match error {
        RootfsError::Container(_) | RootfsError::Option { .. } | RootfsError::NoQuota { .. } => {
            ErrorCode::InvalidInput
        }
        RootfsError::NoImage(_) | RootfsError::NotFound(_) => ErrorCode::NotFound,
        RootfsError::Conflict(_) => ErrorCode::Conflict,
        RootfsError::TooDeep(_) | RootfsError::Held { .. } => ErrorCode::InUse,
        RootfsError::Hand { .. }
        | RootfsError::TooSmall { .. }
        | RootfsError::Shrinks { .. }
        | RootfsError::NoSize(_) => ErrorCode::InvalidInput,
        RootfsError::Read { .. } => ErrorCode::Internal,
        RootfsError::Owner(error) => owner(error),
        RootfsError::Layer(error) => layer(error),
        RootfsError::Step(error) => step(error),
    }
}

fn owner(error: &OwnerError) -> ErrorCode {
    match error {
        OwnerError::User(_) | OwnerError::Unmappable { .. } => ErrorCode::InvalidInput,
        OwnerError::NoIds { .. } | OwnerError::NoPeer(_) => ErrorCode::NotFound,
        OwnerError::Taken { .. } => ErrorCode::Exhausted,
    }
}

fn volume(error: &VolumeError) -> ErrorCode {
    match error {
        VolumeError::Name(_)
        | VolumeError::Driver(_)
        | VolumeError::Option { .. }
        | VolumeError::Holder { .. }
        | VolumeError::Path(_) => ErrorCode::InvalidInput,
        VolumeError::NotFound(_) => ErrorCode::NotFound,
        VolumeError::NoSnapshot { .. } | VolumeError::NotInTrash(_) => ErrorCode::NotFound,
        VolumeError::InUse { .. }
        | VolumeError::HasSnapshots { .. }
        | VolumeError::Mounted { .. } => ErrorCode::InUse,
        VolumeError::Exists(_) | VolumeError::SnapshotExists { .. } => ErrorCode::Conflict,
        VolumeError::Device(_) | VolumeError::NoSize(_) | VolumeError::Shrinks { .. } => {
            ErrorCode::InvalidInput
        }
        VolumeError::Resolve { .. } => ErrorCode::Unavailable,
        VolumeError::Copy { source, .. } | VolumeError::Duplicate { source, .. } => {
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::Exhausted,
                _ => ErrorCode::Internal,
            }
        }
        VolumeError::Locked(_) => ErrorCode::Unavailable,
        VolumeError::WrongKey(_) | VolumeError::NotEncrypted(_) => ErrorCode::InvalidInput,
        VolumeError::SharedKey { .. } => ErrorCode::InUse,
        VolumeError::Export { .. } => ErrorCode::Internal,
        VolumeError::Import { source, .. } => entry(source),
        VolumeError::Rootfs(error) => rootfs(error),
        VolumeError::Step(error) => step(error),
    }
}

macro_rules! into_api_error {
    ($($error:ty => $code:path),* $(,)?) => {$(
        impl From<$error> for ApiError {
            fn from(error: $error) -> Self {
                ApiError::new($code(&error), error.to_string())
            }
        }
    )*};
}

into_api_error! {
    StepError => step,
    LayerError => layer,
    ImageError => image,
    RootfsError => rootfs,
    VolumeError => volume,
}
