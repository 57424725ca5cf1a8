#!/bin/sh
# guests: 1
# A thin pool with xfs on its devices that is filled.
# shellcheck disable=SC2034
set -eu
FILESYSTEM=xfs
. /opt/hawser/exec/devicemapper
. /opt/hawser/exec/full-thin-pool
