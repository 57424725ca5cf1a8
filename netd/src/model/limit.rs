//! Rate limits of endpoints, as the kernel's token bucket wants them.

use api::net::Bandwidth;

/// Packets wait at most about this long in a full bucket, as with the reference `bandwidth`
/// plugin.
const LATENCY_MS: u64 = 25;
/// Of Ethernet with a VLAN tag: a bucket that cannot hold a whole frame passes none.
const HEADER_BYTES: u32 = 18;
/// Half of what the kernel's field holds, so that sums with it fit.
const MAX_BURST_BYTES: u32 = u32::MAX / 2;

/// One direction's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) bytes_per_second: u64,
    pub(crate) burst_bytes: u32,
}

impl Rate {
    /// To the sandbox, if limited.
    pub(crate) fn ingress(limits: &Bandwidth, mtu: u32) -> Option<Self> {
        Self::of(limits.ingress_rate, limits.ingress_burst, mtu)
    }

    /// From the sandbox, if limited.
    pub(crate) fn egress(limits: &Bandwidth, mtu: u32) -> Option<Self> {
        Self::of(limits.egress_rate, limits.egress_burst, mtu)
    }

    /// From bits. Runtimes send enormous bursts for "any".
    fn of(rate: u64, burst: u64, mtu: u32) -> Option<Self> {
        let burst = u32::try_from(burst / 8).unwrap_or(MAX_BURST_BYTES);
        let frame = mtu.saturating_add(HEADER_BYTES).min(MAX_BURST_BYTES);
        (rate > 0).then(|| Self {
            bytes_per_second: (rate / 8).max(1),
            burst_bytes: burst.clamp(frame, MAX_BURST_BYTES),
        })
    }

    /// How much may wait.
    pub(crate) fn queue_bytes(&self) -> u32 {
        let waiting = self.bytes_per_second.saturating_mul(LATENCY_MS) / 1000;
        let all = waiting.saturating_add(u64::from(self.burst_bytes));
        u32::try_from(all).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_limit_and_tiny_bursts_still_pass_packets() {
        let limits = Bandwidth {
            ingress_rate: 8_000_000,
            ingress_burst: 1600,
            ..Bandwidth::default()
        };
        assert_eq!(Rate::egress(&limits, 1500), None);
        let rate = Rate::ingress(&limits, 1500).unwrap();
        assert_eq!(rate.bytes_per_second, 1_000_000);
        assert_eq!(rate.burst_bytes, 1518);
        assert_eq!(rate.queue_bytes(), 25_000 + 1518);
    }

    #[test]
    fn bursts_without_a_bound_are_bounded() {
        let limits = Bandwidth {
            egress_rate: u64::MAX,
            egress_burst: u64::MAX,
            ..Bandwidth::default()
        };
        let rate = Rate::egress(&limits, 1500).unwrap();
        assert_eq!(rate.burst_bytes, MAX_BURST_BYTES);
        assert_eq!(rate.queue_bytes(), u32::MAX);
    }
}
