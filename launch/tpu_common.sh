# shellcheck shell=bash
# What tpu_vm.sh and queued_resource.sh share; they source it, with functions of their own:
#   obtain       make or find the slice, and wait until it is ready
#   is_there     whether it is still ready
TPU=${TPU-} ZONE=${ZONE-} TYPE=${TYPE:-v5litepod-16} DIR=${DIR:-dynet_jax}

# The software version of a type's image.
image_of() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
  esac
}
VERSION=${VERSION:-$(image_of "$TYPE")}

check_names() {
  [[ -n $TPU && -n $ZONE ]] || fail "set TPU to the name of the slice and ZONE to its zone; see --help"
  [[ -n $VERSION ]] || fail "TYPE=$TYPE is not like v5litepod-16, v6e-8, v5p-8 or v4-8; for another kind, set VERSION too"
  check_nfs
  read -ra create_flags <<<"${CREATE_FLAGS-}"
  [[ ${SPOT-} != 1 ]] || create_flags+=(--spot)
}

# gcloud reaches several hosts at once only with its key in an agent: without one it fails, or waits for a passphrase.
warn_without_agent() {
  if [[ -z ${DRY_RUN-} ]] && command -v ssh-add >/dev/null && ! ssh-add -l >/dev/null 2>&1; then
    echo "${0##*/}: no key in an SSH agent, without which gcloud may not reach several hosts at once; if it does not:" \
      "eval \"\$(ssh-agent)\" && ssh-add ~/.ssh/google_compute_engine" >&2
  fi
}

# A state that gcloud describes, or MISSING. Where it cannot say, for want of a login for one, its message, and 2. What
# else gcloud has to say, on standard error, is no part of the state.
state_of() {
  local message
  { message=$(gcloud compute tpus "$1" describe "$TPU" --zone="$ZONE" --format="$2" 2>&1 >&3) && return; } 3>&1
  if [[ $message == *NOT_FOUND* ]]; then
    echo MISSING
  else
    echo "$message" >&2
    return 2
  fi
}

node_state() { state_of tpu-vm 'value(state)'; }

request_state() { state_of queued-resources 'value(state.state)'; }

# What a state of the slice means: ready, lost (it has to be made anew), changing (it may become ready) or stuck.
meaning_of_node() {
  case $1 in
    READY) echo ready ;;
    PREEMPTED | TERMINATED) echo lost ;;
    CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING | UNHIDING | STOPPING | DELETING) echo changing ;;
    *) echo stuck ;; # STOPPED, HIDING, HIDDEN, UNKNOWN
  esac
}

# The same of a request for one.
meaning_of_request() {
  case $1 in
    ACTIVE) echo ready ;;
    SUSPENDED) echo lost ;;
    CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | SUSPENDING | DELETING) echo changing ;;
    *) echo stuck ;; # FAILED
  esac
}

fail_stuck() {
  fail "$TPU is ${1:-in no known state} and will not become ready; see: gcloud compute tpus $2 describe $TPU --zone=$ZONE"
}

# A pause for state $1 to change, which is told once.
told=''
wait_while() {
  [[ $1 == "$told" ]] || echo "${0##*/}: $TPU is $1" >&2
  told=$1
  sleep "${PAUSE:-30}"
}

