#!/usr/bin/env bash
# Mounts what all hosts share, on this host; needs sudo, and Debian or Ubuntu where something has to be installed.
#
#   NFS=HOST:/SHARE BUCKET=NAME launch/mount.sh        one of them, or both
#
# NFS       at /mnt/work, to read and write: work directories, and data
# BUCKET    of Cloud Storage, by gcsfuse at /mnt/bucket, read-only: data
# DRY_RUN=1 print the commands
set -euo pipefail
source "$(dirname "$0")/common.sh"
if [[ ${1-} == -h || ${1-} == --help ]]; then usage && exit; fi
[[ -n ${NFS-}${BUCKET-} ]] || fail "set NFS or BUCKET; see --help"
check_nfs

mounted() {
  [[ -z ${DRY_RUN-} ]] && mountpoint --quiet "$1"
}

if [[ -n ${NFS-} ]] && ! mounted /mnt/work; then
  if ! command -v mount.nfs >/dev/null; then
    wait=(-o DPkg::Lock::Timeout=600) # a machine that has just started may be upgrading itself
    run sudo apt-get update "${wait[@]}" --quiet
    run sudo apt-get install "${wait[@]}" --quiet --yes nfs-common
  fi
  run sudo mkdir -p /mnt/work
  run sudo mount -t nfs "$NFS" /mnt/work
  [[ -w /mnt/work ]] || run sudo chmod a+rwx /mnt/work # a new share is root's alone
fi

if [[ -n ${BUCKET-} ]] && ! mounted /mnt/bucket; then
  command -v gcsfuse >/dev/null || [[ -n ${DRY_RUN-} ]] ||
    fail "gcsfuse is not installed; https://cloud.google.com/storage/docs/cloud-storage-fuse/install says how"
  run sudo mkdir -p /mnt/bucket
  run sudo chown "$(id -u)" /mnt/bucket
  run gcsfuse --implicit-dirs -o ro "$BUCKET" /mnt/bucket
fi
