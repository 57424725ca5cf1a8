//! What wakes the agent: the daemon's events, and the ends of its own jobs.
//!
//! An event says that it is time to look, and never what there is: some are told before what they
//! tell of is on record, and a daemon that is away keeps none.

use std::io::{self, Write};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use api::Client;
use api::event::Event;
use api::path::EVENTS;
use jiff::Timestamp;

use super::act::Report;

/// Between two attempts to hear of a daemon that is away.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) enum Wake {
    Done(Report),
    /// Something happened to a service or to a container.
    News,
}

/// Has a thread listen, for as long as somebody is to be woken.
pub(super) fn listen(client: &Client, wakes: &Sender<Wake>) {
    let client = client.clone();
    let mut ear = Ear {
        wakes: wakes.clone(),
        line: Vec::new(),
        is_needed: true,
    };
    thread::spawn(move || {
        // What happens before the daemon has heard of the listener is told too.
        let mut since = Timestamp::now();
        while ear.is_needed {
            let route = format!("{EVENTS}?since={}", since.as_nanosecond());
            // Why it has ended is found out, and said, by whoever looks at the services next.
            drop(client.get_into(&route, &mut ear));
            since = Timestamp::now();
            ear.line.clear();
            ear.wake();
            if ear.is_needed {
                thread::sleep(RETRY);
            }
        }
    });
}

/// Takes lines of events.
#[derive(Debug)]
struct Ear {
    wakes: Sender<Wake>,
    /// The beginning of a line.
    line: Vec<u8>,
    is_needed: bool,
}

impl Ear {
    fn wake(&mut self) {
        self.is_needed = self.wakes.send(Wake::News).is_ok();
    }
}

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                break;
            }
            let event = serde_json::from_slice(&self.line);
            self.line.clear();
            if event.is_ok_and(|event| matters(&event)) {
                self.wake();
            }
        }
        match self.is_needed {
            true => Ok(bytes.len()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a service, an order, a host, or how a container is, may be another one now.
fn matters(event: &Event) -> bool {
    let verb = event.action.split(':').next().unwrap_or_default();
    match event.kind.as_str() {
        "service" | "task" | "node" => true,
        "container" => matches!(verb, "start" | "die" | "destroy" | "health_status"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn line(kind: &str, action: &str) -> String {
        let event = Event::new(kind, action, "ab12");
        format!("{}\n", serde_json::to_string(&event).unwrap())
    }

    #[test]
    fn events_wake_however_they_are_cut() {
        let (sender, receiver) = mpsc::channel();
        let mut ear = Ear {
            wakes: sender,
            line: Vec::new(),
            is_needed: true,
        };
        let text = [
            line("container", "die"),
            line("container", "exec_start: ls"),
            line("network", "create"),
            line("container", "health_status: unhealthy"),
            line("service", "update"),
            // All that a worker hears of its orders.
            line("task", "update"),
            line("node", "update"),
            "no event\n".to_owned(),
        ]
        .concat();
        for piece in text.as_bytes().chunks(7) {
            ear.write_all(piece).unwrap();
        }
        assert_eq!(receiver.try_iter().count(), 5);
        // Whoever is woken no more is heard for no more.
        drop(receiver);
        let more = ear.write_all(line("container", "start").as_bytes());
        assert_eq!(more.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
