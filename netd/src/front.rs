//! Whether XDP serves published ports ahead of tc: where that is wanted, and of use.

use aya::util::KernelVersion;
use serde::Deserialize;

use crate::mode::Mode;

/// Where packets from outside to published ports are met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Front {
    /// Where the kernel has made them its own.
    #[default]
    Tc,
    /// In the uplink's driver already, if that can, and else in tc.
    Xdp,
}

/// Since when a veth device takes frames from XDP of other devices without a program of its own.
const TAKES_FRAMES: KernelVersion = KernelVersion::new(5, 13, 0);

impl Front {
    /// Whether XDP is used; an error is why not, although it is wanted.
    pub(crate) fn choose(self, mode: Option<Mode>) -> Result<bool, &'static str> {
        self.choose_on(mode, KernelVersion::current().ok())
    }

    fn choose_on(
        self,
        mode: Option<Mode>,
        kernel: Option<KernelVersion>,
    ) -> Result<bool, &'static str> {
        match self {
            Self::Tc => Ok(false),
            Self::Xdp if mode == Some(Mode::Compat) => {
                Err("in mode compat every packet crosses the host's stack")
            }
            Self::Xdp if kernel.is_none_or(|kernel| kernel < TAKES_FRAMES) => {
                Err("the links of containers take frames from XDP since Linux 5.13")
            }
            Self::Xdp => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdp_is_used_where_it_is_wanted_and_of_use() {
        let (old, new) = (KernelVersion::new(5, 10, 0), KernelVersion::new(6, 1, 0));
        assert_eq!(Front::default().choose_on(None, Some(new)), Ok(false));
        for mode in [None, Some(Mode::Hybrid), Some(Mode::Fast)] {
            assert_eq!(Front::Xdp.choose_on(mode, Some(new)), Ok(true), "{mode:?}");
        }
        let why = |mode, kernel| Front::Xdp.choose_on(mode, kernel).unwrap_err();
        assert!(why(Some(Mode::Compat), Some(new)).contains("compat"));
        assert!(why(None, Some(old)).contains("5.13"));
        assert!(why(None, None).contains("5.13"));
    }
}
