//! Proof by absence: a published port adds no rule to the packet filter and starts no listener.

use std::fs;

use anyhow::{Context, Result, ensure};
use kernel_tests::Host;

/// What ways other than eBPF would leave behind, as it was before the demo.
#[derive(Debug)]
pub(crate) struct Traces {
    nft_rules: usize,
    legacy_tables: String,
}

impl Traces {
    pub(crate) fn observe(host: &Host) -> Result<Self> {
        Ok(Self {
            nft_rules: redirections(&host.output("nft", &["list", "ruleset"])?),
            // Absent when the kernel has no legacy iptables.
            legacy_tables: fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default(),
        })
    }

    /// No rule that redirects was added, and nothing listens on `port`.
    pub(crate) fn check(&self, host: &Host, port: u16) -> Result<()> {
        let now = Self::observe(host)?;
        ensure!(
            now.nft_rules <= self.nft_rules,
            "{} rules of the packet filter redirect, {} did before",
            now.nft_rules,
            self.nft_rules
        );
        ensure!(
            now.legacy_tables == self.legacy_tables,
            "legacy iptables tables were added"
        );
        ensure!(!listens(port)?, "a process listens on port {port}");
        Ok(())
    }
}

/// How many rules send packets elsewhere.
fn redirections(ruleset: &str) -> usize {
    let rules = ruleset
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'));
    rules
        .filter(|rule| {
            rule.split_whitespace()
                .any(|word| matches!(word, "dnat" | "redirect" | "tproxy"))
        })
        .count()
}

/// Whether a TCP socket listens on `port` in this network namespace.
pub(crate) fn listens(port: u16) -> Result<bool> {
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = fs::read_to_string(table).context(table)?;
        if text.lines().skip(1).any(|line| is_listener(line, port)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// proc_pid_net(5): the second field is the local `address:port` in hexadecimal, the fourth the
/// state, of which `0A` is TCP_LISTEN.
fn is_listener(line: &str, port: u16) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, "0A", ..] = fields[..] else {
        return false;
    };
    local.ends_with(&format!(":{port:04X}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_listener() {
        let line = "   0: 00000000:46A0 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        assert!(is_listener(line, 18080));
        assert!(!is_listener(line, 18081));
        assert!(!is_listener(&line.replace(" 0A ", " 01 "), 18080));
    }

    #[test]
    fn counts_rules_that_redirect() {
        let ruleset =
            "table ip nat {\n chain c {\n tcp dport 80 dnat to 10.0.0.2\n masquerade\n }\n}";
        assert_eq!(redirections(ruleset), 1);
    }
}
