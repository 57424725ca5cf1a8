#!/usr/bin/env bash
# Makes a fresh Debian 12 machine a Hawser host: the Rust toolchain, then what the README says.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends build-essential ca-certificates curl git

if ! command -v /root/.cargo/bin/cargo >/dev/null; then
    curl --proto '=https' --tlsv1.2 --silent --show-error --fail https://sh.rustup.rs |
        sh -s -- -y --profile minimal --component clippy,rustfmt
fi
export PATH=/root/.cargo/bin:$PATH

cd /srv/hawser
cargo xtask install
systemctl daemon-reload
systemctl enable --now hawserd
