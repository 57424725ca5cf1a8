//! One frame through a program: what would become of it (`BPF_PROG_TEST_RUN`).

use std::time::Duration;

use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};

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

/// Of a kind of program, what it returns for a packet that it drops, and for one that it redirects.
struct Answers {
    drop: u32,
    redirect: u32,
}

/// `TC_ACT_SHOT` and `TC_ACT_REDIRECT`, include/uapi/linux/pkt_cls.h.
const TC: Answers = Answers {
    drop: 2,
    redirect: 7,
};
/// `XDP_DROP` and `XDP_REDIRECT`, include/uapi/linux/bpf.h.
const XDP: Answers = Answers {
    drop: 1,
    redirect: 4,
};

/// How much longer than the frame an answer to it may be.
const ROOM: usize = 64;

pub(super) fn run(object: &mut Ebpf, stub: &str, frame: &[u8]) -> Result<Replay, BpfError> {
    run_by(
        object::program::<SchedClassifier>(object, stub)?,
        &TC,
        frame,
    )
}

/// The same for a stub of XDP.
pub(super) fn run_front(object: &mut Ebpf, stub: &str, frame: &[u8]) -> Result<Replay, BpfError> {
    run_by(object::program::<Xdp>(object, stub)?, &XDP, frame)
}

fn run_by<P>(program: &P, answers: &Answers, frame: &[u8]) -> Result<Replay, BpfError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
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
    let verdict = match result.return_value {
        value if value == answers.drop => Verdict::Drop,
        value if value == answers.redirect => Verdict::Redirect,
        _ => Verdict::Pass,
    };
    Ok(Replay {
        verdict,
        frame: out,
        duration: result.duration,
    })
}
