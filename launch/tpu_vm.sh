#!/usr/bin/env bash
# Trains on a Cloud TPU VM, or on all hosts of a pod slice, from a machine with gcloud: makes the slice or takes the one
# there is, copies this working tree to every host, installs it, and starts train.py on all of them.
#
#   TPU=NAME ZONE=ZONE launch/tpu_vm.sh --config=FILE --workdir=DIR [other arguments of train.py]
#   TPU=NAME ZONE=ZONE launch/tpu_vm.sh --stop      the run saves and leaves
#
# TYPE, VERSION    accelerator type and software version, if it has to be made: v5litepod-16, v2-alpha-tpuv5-lite
# SPOT=1           a Spot slice. When it has been preempted it is deleted and made again
# CREATE_FLAGS     more flags for `gcloud compute tpus tpu-vm create`, separated by spaces
# NFS=HOST:/SHARE  mounted on every host at /mnt/work: for --workdir, and data
# BUCKET=NAME      mounted on every host at /mnt/bucket, read-only: for data
# JAX_COMPILATION_CACHE_DIR=DIR   of the hosts: where compiled programs are kept, /mnt/work/xla for one
# RESTARTS=N       start again up to N times after exit code 75 or 134 or the loss of the slice; default: 100
# DRY_RUN=1        print the commands
#
# The run goes on if this script or its connection ends; the same command takes it up again. The slice stays, and costs:
#   gcloud compute tpus tpu-vm delete NAME --zone=ZONE
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
source launch/tpu_common.sh
help_or_go_on "$@"

obtain() {
  local state=MISSING
  while true; do
    [[ -n ${DRY_RUN-} ]] || state=$(state_of tpu-vm 'value(state)')
    case $state in
      READY) return ;;
      PREEMPTED | TERMINATED)
        run gcloud compute tpus tpu-vm delete "$TPU" --zone="$ZONE" --quiet
        ;;
      MISSING)
        # Where there is no capacity it fails; queued_resource.sh waits for some.
        run gcloud compute tpus tpu-vm create "$TPU" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION" \
          "${create_flags[@]}"
        [[ -z ${DRY_RUN-} ]] || return 0
        ;;
      STOPPED) fail "$TPU is stopped: gcloud compute tpus tpu-vm start $TPU --zone=$ZONE" ;;
      *)
        echo "${0##*/}: $TPU is $state" >&2
        sleep "${PAUSE:-30}"
        ;;
    esac
  done
}

is_there() {
  [[ $(state_of tpu-vm 'value(state)') == READY ]]
}

stop_or_train "$@"
