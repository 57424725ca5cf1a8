//! New addresses are announced in the background.
//!
//! A bridge carries an announcement to each of its ports, through their filters: 4 ms of an attach
//! to a bridge of a thousand. Nobody waits for it: who remembers the link address that an address
//! had before learns of the new one moments after the attach has returned.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use crate::kernel::Kernel;
use crate::model::step::Step;

/// The thread that announces, in the order of the attaches.
pub(crate) struct Announcements {
    kernel: Arc<dyn Kernel>,
    thread: Option<(Sender<Step>, JoinHandle<()>)>,
}

impl Announcements {
    /// # Errors
    /// Of starting the thread.
    pub(crate) fn start(kernel: Arc<dyn Kernel>) -> io::Result<Self> {
        let (sender, steps) = mpsc::channel();
        let mut announcements = Self::inline(Arc::clone(&kernel));
        let thread = thread::Builder::new().name("announcements".to_owned());
        let thread = thread.spawn(move || serve(&*kernel, &steps))?;
        announcements.thread = Some((sender, thread));
        Ok(announcements)
    }

    /// Without a thread: each is made by the call that adds it.
    pub(crate) fn inline(kernel: Arc<dyn Kernel>) -> Self {
        Self {
            kernel,
            thread: None,
        }
    }

    pub(crate) fn add(&self, step: Step) {
        let unsent = match &self.thread {
            Some((sender, _)) => sender.send(step).err().map(|unsent| unsent.0),
            None => Some(step),
        };
        if let Some(step) = unsent {
            announce(&*self.kernel, &step);
        }
    }
}

/// What was added is announced.
impl Drop for Announcements {
    fn drop(&mut self) {
        let Some((sender, thread)) = self.thread.take() else {
            return;
        };
        drop(sender);
        if thread.join().is_err() {
            tracing::error!("the thread that announces addresses panicked");
        }
    }
}

fn serve(kernel: &dyn Kernel, steps: &Receiver<Step>) {
    for step in steps {
        announce(kernel, &step);
    }
}

/// Neighbours find out by themselves where it fails, which takes them seconds; mostly the sandbox
/// is gone already.
fn announce(kernel: &dyn Kernel, step: &Step) {
    if let Err(error) = kernel.apply(step) {
        tracing::debug!(%error, "an address is not announced");
    }
}
