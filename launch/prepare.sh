#!/usr/bin/env bash
# Prepares this host for a run, unless one is under way: installs the package, and mounts what is shared.
#
#   launch/prepare.sh [--new] KIND      KIND as for setup.sh
#
# --new          an earlier launch/background.sh --stop is forgotten first
# NFS            as for mount.sh; without it nothing is mounted
# DRY_RUN=1      print the commands
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
help_or_go_on "$@"

new=''
if [[ $1 == --new ]]; then new=yes && shift; fi
if [[ -z ${DRY_RUN-} ]] && launch/background.sh --running; then
  echo "prepare.sh: a run is under way, nothing is installed"
  exit
fi
[[ -z $new ]] || run launch/background.sh --new
launch/setup.sh "${1-cpu}"
[[ -z ${NFS-} ]] || launch/mount.sh
