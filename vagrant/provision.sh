#!/usr/bin/env bash
# Makes a fresh Debian 12 machine a Hawser host. What `cargo xtask install --root` has laid out in
# $STAGE is used if it is there; else this machine gets the Rust toolchain and builds the checkout.
set -euo pipefail

CHECKOUT=${CHECKOUT:-/srv/hawser}
STAGE=${STAGE:-$CHECKOUT/vagrant/stage}
export DEBIAN_FRONTEND=noninteractive

# need COMMAND PACKAGE: what a minimal machine may lack.
need() {
    command -v "$1" >/dev/null || missing+=("$2")
}

missing=()
# Sized volumes and per-container sizes; the rest of what is needed is in the kernel.
need mkfs.ext4 e2fsprogs
need mkfs.xfs xfsprogs
# Managers of a cluster run it.
need etcd etcd-server
[ -e /usr/lib/x86_64-linux-gnu/libseccomp.so.2 ] || missing+=(libseccomp2)
if ! [ -d "$STAGE" ]; then
    need cc build-essential
    need curl curl
    need git git
    missing+=(ca-certificates)
fi
if [ "${#missing[@]}" -gt 0 ]; then
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends "${missing[@]}"
fi
# The package starts one that is in theirs' way.
[[ " ${missing[*]} " != *" etcd-server "* ]] || systemctl disable --now etcd

if [ -d "$STAGE" ]; then
    # As root's, whoever built it.
    cp --recursive --no-preserve=ownership --remove-destination "$STAGE"/. /
else
    if ! [ -x /root/.cargo/bin/cargo ]; then
        curl --proto '=https' --tlsv1.2 --silent --show-error --fail https://sh.rustup.rs |
            sh -s -- -y --profile minimal --component clippy,rustfmt
    fi
    export PATH=/root/.cargo/bin:$PATH
    cd "$CHECKOUT"
    cargo xtask install
fi

systemctl daemon-reload
systemctl enable hawser-resume
systemctl enable --now hawserd