# A command on all hosts at once. gcloud's exit code is that of one host where it failed, or its own.
on_all_hosts() {
  run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

# The command line for a host: from the package's folder, with its arguments quoted for the host's shell.
there() {
  echo "cd $(quoted "$DIR") && $(quoted "$@")"
}

# Unpacking, but not over a run that is under way on a host.
unpack() {
  local running
  running=$(quoted "$DIR/launch/background.sh" --running)
  echo "$(quoted mkdir -p "$DIR") && { $running 2>/dev/null ||" \
    "$(quoted flock "$DIR/.venv.lock" tar --extract --gzip --file=dynet_jax.tar.gz --directory="$DIR"); }"
}

copy_to_all_hosts() {
  local archive code=0
  archive=$(mktemp "${TMPDIR:-/tmp}/dynet_jax.XXXXXX")
  pack "$archive" &&
    run gcloud compute tpus tpu-vm scp "$archive" "$TPU:dynet_jax.tar.gz" --zone="$ZONE" --worker=all || code=$?
  rm -f "$archive"
  return "$code"
}

all_under_way() {
  [[ -z ${DRY_RUN-} ]] && on_all_hosts "$(there launch/background.sh --running)" >/dev/null 2>&1
}

# With --new an earlier --stop is forgotten.
install_on_all_hosts() {
  local command=(launch/prepare.sh "$@" tpu)
  if all_under_way; then return; fi
  [[ -z ${NFS-} ]] || command=(env NFS="$NFS" "${command[@]}")
  copy_to_all_hosts && on_all_hosts "$(unpack)" && on_all_hosts "$(there "${command[@]}")"
}

# The run's exit code, where gcloud has returned another than 0. That may be any host's or gcloud's own, so every host
# is asked for its own. One that does not answer is a lost one.
exit_code_of_all_hosts() {
  local answers code codes=()
  answers=$(on_all_hosts "$(there launch/background.sh --code)") || codes=(255)
  while IFS= read -r code; do
    codes+=("$code")
  done < <(sed -n 's/.*exit code of this host: \([0-9][0-9]*\).*/\1/p' <<<"$answers")
  ((${#codes[@]} > 0)) || codes=(255)
  most_telling "${codes[@]}"
}

# One start of all hosts, to the end of the run, with --new at the first. Whatever a slice that is no longer there leaves
# behind is 255, as a lost connection is.
failed_installations=0
train_once() {
  local new=$1 code=0 command
  shift
  command=(launch/background.sh launch/worker.sh "$@" --distributed)
  [[ -z ${JAX_COMPILATION_CACHE_DIR-} ]] ||
    command=(env JAX_COMPILATION_CACHE_DIR="$JAX_COMPILATION_CACHE_DIR" "${command[@]}")
  if ! obtain; then
    [[ -z $new ]] || return 2
    return 255
  fi
  if ! install_on_all_hosts ${new:+"$new"}; then
    # A lost connection or slice, most often; what fails again and again on a slice that is there is not.
    if is_there; then failed_installations=$((failed_installations + 1)); fi
    ((failed_installations < 3)) || fail "the installation has failed three times on a slice that is ready"
    return 255
  fi
  failed_installations=0
  if on_all_hosts "$(there "${command[@]}")"; then return; fi
  code=$(exit_code_of_all_hosts)
  case $code in
    0 | 2 | 75 | 134 | 255 | "$STOPPED") return "$code" ;;
    *) if is_there; then return "$code"; else return 255; fi ;;
  esac
}

# Train to the end: a slice that is lost is obtained again, and all hosts start again together.
train_on_all_hosts() {
  local code start new=--new
  for ((start = 0; ; start++)); do
    code=0
    train_once "$new" "$@" || code=$?
    [[ $code != 0 ]] || return 0
    if [[ $code == "$STOPPED" ]]; then echo "${0##*/}: stopped" >&2 && return 75; fi
    if [[ $code != 255 ]] && ! again "$code"; then return "$code"; fi
    ((start < ${RESTARTS:-100})) || return "$code"
    echo "${0##*/}: exit code $code, starting again ($((start + 1)) of ${RESTARTS:-100})" >&2
    run sleep "${PAUSE:-30}"
    new=''
  done
}

# What a script does with its arguments.
stop_or_train() {
  check_names
  check_arguments "$@"
  warn_without_agent
  if [[ $1 == --stop ]]; then
    on_all_hosts "$(there launch/background.sh --stop)"
  else
    train_on_all_hosts "$@"
  fi
}
