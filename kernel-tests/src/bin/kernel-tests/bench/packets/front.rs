//! The front in XDP. What it hands to a container has one hop less, and a checksum to match: a program
//! before it puts back what each run changes.
//!
//! In the daemon's mode the host's packet filter would have to see the connection first. The programs are
//! told of another one while they are measured.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};
use kernel_tests::Shop;
use sys::bpf::map::{Existing, visit, write};
use sys::bpf::probe::Probe;

use super::{REPEAT, pinned};

/// `XDP_PASS` and `XDP_REDIRECT`, include/uapi/linux/bpf.h.
const PASS: u32 = 2;
const REDIRECT: u32 = 4;
/// `abi::shortcut::Mode::Fast`, the first word of the one value of `shortcuts`.
const FAST: u32 = 2;

pub(super) struct Front {
    /// The daemon's table of XDP programs; ours is the only slot.
    table: OwnedFd,
    shortcuts: OwnedFd,
}

impl Front {
    pub(super) fn open(shop: &Shop) -> Result<Self> {
        let open = |name| sys::bpf::open(&pinned(shop, name)?).context(name);
        Ok(Self {
            table: open("jump_front")?,
            shortcuts: open("shortcuts")?,
        })
    }

    /// Nanoseconds of a run on a frame to `own`, which is handed over, or passed on.
    pub(super) fn cost(&self, own: IpAddr, frame: &[u8], enters: bool) -> Result<f64> {
        // Time to live and the header's checksum; the hop limit.
        let changed: &[u8] = if own.is_ipv4() {
            &[22, 24, 25]
        } else {
            &[14 + 7]
        };
        let put = |at: &u8| frame.get(usize::from(*at)).map(|byte| (*at, *byte));
        let put: Vec<(u8, u8)> = changed.iter().filter_map(put).collect();
        let probe = Probe::putting(self.table.as_fd(), 0, &put).context("load a program")?;
        let before = self.shortcuts()?;
        let mut fast = before.clone();
        for (to, byte) in fast.iter_mut().zip(FAST.to_ne_bytes()) {
            *to = byte;
        }
        self.set_shortcuts(&fast)?;
        let run = probe.run(frame, &mut frame.to_vec(), REPEAT);
        self.set_shortcuts(&before)?;
        let run = run.context("run the front")?;
        let expected = if enters { REDIRECT } else { PASS };
        ensure!(run.verdict == expected, "the front says {}", run.verdict);
        Ok(run.nanoseconds.into())
    }

    fn shortcuts(&self) -> Result<Vec<u8>> {
        let mut value = Vec::new();
        visit(self.shortcuts.as_fd(), |_, found| value = found.to_vec()).context("shortcuts")?;
        ensure!(value.len() >= size_of_val(&FAST), "no shortcuts");
        Ok(value)
    }

    fn set_shortcuts(&self, value: &[u8]) -> Result<()> {
        let key = 0u32.to_ne_bytes();
        write(self.shortcuts.as_fd(), &key, value, Existing::Replace).context("shortcuts")?;
        Ok(())
    }
}
