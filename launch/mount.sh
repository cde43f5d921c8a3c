#!/usr/bin/env bash
# Mounts what all hosts share, on this host; needs sudo, and Debian or Ubuntu where something has to be installed.
#
#   NFS=HOST:/SHARE launch/mount.sh
#
# NFS       at /mnt/work, to read and write: work directories, and data. A bucket needs no mounting
# DRY_RUN=1 print the commands
set -euo pipefail
source "$(dirname "$0")/common.sh"
if [[ ${1-} == -h || ${1-} == --help ]]; then usage && exit; fi
[[ -n ${NFS-} ]] || fail "set NFS; see --help"
check_nfs

mounted() {
  [[ -z ${DRY_RUN-} ]] && mountpoint --quiet "$1"
}

if ! mounted /mnt/work; then
  if ! command -v mount.nfs >/dev/null; then
    wait=(-o DPkg::Lock::Timeout=600) # a machine that has just started may be upgrading itself
    run sudo apt-get update "${wait[@]}" --quiet
    run sudo apt-get install "${wait[@]}" --quiet --yes nfs-common
  fi
  run sudo mkdir -p /mnt/work
  run sudo mount -t nfs "$NFS" /mnt/work
  [[ -w /mnt/work ]] || run sudo chmod a+rwx /mnt/work # a new share is root's alone
fi
