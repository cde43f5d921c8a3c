#!/usr/bin/env bash
# Runs a command that outlives the connection it was started from: starts it, shows its output, and returns its exit
# code. Where one is under way already, it is that one that is shown, so that a lost connection is taken up again.
#
#   launch/background.sh COMMAND [ARGUMENTS]
#   launch/background.sh --stop                 SIGTERM to the command under way, and its end awaited
#
# RUN_DIR=DIR   where its output, process number and exit code are kept; default: ~/.dynet_jax_run
# DRY_RUN=1     print the command
set -euo pipefail
source "$(dirname "$0")/common.sh"
help_or_go_on "$@"
if [[ -n ${DRY_RUN-} ]]; then
  run "$@"
  exit
fi
dir=${RUN_DIR:-$HOME/.dynet_jax_run}
mkdir -p "$dir"

# The command holds a lock on this file as long as it lives, whatever becomes of this script.
exec 9>"$dir/lock"
if [[ $1 == --stop ]]; then
  if flock --nonblock 9; then exit; fi
  kill -TERM "$(<"$dir/pid")"
  flock 9
  exit
fi
if flock --nonblock 9; then
  rm -f "$dir/code" "$dir/pid"
  : >"$dir/output"
  # shellcheck disable=SC2016
  setsid --fork bash -c '
    dir=$1
    shift
    "$@" &
    echo $! >"$dir/pid"
    code=0
    wait $! || code=$?
    echo $code >"$dir/code"' background "$dir" "$@" </dev/null >>"$dir/output" 2>&1
fi
exec 9>&-

tail --lines=+1 --follow "$dir/output" &
trap 'kill $! 2>/dev/null' EXIT
flock "$dir/lock" true
sleep 1.5 # tail looks once a second
exit "$(cat "$dir/code" 2>/dev/null || echo 255)"
