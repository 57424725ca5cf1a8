//! The address management plugin, installed as `/opt/cni/bin/hawser-ipam`.

use std::process::ExitCode;

use cni_plugins::Role;

fn main() -> ExitCode {
    cni_plugins::main(Role::AddressManagement)
}
