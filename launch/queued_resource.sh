#!/usr/bin/env bash
# As tpu_vm.sh, but the slice is asked for as a queued resource, and this script waits until its turn has come.
#
#   TPU=NAME ZONE=ZONE launch/queued_resource.sh --config=FILE --workdir=gs://BUCKET/RUN [other arguments of train.py]
#   TPU=NAME ZONE=ZONE launch/queued_resource.sh --stop
#
# All variables of tpu_vm.sh; CREATE_FLAGS are of `gcloud compute tpus queued-resources create`, for example
# --valid-until-duration=12h or --reserved. NAME names both the request and its slice. A request that was suspended, as
# happens when a Spot slice is preempted, is deleted with its slice and made again. When all is done:
#   gcloud compute tpus queued-resources delete NAME --zone=ZONE --force
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
source launch/pack.sh
source launch/tpu_common.sh
help_or_go_on "$@"

# A request that is active has a slice, which may not be ready yet, or no longer: the request is suspended soon then.
# Half an hour of pauses, $2 of them till now, is too long for that.
wait_for_slice() {
  [[ $(meaning_of_node "$1") != stuck || $1 == MISSING ]] || fail_stuck "$1" tpu-vm
  (($2 <= 60)) || fail "the request $TPU is ACTIVE, but its slice has been $1 for too long"
  wait_while "ACTIVE, its slice $1"
}

obtain() {
  local state=MISSING node pauses=0
  while true; do
    [[ -n ${DRY_RUN-} ]] || state=$(request_state) || return
    if [[ $state == MISSING ]]; then
      run gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" --zone="$ZONE" \
        --accelerator-type="$TYPE" --runtime-version="$VERSION" ${create_flags[@]+"${create_flags[@]}"} || return
      [[ -z ${DRY_RUN-} ]] || return 0
      continue
    fi
    case $(meaning_of_request "$state") in
      ready)
        node=$(node_state) || return
        [[ $node != READY ]] || return 0
        wait_for_slice "$node" $((++pauses))
        ;;
      lost) gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --force --quiet || return ;;
      changing) wait_while "$state" ;;
      stuck) fail_stuck "$state" queued-resources ;;
    esac
  done
}

is_there() {
  [[ $(request_state) == ACTIVE && $(node_state) == READY ]]
}

stop_or_train "$@"
