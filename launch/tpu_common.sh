# shellcheck shell=bash
# What tpu_vm.sh and queued_resource.sh share; they source it, with functions of their own:
#   obtain       make or find the slice, and wait until it is ready
#   is_there     whether it is still ready
TPU=${TPU-} ZONE=${ZONE-} TYPE=${TYPE:-v5litepod-16} VERSION=${VERSION:-v2-alpha-tpuv5-lite} DIR=${DIR:-dynet_jax}

check_names() {
  [[ -n $TPU && -n $ZONE ]] || fail "set TPU to the name of the slice and ZONE to its zone; see --help"
  read -ra create_flags <<<"${CREATE_FLAGS-}"
  [[ ${SPOT-} != 1 ]] || create_flags+=(--spot)
}

# A state that gcloud describes, or MISSING. Where it cannot say, for want of a login for one, its message, and the end.
state_of() {
  local kind=$1 format=$2 answer
  if answer=$(gcloud compute tpus "$kind" describe "$TPU" --zone="$ZONE" --format="$format" 2>&1); then
    echo "${answer##*$'\n'}"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo MISSING
  else
    echo "$answer" >&2
    return 2
  fi
}

# A command on all hosts at once. gcloud's exit code is that of one host where it failed, and 255 for a lost connection.
on_all_hosts() {
  run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

# The command line for a host: from the package's folder, with its arguments quoted for the host's shell.
there() {
  echo "cd $(quoted "$DIR") && $(quoted "$@")"
}

install_on_all_hosts() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  pack --file="$archive"
  run gcloud compute tpus tpu-vm scp "$archive" "$TPU:dynet_jax.tar.gz" --zone="$ZONE" --worker=all
  rm -f "$archive"
  on_all_hosts "$(quoted mkdir -p "$DIR") && $(quoted tar --extract --gzip --file=dynet_jax.tar.gz --directory="$DIR")"
  on_all_hosts "$(there launch/setup.sh tpu)"
  if [[ -n ${NFS-}${BUCKET-} ]]; then
    on_all_hosts "$(there env NFS="${NFS-}" BUCKET="${BUCKET-}" launch/mount.sh)"
  fi
}

# Train to the end: a slice that is lost is obtained again, and all hosts start again together.
train_on_all_hosts() {
  local code start command with=()
  [[ -z ${JAX_COMPILATION_CACHE_DIR-} ]] || with=(env JAX_COMPILATION_CACHE_DIR="$JAX_COMPILATION_CACHE_DIR")
  command=$(there "${with[@]}" launch/background.sh launch/worker.sh "$@" --distributed)
  for ((start = 0; ; start++)); do
    obtain
    install_on_all_hosts
    code=0
    on_all_hosts "$command" || code=$?
    [[ $code != 0 ]] || return 0
    if ! again "$code" && [[ $code != 255 ]] && is_there; then return "$code"; fi
    ((start < ${RESTARTS:-100})) || return "$code"
    echo "${0##*/}: exit code $code, starting again ($((start + 1)) of ${RESTARTS:-100})" >&2
    run sleep "${PAUSE:-30}"
  done
}

# What a script does with its arguments.
stop_or_train() {
  check_names
  if [[ $1 == --stop ]]; then
    on_all_hosts "$(there launch/background.sh --stop)"
  else
    train_on_all_hosts "$@"
  fi
}
