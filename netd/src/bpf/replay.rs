//! One frame through a program: what would become of it (`BPF_PROG_TEST_RUN`).

use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};

/// Which side of an uplink a frame passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Ingress,
    Egress,
}

/// What a program says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next program, or the host's stack.
    Pass,
    Drop,
}

/// A frame after a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
}

/// `TC_ACT_SHOT`, include/uapi/linux/pkt_cls.h.
const SHOT: u32 = 2;

pub(super) fn run(program: &SchedClassifier, frame: &[u8]) -> Result<Replay, ProgramError> {
    let mut out = vec![0; frame.len()];
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    })?;
    Ok(Replay {
        verdict: if result.return_value == SHOT {
            Verdict::Drop
        } else {
            Verdict::Pass
        },
        frame: out,
    })
}
