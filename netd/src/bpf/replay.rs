//! One frame through a program: what would become of it (`BPF_PROG_TEST_RUN`).

use std::time::Duration;

use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use super::error::BpfError;
use super::object;

/// Which side of an uplink a frame passes, or the tunnel by which other nodes send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Ingress,
    Egress,
    Tunnel,
}

/// What a program says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next program, or the host's stack.
    Pass,
    Drop,
    /// Out of an interface: the answer to it.
    Redirect,
}

/// A frame after a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
    /// What the run took.
    pub duration: Duration,
}

/// `TC_ACT_SHOT` and `TC_ACT_REDIRECT`, include/uapi/linux/pkt_cls.h.
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// How much longer than the frame an answer to it may be.
const ROOM: usize = 64;

pub(super) fn run(object: &mut Ebpf, stub: &str, frame: &[u8]) -> Result<Replay, BpfError> {
    let program: &mut SchedClassifier = object::program(object, stub)?;
    let mut out = vec![0; frame.len() + ROOM];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })
        .map_err(|source| BpfError::Replay {
            length: frame.len(),
            source: Box::new(source),
        })?;
    out.truncate(result.data_size_out as usize);
    Ok(Replay {
        verdict: match result.return_value {
            SHOT => Verdict::Drop,
            REDIRECT => Verdict::Redirect,
            _ => Verdict::Pass,
        },
        frame: out,
        duration: result.duration,
    })
}
