//! A host whose firewall drops forwarded packets, as dockerd makes it on start.
//!
//! A published port obeys the host's FORWARD chain, and where bridges call the packet filter
//! (br_netfilter), so does traffic inside a network. On such a host an operator accepts what may
//! pass; the demo does so for its own interfaces, for as long as it lasts.

use std::cell::RefCell;
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;
use kernel_tests::{Host, program};

/// Rules that let packets through; dropping it removes them.
#[derive(Debug)]
pub(crate) struct Passage {
    host: Arc<Host>,
    /// Those of iptables and ip6tables whose FORWARD chain drops by policy.
    tools: Vec<&'static str>,
    rules: RefCell<Vec<(&'static str, Vec<String>)>>,
}

impl Passage {
    pub(crate) fn observe(host: &Arc<Host>) -> Self {
        let tools = ["iptables", "ip6tables"].into_iter();
        Self {
            tools: tools.filter(|tool| drops_by_policy(host, tool)).collect(),
            host: Arc::clone(host),
            rules: RefCell::default(),
        }
    }

    /// Whether this host drops what is not accepted.
    pub(crate) fn is_needed(&self) -> bool {
        !self.tools.is_empty()
    }

    /// Accepts what comes in or goes out through `interface`.
    pub(crate) fn admit(&self, interface: &str) -> Result<()> {
        self.accept(&["-i", interface])?;
        self.accept(&["-o", interface])
    }

    /// Accepts what stays on `bridge`.
    pub(crate) fn admit_within(&self, bridge: &str) -> Result<()> {
        self.accept(&["-i", bridge, "-o", bridge])
    }

    fn accept(&self, matches: &[&str]) -> Result<()> {
        for tool in &self.tools {
            let words = matches.iter().chain(&["-j", "ACCEPT"]);
            let rule: Vec<String> = words.map(|word| (*word).to_owned()).collect();
            program::output(&mut self.command(tool, "-I", &rule))?;
            self.rules.borrow_mut().push((tool, rule));
        }
        Ok(())
    }

    fn command(&self, tool: &str, verb: &str, rule: &[String]) -> Command {
        let mut command = self.host.command(tool);
        command.args(["--wait", verb, "FORWARD"]).args(rule);
        command
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        for (tool, rule) in self.rules.borrow().iter() {
            if let Err(error) = program::output(&mut self.command(tool, "-D", rule)) {
                eprintln!("clean-up of the firewall: {error:#}");
            }
        }
    }
}

/// A host without the tool has no such chain.
fn drops_by_policy(host: &Host, tool: &str) -> bool {
    let rules = host.output(tool, &["--wait", "-S", "FORWARD"]);
    rules.is_ok_and(|rules| rules.lines().any(|rule| rule == "-P FORWARD DROP"))
}
