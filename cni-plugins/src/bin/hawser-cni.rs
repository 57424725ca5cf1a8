//! The CNI plugin for all drivers, installed as `/opt/cni/bin/hawser`.

use std::process::ExitCode;

use cni_plugins::Role;

fn main() -> ExitCode {
    cni_plugins::main(Role::Interface)
}
