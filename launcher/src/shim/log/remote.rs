//! A receiver, what waits for it, and the way to it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Piece;
use super::queue::Queue;
use super::receiver::Receiver;
use super::wire::{Sent, Wire};
use crate::log::option::Mode;

/// In blocking mode the container's output waits above this.
const HIGH_WATER: u64 = 64 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A connection that is not made by then is begun anew.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Remote {
    receiver: Receiver,
    mode: Mode,
    queue: Queue,
    /// What is to be sent of an entry that is out of the queue and not delivered.
    messages: VecDeque<Vec<u8>>,
    link: Link,
    lost: u64,
}

#[derive(Debug)]
enum Link {
    Away {
        retry_at: Instant,
        /// Before the attempt after the next.
        pause: Duration,
    },
    Opening {
        wire: Wire,
        until: Instant,
        pause: Duration,
    },
    Up(Wire),
}

impl Remote {
    pub(super) fn new(receiver: Receiver, mode: Mode) -> Self {
        Self {
            receiver,
            mode,
            queue: Queue::default(),
            messages: VecDeque::new(),
            link: Link::Away {
                retry_at: Instant::now(),
                pause: FIRST_PAUSE,
            },
            lost: 0,
        }
    }

    pub(super) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Waits until the receiver is there, without a second attempt.
    pub(super) fn wait_until_up(&mut self, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        self.open()?;
        while matches!(self.link, Link::Opening { .. }) {
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.wait(until)?;
            self.advance()?;
        }
        Ok(())
    }

    pub(super) fn take(&mut self, pieces: Vec<Piece<'_>>, time: Timestamp) {
        for piece in pieces {
            self.queue.push(piece, time);
        }
        self.serve_queue();
        let waits = self.mode == Mode::Blocking && matches!(self.link, Link::Up(_));
        if !waits {
            self.lost += self.queue.shed(self.mode.buffer());
        }
    }

    pub(super) fn is_congested(&self) -> bool {
        let is_up = matches!(self.link, Link::Up(_));
        is_up && self.mode == Mode::Blocking && self.queue.bytes() > HIGH_WATER
    }

    fn has_unsent(&self) -> bool {
        !self.messages.is_empty() || self.queue.front().is_some()
    }

    pub(super) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.link {
            Link::Away { .. } => None,
            Link::Opening { wire, .. } => wire.interest(false),
            Link::Up(wire) => wire.interest(self.has_unsent()),
        }
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        let at = match self.link {
            Link::Away { retry_at, .. } if self.has_unsent() => retry_at,
            Link::Opening { until, .. } => until,
            Link::Away { .. } | Link::Up(_) => return None,
        };
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Does what can be done now. Returns how many entries are lost since the last time.
    pub(super) fn serve(&mut self) -> u64 {
        self.serve_queue();
        std::mem::take(&mut self.lost)
    }

    fn serve_queue(&mut self) {
        if let Err(_why) = self.advance() {
            self.fall_back();
        }
    }

    fn fall_back(&mut self) {
        let pause = match self.link {
            Link::Away { pause, .. } | Link::Opening { pause, .. } => pause,
            Link::Up(_) => FIRST_PAUSE,
        };
        self.link = Link::Away {
            retry_at: Instant::now() + pause,
            pause: (pause * 2).min(LONGEST_PAUSE),
        };
    }

    fn open(&mut self) -> io::Result<()> {
        let pause = match self.link {
            Link::Away { pause, .. } | Link::Opening { pause, .. } => pause,
            Link::Up(_) => FIRST_PAUSE,
        };
        let wire = self.receiver.connect()?;
        self.link = Link::Opening {
            wire,
            until: Instant::now() + PATIENCE,
            pause,
        };
        self.advance()
    }

    /// One step on the way, and then as many messages as the receiver takes.
    fn advance(&mut self) -> io::Result<()> {
        match &mut self.link {
            Link::Away { retry_at, .. } => {
                if *retry_at > Instant::now() || !self.has_unsent() {
                    return Ok(());
                }
                return self.open();
            }
            Link::Opening { wire, until, .. } => {
                if !wire.is_ready()? {
                    return match *until <= Instant::now() {
                        true => Err(io::ErrorKind::TimedOut.into()),
                        false => Ok(()),
                    };
                }
                let away = Link::Away {
                    retry_at: Instant::now(),
                    pause: FIRST_PAUSE,
                };
                if let Link::Opening { wire, .. } = std::mem::replace(&mut self.link, away) {
                    self.link = Link::Up(wire);
                }
            }
            Link::Up(_) => {}
        }
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        let Link::Up(wire) = &mut self.link else {
            return Ok(());
        };
        wire.hear()?;
        loop {
            let Some(message) = self.messages.front() else {
                let Some(waiting) = self.queue.front() else {
                    return Ok(());
                };
                self.messages = self.receiver.messages(waiting).into();
                self.queue.pop();
                self.lost += u64::from(self.messages.is_empty());
                continue;
            };
            match wire.send(message)? {
                Sent::Whole => {}
                Sent::Later => return Ok(()),
                // The rest of its entry is of no use.
                Sent::Never => {
                    self.lost += 1;
                    self.messages.clear();
                }
                Sent::EarlierLost => {
                    self.lost += 1;
                    continue;
                }
            }
            self.messages.pop_front();
        }
    }

    /// Until the receiver has everything, or for so long; not at all if it is away and stays so.
    /// Returns how many entries are lost.
    pub(super) fn finish(&mut self, patience: Duration) -> u64 {
        let until = Instant::now() + patience;
        if let Link::Away { retry_at, .. } = &mut self.link {
            *retry_at = Instant::now();
        }
        self.serve_queue();
        while self.has_unsent() && Instant::now() < until && !matches!(self.link, Link::Away { .. })
        {
            if self.wait(until).is_err() {
                break;
            }
            self.serve_queue();
        }
        let left = self.queue.len() + u64::from(!self.messages.is_empty());
        self.messages.clear();
        std::mem::take(&mut self.lost) + left
    }

    fn wait(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let left = self.patience().map_or(left, |patience| patience.min(left));
        let mut fds: Vec<PollFd<'_>> = self
            .interest()
            .map(|(fd, events)| PollFd::from_borrowed_fd(fd, events))
            .into_iter()
            .collect();
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
