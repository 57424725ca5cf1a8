//! Cookies of network namespaces, by which the socket hooks tell them apart.
//!
//! From Linux 5.14 a socket tells its namespace's (`SO_NETNS_COOKIE`). Before, only a program learns
//! it (`bpf_get_netns_cookie`, 5.7), so it is asked by a connect from inside: see [`question`].

use std::io;
use std::net::{Ipv4Addr, UdpSocket};

use abi::map::QUESTIONS;
use abi::question;
use aya::Ebpf;
use aya::maps::{HashMap, MapData};

use super::error::BpfError;
use super::object;

/// Answers, at connect4.
pub(super) const PROGRAM: &str = "learn";

pub(super) struct Cookies {
    questions: HashMap<MapData, u32, u64>,
}

impl Cookies {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            questions: object::take(object, QUESTIONS)?,
        })
    }

    /// That of the calling thread's namespace. The program must be attached.
    pub(super) fn ask(&mut self) -> Result<u64, BpfError> {
        let asked = |source| BpfError::Cookie { source };
        let number = getrandom::u32().map_err(|error| asked(io::Error::other(error)))? | 1;
        let failed = BpfError::map(QUESTIONS);
        self.questions.insert(number, 0, 0).map_err(&failed)?;
        let connected = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            .and_then(|socket| socket.connect(question::address(number)));
        let answer = self.questions.get(&number, 0).map_err(&failed)?;
        self.questions.remove(&number).map_err(&failed)?;
        match connected {
            // EPERM: the program has answered.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && answer != 0 => {
                Ok(answer)
            }
            Err(error) => Err(asked(error)),
            Ok(()) => Err(asked(io::Error::other("no program has answered"))),
        }
    }
}
