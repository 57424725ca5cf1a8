//! From a destination to the backend that serves it.

use abi::frontend::Candidates;
use abi::map::{BACKEND_LIVE, Backend, NO_BACKEND};
use abi::socket::Wildcard;
use abi::{Address, Be16};

use crate::map;

/// A frontend's answer.
pub(crate) struct Target {
    pub service: u32,
    pub id: u32,
    pub backend: Backend,
}

pub(crate) enum Found {
    /// Nothing is published there.
    Nothing,
    /// Something is, but no backend serves it.
    NoBackend,
    Target(Target),
}

/// Looks up the exact frontend, then the wildcard.
#[inline(always)]
pub(crate) fn find(destination: Address, port: Be16, protocol: u8, wildcard: Wildcard) -> Found {
    let candidates = Candidates::of(destination, port, protocol);
    let frontend = match map::frontend(&candidates.exact) {
        Some(exact) => Some(exact),
        None => match map::frontend(&candidates.wildcard) {
            // Traffic that this host only forwards is somebody else's (GHSA-jv3w-x3r3-g6rm).
            Some(any) if answers(destination, wildcard) => Some(any),
            _ => None,
        },
    };
    match frontend {
        Some(frontend) => match target(frontend.service) {
            Some(target) => Found::Target(target),
            None => Found::NoBackend,
        },
        None => Found::Nothing,
    }
}

#[inline(always)]
fn answers(destination: Address, wildcard: Wildcard) -> bool {
    matches!(wildcard, Wildcard::Always) || map::is_local(&destination)
}

#[inline(always)]
fn target(service: u32) -> Option<Target> {
    let id = map::service(service)?.backend;
    if id == NO_BACKEND {
        return None;
    }
    let backend = *map::backend(id)?;
    (backend.state == BACKEND_LIVE).then_some(Target {
        service,
        id,
        backend,
    })
}
