//! How packets of published ports go: which of the modes this host gets, and why.
//!
//! In hybrid mode connection tracking sees how connections begin and end, and nothing between: the
//! packets that end one are outside the window that it knows of, and count as invalid, unless it is
//! told to be liberal (`nf_conntrack_tcp_be_liberal`). Only where that may be set is the mode right.

use std::fmt;

use abi::shortcut::Mode as DataPlaneMode;
use serde::Deserialize;

use crate::kernel::KernelError;
use crate::model::step::Step;
use crate::netd::Netd;

/// How packets of published ports go between the outside and their containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The host's forward chains decide about each connection; what follows takes a shortcut.
    Hybrid,
    /// Every packet crosses the host's stack.
    Compat,
    /// No packet does.
    Fast,
}

/// The mode that is used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) mode: Mode,
    pub(crate) why: String,
}

/// Chooses what is wanted, if the host allows that. `relaxed` tells connection tracking to be
/// liberal.
fn choose(wanted: Option<Mode>, relaxed: impl FnOnce() -> Result<(), KernelError>) -> Chosen {
    let crossing = "every packet crosses the host's FORWARD chain";
    let (mode, why) = match wanted {
        Some(Mode::Compat) => (Mode::Compat, crossing.to_owned()),
        Some(Mode::Fast) => (
            Mode::Fast,
            "packets pass by the host's packet filter and its connection tracking".to_owned(),
        ),
        Some(Mode::Hybrid) | None => match relaxed() {
            Ok(()) => (
                Mode::Hybrid,
                "the host's FORWARD chain decides about connections, and the rest of them passes it by"
                    .to_owned(),
            ),
            Err(error) => (
                Mode::Compat,
                format!("{crossing}: {error}"),
            ),
        },
    };
    Chosen { mode, why }
}

impl Chosen {
    pub(crate) fn describe(&self) -> String {
        let Self { mode, why } = self;
        format!("published ports: {mode}, {why}")
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hybrid => "hybrid",
            Self::Compat => "compat",
            Self::Fast => "fast",
        })
    }
}

impl From<Mode> for DataPlaneMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Hybrid => Self::Hybrid,
            Mode::Compat => Self::Compat,
            Mode::Fast => Self::Fast,
        }
    }
}

impl Netd {
    /// Uses the mode that is wanted, or the next best: at the start and now and then, because somebody
    /// may change what it depends on. Flows go on whatever it was before.
    pub(crate) fn follow_mode(&self) {
        let Some(data_plane) = &self.data_plane else {
            return;
        };
        let chosen = choose(self.config.mode, || {
            self.kernel.apply(&Step::RelaxTracking).map(drop)
        });
        if let Err(error) = data_plane.set_mode(chosen.mode.into()) {
            tracing::warn!(%error, "the mode of published ports stays as it was");
            return;
        }
        let mut mode = self.mode();
        if mode.as_ref() == Some(&chosen) {
            return;
        }
        let wanted = self.config.mode.unwrap_or(Mode::Hybrid);
        if chosen.mode == wanted {
            tracing::info!(mode = %chosen.mode, "published ports: {}", chosen.why);
        } else {
            tracing::warn!(mode = %chosen.mode, %wanted, "published ports: {}", chosen.why);
        }
        *mode = Some(chosen);
    }

    /// Makes connections show themselves to the host's packet filter again, which changed.
    pub(crate) fn renew_shortcuts(&self) {
        if let Some(data_plane) = &self.data_plane
            && let Err(error) = data_plane.renew_shortcuts()
        {
            tracing::warn!(%error, "connections follow the host's packet filter half a minute late");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn refused() -> Result<(), KernelError> {
        Err(KernelError::Sysctl {
            key: "net/netfilter/nf_conntrack_tcp_be_liberal".to_owned(),
            source: io::ErrorKind::PermissionDenied.into(),
        })
    }

    #[test]
    fn hybrid_is_used_where_connection_tracking_allows_it() {
        for (wanted, allowed, denied) in [
            (None, Mode::Hybrid, Mode::Compat),
            (Some(Mode::Hybrid), Mode::Hybrid, Mode::Compat),
            (Some(Mode::Compat), Mode::Compat, Mode::Compat),
            (Some(Mode::Fast), Mode::Fast, Mode::Fast),
        ] {
            assert_eq!(choose(wanted, || Ok(())).mode, allowed, "{wanted:?}");
            assert_eq!(choose(wanted, refused).mode, denied, "{wanted:?}");
        }
        let denied = choose(None, refused).describe();
        assert_eq!(
            denied,
            "published ports: compat, every packet crosses the host's FORWARD chain: \
             set net/netfilter/nf_conntrack_tcp_be_liberal: permission denied"
        );
    }

    #[test]
    fn a_mode_that_has_no_need_of_it_leaves_connection_tracking_alone() {
        for mode in [Mode::Compat, Mode::Fast] {
            choose(Some(mode), || panic!("asked"));
        }
    }
}
