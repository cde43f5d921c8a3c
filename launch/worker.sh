#!/usr/bin/env bash
# Runs train.py on this machine. All other scripts here end up in this one, once on every host or for every GPU.
#
#   launch/worker.sh --config=FILE --workdir=DIR [other arguments of train.py]
#
# PYTHON=FILE   the interpreter that runs train.py; default: .venv/bin/python, which launch/setup.sh makes, else python3
# RESTARTS=N    start again up to N times after exit code 75 or 134; default: 0, for where something else does that.
#               Not after a signal to this script: it is passed on, and train.py saves and leaves.
# DRY_RUN=1     print the command
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
help_or_go_on "$@"

[[ -n ${PYTHON-} ]] || PYTHON=$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)
command=("$PYTHON" -u train.py "$@")
if [[ -n ${DRY_RUN-} || ${RESTARTS:-0} == 0 ]]; then
  [[ -n ${DRY_RUN-} ]] || exec "${command[@]}" # nothing in between: signals and the exit code are train.py's own
  run "${command[@]}"
  exit
fi

# A machine that shuts down signals every process, a user or a container only this one. Passing the first kind on would
# be train.py's second signal, at which it leaves without saving. The sentinel tells which it was: it has no answer to
# signals of its own. `set -m` keeps Ctrl-C from both children, so that it counts as a signal to this process alone.
set -m
stopping='' child='' sentinel=''
stop() {
  [[ -z $stopping ]] || return 0
  stopping=yes
  sleep 0.3
  if [[ -n $child ]] && kill -0 "$sentinel" 2>/dev/null; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap stop TERM INT HUP
trap '[[ -z $sentinel ]] || kill -KILL "$sentinel" 2>/dev/null || true' EXIT

# The exit code of a child. A signal interrupts `wait`, and a child that is suspended ends it at once, so it is asked
# again until the child is gone, but not as fast as it can be.
await() {
  while kill -0 "$1" 2>/dev/null; do wait "$1" || sleep 0.2; done
  wait "$1"
}

sleep 1000000000 & # macOS knows no infinity
sentinel=$!
disown "$sentinel" # its end is not worth a message
for ((start = 0; ; start++)); do
  "${command[@]}" </dev/null &
  child=$!
  [[ -z $stopping ]] || kill -TERM "$child" # the signal came before there was a child
  code=0
  await "$child" || code=$?
  if [[ -n $stopping || $start -ge $RESTARTS ]] || ! again "$code"; then exit "$code"; fi
  echo "worker.sh: exit code $code, starting again ($((start + 1)) of $RESTARTS)"
done
