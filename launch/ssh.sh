#!/usr/bin/env bash
# Trains on several machines that this one reaches by SSH without a password: copies this working tree to each, installs
# it, and starts one process with all devices on each. They need a work directory and data that all of them see.
#
#   launch/ssh.sh [USER@]HOST... -- --config=FILE --workdir=DIR [other arguments of train.py]
#   launch/ssh.sh [USER@]HOST... -- --stop          the run saves and leaves
#
# EXTRA=cuda13         or cuda12, cpu, tpu; default: cuda13
# DIR=PATH             where the working tree goes, below the home directory; default: dynet_jax
# COORDINATOR=ADDRESS  of the first host, as the others reach it; default: HOST as given here
# PORT=N               a free port there; default: 8476
# RESTARTS=N           start all again up to N times after exit code 75 or 134 or a lost connection; default: 100
# DRY_RUN=1            print the commands
#
# The run goes on if this script or its connections end; the same command, with the hosts in the same order, takes it up
# again. The exit code is the most telling one: 2, then any other failure, then 75 (after --stop too), 134 or 255.
# This machine needs bash and ssh, as macOS has them; the hosts need Linux.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
source launch/pack.sh
help_or_go_on "$@"

hosts=()
while (($# > 0)) && [[ $1 != -- ]]; do
  hosts+=("$1")
  shift
done
((${#hosts[@]} > 0 && $# > 1)) || fail "say HOST... -- ARGUMENTS; see --help"
shift
arguments=("$@")
DIR=${DIR:-dynet_jax}
coordinator=${COORDINATOR:-${hosts[0]#*@}}:${PORT:-8476}
[[ ${PORT:-0} =~ ^[0-9]+$ ]] || fail "PORT must be a number, not $PORT"
twice=$(printf '%s\n' "${hosts[@]#*@}" | sort | uniq -d)
# shellcheck disable=SC2086  # in one line
[[ -z $twice ]] || fail "say every host once, not" $twice "again: one process drives all devices of a host"
check_arguments "$@"

on_host() {
  run ssh -o BatchMode=yes -o ServerAliveInterval=30 "$1" "cd $(quoted "$DIR") && $2"
}

# A function for every host at once, with the host and its number. The exit code is the most telling one.
for_all_hosts() {
  local index child children=() code codes=()
  for index in "${!hosts[@]}"; do
    "$1" "${hosts[index]}" "$index" &
    children+=($!)
  done
  for child in "${children[@]}"; do
    code=0
    wait "$child" || code=$?
    codes+=("$code")
  done
  return "$(most_telling "${codes[@]}")"
}

# shellcheck disable=SC2329  # these are called by name
stop_on() { on_host "$1" "$(quoted launch/background.sh --stop)"; }

# Where a run is under way nothing is copied over it. Hosts may share a home directory: one copies at a time, and none
# while another installs, as they all install later.
# shellcheck disable=SC2329
copy_to() {
  local unpack
  if [[ -n ${DRY_RUN-} ]]; then
    echo "# the working tree to $1:$DIR"
    return
  fi
  if on_host "$1" "$(quoted launch/background.sh --running)" 2>/dev/null; then return; fi
  unpack=$(quoted flock "$DIR/.venv.lock" tar --extract --gzip --directory="$DIR")
  pack - | ssh -o BatchMode=yes "$1" "$(quoted mkdir -p "$DIR") && $unpack"
}

# shellcheck disable=SC2329
prepare() { on_host "$1" "$(quoted launch/prepare.sh --new "${EXTRA:-cuda13}")"; }

# shellcheck disable=SC2329
start_on() {
  on_host "$1" "$(quoted launch/background.sh launch/worker.sh "${arguments[@]}" --coordinator="$coordinator" \
    --processes="${#hosts[@]}" --process="$2")"
}

if [[ $1 == --stop ]]; then
  for_all_hosts stop_on
  exit
fi
for_all_hosts copy_to
for_all_hosts prepare
for ((start = 0; ; start++)); do
  code=0
  for_all_hosts start_on || code=$?
  if [[ $code == "$STOPPED" ]]; then echo "ssh.sh: stopped" >&2 && exit 75; fi
  if [[ $code != 255 ]] && ! again "$code"; then exit "$code"; fi
  ((start < ${RESTARTS:-100})) || exit "$code"
  echo "ssh.sh: exit code $code, starting again ($((start + 1)) of ${RESTARTS:-100})" >&2
  sleep "${PAUSE:-30}"
done
