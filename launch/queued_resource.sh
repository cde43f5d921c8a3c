#!/usr/bin/env bash
# As tpu_vm.sh, but the slice is asked for as a queued resource, and this script waits until its turn has come.
#
#   TPU=NAME ZONE=ZONE launch/queued_resource.sh --config=FILE --workdir=DIR [other arguments of train.py]
#   TPU=NAME ZONE=ZONE launch/queued_resource.sh --stop
#
# All variables of tpu_vm.sh; CREATE_FLAGS are of `gcloud compute tpus queued-resources create`, for example
# --valid-until-duration=12h or --reserved. NAME names both the request and its slice. A request that was suspended, as
# happens when a Spot slice is preempted, is deleted with its slice and made again. When all is done:
#   gcloud compute tpus queued-resources delete NAME --zone=ZONE --force
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
source launch/tpu_common.sh
help_or_go_on "$@"

obtain() {
  local state=MISSING before=''
  while true; do
    [[ -n ${DRY_RUN-} ]] || state=$(state_of queued-resources 'value(state.state)')
    case $state in
      ACTIVE) return ;;
      SUSPENDED)
        run gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --force --quiet
        ;;
      MISSING)
        run gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" --zone="$ZONE" \
          --accelerator-type="$TYPE" --runtime-version="$VERSION" "${create_flags[@]}"
        [[ -z ${DRY_RUN-} ]] || return 0
        ;;
      FAILED) fail "the request $TPU has failed; gcloud compute tpus queued-resources describe $TPU --zone=$ZONE" ;;
      *)
        [[ $state == "$before" ]] || echo "${0##*/}: $TPU is $state" >&2
        before=$state
        sleep "${PAUSE:-30}"
        ;;
    esac
  done
}

is_there() {
  [[ $(state_of queued-resources 'value(state.state)') == ACTIVE && $(state_of tpu-vm 'value(state)') == READY ]]
}

stop_or_train "$@"
