#!/bin/sh
# guests: 1
# A thin pool with ext4 on its devices that is filled.
# shellcheck disable=SC2034
set -eu
FILESYSTEM=ext4
. /opt/hawser/exec/devicemapper
. /opt/hawser/exec/full-thin-pool
