//! Somebody else's SCTP: what leaves the programs has the checksums that scapy computes.

use std::io::Write as _;
use std::process::{Command, Stdio};

use netd::bpf::{Side, Verdict};

use crate::instance::{Instance, frontend};
use crate::packet::{DATA, Packet, SCTP};

/// Frames in, one in hexadecimal a line; a line for each out.
const SCRIPT: &str = "
import sys
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, crc32c
for line in sys.stdin:
    packet = Ether(bytes.fromhex(line))[SCTP]
    whole = packet.original
    print(packet.dport, packet.chksum == crc32c(whole[:8] + bytes(4) + whole[12:]))
";

fn scapy(frames: &[Vec<u8>]) -> String {
    // Debian's python: another one on the way does not have its packages.
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = python.stdin.take().unwrap();
    for frame in frames {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(input, "{hex}").unwrap();
    }
    drop(input);
    let out = python.wait_with_output().unwrap();
    assert!(
        out.status.success(),
        "python3-scapy is needed (`cargo xtask setup test`)"
    );
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn scapy_finds_every_translated_checksum_right() {
    let plane = Instance::open("oracle", None);
    let local = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    plane.set_local_addresses(&local.into()).unwrap();
    for (at, backend) in [
        ("any4:8080/sctp", "172.18.0.2:81"),
        ("any6:8080/sctp", "[fd00:18::2]:81"),
    ] {
        plane
            .publish(frontend(at), backend.parse().unwrap())
            .unwrap();
    }
    let mut frames = Vec::new();
    for (client, host) in [
        ("198.51.100.7:40000", "192.0.2.1:8080"),
        ("[2001:db8:7::7]:40000", "[2001:db8::1]:8080"),
    ] {
        let (client, host) = (client.parse().unwrap(), host.parse().unwrap());
        for length in (0..3000).step_by(97) {
            let payload: Vec<u8> = (0..length).map(|i| (i * i % 253) as u8).collect();
            let packet = Packet::new(SCTP, client, host, DATA).payload(&payload);
            let got = plane.replay(Side::Ingress, &packet.build()).unwrap();
            assert_eq!(got.verdict, Verdict::Pass);
            frames.push(got.frame);
        }
    }
    let verdicts = scapy(&frames);
    assert_eq!(verdicts.lines().count(), frames.len());
    for (verdict, frame) in verdicts.lines().zip(&frames) {
        assert_eq!(verdict, "81 True", "{} bytes", frame.len());
    }
}
