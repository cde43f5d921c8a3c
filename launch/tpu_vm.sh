#!/usr/bin/env bash
# Trains on a Cloud TPU VM, or on all hosts of a pod slice, from a machine with gcloud: makes the slice or takes the one
# there is, copies this working tree to every host, installs it, and starts train.py on all of them.
#
#   TPU=NAME ZONE=ZONE launch/tpu_vm.sh --config=FILE --workdir=gs://BUCKET/RUN [other arguments of train.py]
#   TPU=NAME ZONE=ZONE launch/tpu_vm.sh --stop      the run saves and leaves
#
# TYPE, VERSION    accelerator type, default v5litepod-16, and software version, default by type, if it has to be made
# SPOT=1           a Spot slice. When it has been preempted it is deleted and made again
# CREATE_FLAGS     more flags for `gcloud compute tpus tpu-vm create`, separated by spaces
# NFS=HOST:/SHARE  mounted on every host at /mnt/work, where --workdir and data are not in a bucket
# JAX_COMPILATION_CACHE_DIR=DIR   where the hosts keep compiled programs, gs://BUCKET/xla for one
# RESTARTS=N       start again up to N times after exit code 75 or 134 or the loss of the slice; default: 100
# DRY_RUN=1        print the commands
#
# The run goes on if this script or its connection ends; the same command takes it up again. Of several hosts' exit codes
# the most telling one counts: 2, then any other failure, then 75 (after --stop too), 134 or 255. The slice stays, and
# costs:
#   gcloud compute tpus tpu-vm delete NAME --zone=ZONE
# This machine needs bash, tar and gcloud, as macOS has them.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
source launch/pack.sh
source launch/tpu_common.sh
help_or_go_on "$@"

obtain() {
  local state=MISSING
  while true; do
    [[ -n ${DRY_RUN-} ]] || state=$(node_state) || return
    if [[ $state == MISSING ]]; then
      # Where there is no capacity it fails; queued_resource.sh waits for some.
      run gcloud compute tpus tpu-vm create "$TPU" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION" \
        ${create_flags[@]+"${create_flags[@]}"} || return
      [[ -z ${DRY_RUN-} ]] || return 0
      continue
    fi
    case $(meaning_of_node "$state") in
      ready) return ;;
      lost) gcloud compute tpus tpu-vm delete "$TPU" --zone="$ZONE" --quiet || return ;;
      changing) wait_while "$state" ;;
      stuck)
        [[ $state != STOPPED ]] || fail "$TPU is stopped: gcloud compute tpus tpu-vm start $TPU --zone=$ZONE"
        fail_stuck "$state" tpu-vm
        ;;
    esac
  done
}

is_there() {
  [[ $(node_state) == READY ]]
}

stop_or_train "$@"
