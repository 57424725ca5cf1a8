//! Questions to a name server: so many outstanding at any time, each answer timed, none forgotten.
//!
//! dnsperf is the judge of what servers do at full speed; it sleeps between answers when only one
//! is outstanding, and does not print percentiles.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::row::quantile;

/// A question without an answer after this time is lost; resolvers of containers wait for longer.
const PATIENCE: Duration = Duration::from_secs(2);
const HEADER: usize = 12;
const MAX_ANSWER: usize = 4096;

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// Right answers a second.
    pub(crate) rate: f64,
    /// Microseconds.
    pub(crate) p99: f64,
    /// Questions without an answer, or with one that is not the name's address.
    pub(crate) lost: u64,
}

/// The question for the address of `name`, but for its id.
pub(crate) fn question(name: &str) -> Vec<u8> {
    // RFC 1035, 4.1.1: recursion desired, one question.
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    // The root, type A, class IN.
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// Asks `questions` in turn with `window` of them outstanding, as long as `goes_on` after the time
/// that has passed. Call it in the asker's network namespace.
pub(crate) fn ask(
    server: SocketAddr,
    questions: &[Vec<u8>],
    window: usize,
    goes_on: impl Fn(Duration) -> bool,
) -> Result<Load> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("socket of the asker")?;
    socket.connect(server).with_context(|| server.to_string())?;
    socket
        .set_read_timeout(Some(PATIENCE))
        .context("patience of the asker")?;
    let mut asker = Asker {
        socket,
        packet: Vec::new(),
        answer: vec![0; MAX_ANSWER],
        outstanding: vec![None; 1 << 16],
        order: VecDeque::new(),
        asked: 0,
        in_flight: 0,
        latencies: Vec::new(),
        lost: 0,
    };
    let mut questions = questions.iter().cycle();
    let begin = Instant::now();
    while goes_on(begin.elapsed()) {
        while asker.in_flight < window {
            asker.send(questions.next().context("there is a question")?)?;
        }
        asker.receive()?;
    }
    let taken = begin.elapsed();
    while asker.in_flight > 0 {
        asker.receive()?;
    }
    asker.load(taken)
}

struct Asker {
    socket: UdpSocket,
    /// Buffers: one allocation for all.
    packet: Vec<u8>,
    answer: Vec<u8>,
    /// By id: which question it is, and when it was sent.
    outstanding: Vec<Option<(u64, Instant)>>,
    /// As they were sent; some have been answered.
    order: VecDeque<(u16, u64)>,
    asked: u64,
    in_flight: usize,
    /// Microseconds.
    latencies: Vec<f64>,
    lost: u64,
}

impl Asker {
    fn send(&mut self, question: &[u8]) -> Result<()> {
        let mut id = self.asked as u16;
        self.asked += 1;
        // One that is late still has its id when all others have been used again.
        while self.outstanding[usize::from(id)].is_some() {
            id = id.wrapping_add(1);
        }
        self.packet.clear();
        self.packet.extend(id.to_be_bytes());
        self.packet.extend(&question[2..]);
        self.outstanding[usize::from(id)] = Some((self.asked, Instant::now()));
        self.order.push_back((id, self.asked));
        self.in_flight += 1;
        match self.socket.send(&self.packet) {
            Ok(_sent) => Ok(()),
            // The verdict on an earlier one; that is lost, and so is this.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error).context("question"),
        }
    }

    /// Waits for one answer and gives up what has been waited for too long.
    fn receive(&mut self) -> Result<()> {
        let length = match self.socket.recv(&mut self.answer) {
            Ok(length) => length,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::ConnectionRefused => 0,
                _ => return Err(error).context("answer"),
            },
        };
        let now = Instant::now();
        self.answered(length, now);
        self.give_up(now);
        Ok(())
    }

    fn answered(&mut self, length: usize, now: Instant) {
        let answer = &self.answer[..length];
        let &[high, low, ..] = answer else {
            return;
        };
        let id = usize::from(u16::from_be_bytes([high, low]));
        let Some((_which, sent)) = self.outstanding[id].take() else {
            return;
        };
        self.in_flight -= 1;
        if is_address(answer) {
            self.latencies.push((now - sent).as_secs_f64() * 1e6);
        } else {
            self.lost += 1;
        }
    }

    fn give_up(&mut self, now: Instant) {
        while let Some(&(id, which)) = self.order.front() {
            let outstanding = &mut self.outstanding[usize::from(id)];
            match *outstanding {
                Some((this, sent)) if this == which => {
                    if now - sent < PATIENCE {
                        return;
                    }
                    *outstanding = None;
                    self.in_flight -= 1;
                    self.lost += 1;
                }
                _answered => {}
            }
            self.order.pop_front();
        }
    }

    fn load(self, taken: Duration) -> Result<Load> {
        ensure!(!self.latencies.is_empty(), "no question was answered");
        Ok(Load {
            rate: self.latencies.len() as f64 / taken.as_secs_f64(),
            p99: quantile(&self.latencies, 0.99),
            lost: self.lost,
        })
    }
}

/// Whether it is an answer without an error that has a record.
fn is_address(answer: &[u8]) -> bool {
    answer.len() > HEADER && answer[3] & 0xf == 0 && answer[6..8] != [0, 0]
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A server on loopback that hands each question to `reply` until it says stop.
    fn serve(mut reply: impl FnMut(u32, &mut Vec<u8>) -> bool + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut number = 0;
            let mut packet = [0; 512];
            socket.set_read_timeout(Some(PATIENCE * 2)).unwrap();
            while let Ok((length, asker)) = socket.recv_from(&mut packet) {
                number += 1;
                let mut answer = packet[..length].to_vec();
                // One record.
                answer[7] = 1;
                if reply(number, &mut answer) {
                    socket.send_to(&answer, asker).unwrap();
                }
            }
        });
        address
    }

    fn first(count: usize) -> impl Fn(Duration) -> bool {
        let asked = std::cell::Cell::new(0);
        move |_taken| {
            asked.set(asked.get() + 1);
            asked.get() <= count
        }
    }

    #[test]
    fn a_question_is_one_packet_of_labels() {
        let packet = question("web.shop");
        assert_eq!(packet[HEADER..], *b"\x03web\x04shop\0\0\x01\0\x01");
    }

    #[test]
    fn every_answer_is_timed() {
        let server = serve(|_number, _answer| true);
        for window in [1, 32] {
            let load = ask(server, &[question("a"), question("b")], window, first(500)).unwrap();
            assert_eq!(load.lost, 0);
            assert!(load.rate > 0.0 && load.p99 > 0.0, "{load:?}");
        }
    }

    #[test]
    fn a_question_without_an_answer_and_a_wrong_answer_are_lost() {
        let server = serve(|number, answer| {
            if number == 7 {
                answer[3] = 2;
            }
            number != 3
        });
        let load = ask(server, &[question("a")], 4, first(20)).unwrap();
        assert_eq!(load.lost, 2);
    }
}
