#!/usr/bin/env bash
# Runs a command that outlives the connection it was started from: starts it, shows its output, and returns its exit
# code. Where the same command is under way already, it is that one that is shown, so that a lost connection is taken up
# again; another command is refused.
#
#   launch/background.sh COMMAND [ARGUMENTS]
#   launch/background.sh --stop       SIGTERM to the command under way, its end awaited, and no other start until --new
#   launch/background.sh --new        an earlier --stop and an earlier exit code are forgotten
#   launch/background.sh --running    exit code 0 if a command is under way, else 1
#   launch/background.sh --code       prints the exit code of the last command as it counts for all hosts together
#
# Exit codes are the command's own, but 76 after --stop, and 255 where the command left none behind: that is what ssh
# returns for a lost connection.
#
# RUN_DIR=DIR   where output, process numbers and exit code are kept; default: a folder of this host, since it was
#               booted, in ~/.dynet_jax_run, so that hosts can share a home directory
# DRY_RUN=1     print the command
set -euo pipefail
source "$(dirname "$0")/common.sh"
help_or_go_on "$@"
if [[ -n ${DRY_RUN-} ]]; then
  run "$@"
  exit
fi

# The name alone would not do: machines that were made from one image often share that too.
this_host() {
  local boot
  read -r boot </proc/sys/kernel/random/boot_id
  echo "$(uname -n)-${boot%%-*}"
}
dir=${RUN_DIR:-$HOME/.dynet_jax_run/$(this_host)}
mkdir -p "$dir"

# Two locks. "running" is held as long as the command lives; nobody waits for it, as that would look like a run to others
# (they wait for the run's own, "alive"). "door" is held by whoever looks or changes something here, and at a start until
# all files of the new run are there, so that nobody meets half a run.
exec 8>"$dir/door" 9>"$dir/running"
flock 8

under_way() {
  local code=0
  flock --nonblock 9 || code=$?
  ((code <= 1)) || fail "cannot lock files in $dir; set RUN_DIR to a folder of another file system"
  return $((1 - code))
}

# The folder of the run under way or the last one. Each has its own, so that who shows one never meets the next.
last_run() {
  cat "$dir/last" 2>/dev/null || true
}

# The exit code of the run in folder $1 that has ended.
outcome() {
  local code
  code=$(cat "$1/code" 2>/dev/null) || code=255
  case $code in
    0 | 1 | 2) ;;
    *) [[ ! -e $dir/stopped ]] || code=$STOPPED ;;
  esac
  echo "$code"
}

# Waits for the end of the run in folder $1, and shows what is in file $2 till then. The end is that of a lock: in a
# container whose first process collects no others' children, the keeper's number stays in use after it.
follow() {
  local waiting
  flock --shared "$1/alive" true &
  waiting=$!
  # shellcheck disable=SC2064
  trap "kill $waiting 2>/dev/null || true" EXIT
  tail --lines=+1 --follow --sleep-interval=0.2 --pid="$waiting" "$2"
}

stop() {
  local run first=yes
  [[ ! -e $dir/stopped ]] || first=''
  : >"$dir/stopped"
  under_way || return 0
  run=$(last_run)
  # At a second signal train.py leaves without saving.
  [[ -z $first ]] || kill -TERM "$(<"$run/command-pid")" 2>/dev/null || true
  exec 8>&- # others may look meanwhile
  follow "$run" /dev/null
}

forget() {
  under_way || rm -f "$dir/stopped" "$dir/last"
}

print_code() {
  local code=255 run
  if ! under_way; then
    run=$(last_run)
    [[ -z $run ]] || code=$(outcome "$run")
  fi
  echo "exit code of this host: $code"
}

# Starts a command that is no longer this script's: the keeper, in a session of its own, waits for its end. It holds the
# locks in place of this script; what the command leaves behind must not hold them on.
start() {
  local old run
  for old in "$dir"/run.*; do
    [[ $old == "$(last_run)" ]] || rm -rf "$old"
  done
  run=$(mktemp -d "$dir/run.XXXXXX")
  quoted "$@" >"$run/command"
  echo "$run" >"$dir/last"
  exec 7>"$run/alive"
  flock 7
  # shellcheck disable=SC2016
  setsid --fork bash -c '
    run=$1
    shift
    trap : TERM INT HUP # of no effect here, and as ever in the command
    "$@" 7>&- 8>&- 9>&- &
    echo $! >"$run/command-pid"
    exec 8>&-
    while kill -0 $! 2>/dev/null; do wait $! || true; done # a signal ends the waiting only
    code=0
    wait $! || code=$?
    echo $code >"$run/code"' keeper "$run" "$@" </dev/null >"$run/output" 2>&1
  exec 7>&-
}

show() {
  local run
  run=$(last_run)
  exec 8>&- 9>&-
  flock "$dir/door" true # a start is complete when its keeper has opened the door
  follow "$run" "$run/output"
  exit "$(outcome "$run")"
}

case $1 in
  --stop) stop ;;
  --new) forget ;;
  --running) under_way ;;
  --code) print_code ;;
  --*) fail "no such option: $1" ;;
  *)
    if under_way; then
      [[ $(quoted "$@") == "$(<"$(last_run)/command")" ]] ||
        fail "another command is under way, which --stop would end: $(<"$(last_run)/command")"
    elif [[ -e $dir/stopped ]]; then
      echo "background.sh: not started, after --stop" >&2
      exit "$STOPPED"
    else
      start "$@"
    fi
    show
    ;;
esac
