//! The layers of one image on their way to the daemon, several at once. They are begun in order, so
//! that the one below is always done or on its way; the daemon commits them in order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use api::id::Digest;
use api::path::{IMAGES, LAYERS};
use api::storage::{Image, ImageCreate};
use sha2::{Digest as _, Sha256};

use crate::cli::context::Context;
use crate::cli::error::CliError;

/// Images that go meanwhile can take layers from one that comes, but hardly that often.
const ATTEMPTS: u32 = 4;

#[derive(Debug)]
pub struct Stack {
    /// Bottom first.
    layers: Vec<Place>,
}

/// One layer, and what is below it.
#[derive(Debug)]
struct Place {
    diff_id: Digest,
    chain: Digest,
    parent: Option<Digest>,
}

impl Stack {
    pub fn of<'d>(diff_ids: impl Iterator<Item = &'d Digest>) -> Self {
        let mut below: Option<Digest> = None;
        let layers = diff_ids.map(|diff_id| {
            let chain = match &below {
                None => diff_id.clone(),
                // OCI image specification, "Layer ChainID".
                Some(below) => Digest::from_sha256(
                    Sha256::digest(format!("{below} {diff_id}").as_bytes()).into(),
                ),
            };
            Place {
                diff_id: diff_id.clone(),
                parent: below.replace(chain.clone()),
                chain,
            }
        });
        Self {
            layers: layers.collect(),
        }
    }

    /// What the daemon knows a layer by, with all below it.
    pub fn chain(&self, number: usize) -> Option<&Digest> {
        self.layers.get(number).map(|place| &place.chain)
    }

    /// Has `send` send every layer, by its number, to the route it is given.
    ///
    /// # Errors
    /// Those of `send`: of several the lowest layer's, from which the others follow.
    pub fn send_all(
        &self,
        at_once: usize,
        send: impl Fn(usize, &str) -> Result<(), CliError> + Sync,
    ) -> Result<(), CliError> {
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(place) = self.layers.get(number) else {
                    break;
                };
                if let Err(error) = send(number, &place.route()) {
                    failed.store(true, Ordering::Relaxed);
                    return Some((number, error));
                }
            }
            None
        };
        let failures = thread::scope(|scope| {
            let at_once = at_once.min(self.layers.len());
            let senders: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            let ended = senders.into_iter().map(|sender| {
                sender
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            ended.flatten().collect::<Vec<(usize, CliError)>>()
        });
        match failures.into_iter().min_by_key(|(number, _)| *number) {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }
}

/// Has `send_all` send the layers of an image, and names it.
///
/// Layers that were here already may go with the last other image that has them, until this one
/// names them; those are sent again.
///
/// # Errors
/// Those of `send_all`, and of the daemon.
pub fn store(
    context: &Context,
    request: &ImageCreate,
    send_all: impl Fn() -> Result<(), CliError>,
) -> Result<Image, CliError> {
    let attempt = || -> Result<Image, CliError> {
        send_all()?;
        Ok(context.client().post(IMAGES, request)?)
    };
    for _another in 1..ATTEMPTS {
        match attempt() {
            Err(CliError::Client(error)) if error.is_not_found() => {}
            outcome => return outcome,
        }
    }
    attempt()
}

impl Place {
    fn route(&self) -> String {
        let mut route = format!("{LAYERS}?meanwhile=true&diff_id={}", self.diff_id);
        if let Some(parent) = &self.parent {
            route.push_str(&format!("&parent={parent}"));
        }
        route
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn stack(layers: u8) -> Stack {
        let diff_ids: Vec<Digest> = (0..layers).map(|n| Digest::from_sha256([n; 32])).collect();
        Stack::of(diff_ids.iter())
    }

    #[test]
    fn each_layer_goes_on_top_of_the_one_below() {
        let stack = stack(3);
        let routes = Mutex::new(Vec::new());
        let note = |_: usize, route: &str| {
            routes.lock().unwrap().push(route.to_owned());
            Ok(())
        };
        stack.send_all(1, note).unwrap();
        let routes = routes.into_inner().unwrap();
        assert!(!routes[0].contains("parent="));
        for (number, route) in routes[1..].iter().enumerate() {
            let below = stack.chain(number).unwrap();
            assert!(route.ends_with(&format!("&parent={below}")), "{route}");
        }
    }

    #[test]
    fn the_lowest_failure_is_the_one_that_is_told() {
        let fail = |number: usize, _: &str| match number {
            0 => Ok(()),
            number => Err(CliError::NoObject(number.to_string())),
        };
        let error = stack(4).send_all(3, fail).unwrap_err();
        assert_eq!(error.to_string(), "No such object: 1");
        assert!(stack(0).send_all(3, fail).is_ok());
    }
}
