# shellcheck shell=bash
# What the scripts beside this file share; they source it. Some run on macOS: bash 3.2, and tools without GNU's options.

# What launch/background.sh returns after its --stop, whatever train.py left with: nothing may start again.
# shellcheck disable=SC2034
STOPPED=76

# The comment at the top of a script is its help. The script lies beside this file; $0 may be relative to another folder.
usage() {
  sed -n '2,${/^#/!q;/^#SBATCH/q;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]%/*}/${0##*/}"
}

# --help, or no arguments where some are needed.
help_or_go_on() {
  case ${1---help} in
    -h | --help)
      usage
      exit $(($# == 0 ? 2 : 0))
      ;;
  esac
}

fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

[[ ${RESTARTS:-0} =~ ^[0-9]+$ ]] || fail "RESTARTS must be a number, not $RESTARTS"

# What train.py would refuse, before anything is made, copied or installed for it. From the package's folder; the
# working tree is what the hosts get.
check_arguments() {
  local argument config=''
  [[ $1 != --stop ]] || return 0
  for argument in "$@"; do
    case $argument in
      --config=*) config=${argument#*=} ;;
      --config.*=* | --import=* | --workdir=* | --init_from=* | --allow_config_change | --profile=* | --heartbeat_timeout=*) ;;
      *) fail "$argument is not an argument like --config=FILE, --config.KEY=VALUE or --workdir=DIR; see --help" ;;
    esac
  done
  [[ -n $config ]] || fail "--config=FILE is missing; see --help"
  # A network's name, and configs/NAME.py without such a file, are for train.py to know.
  [[ -f ${config%:*} || $config == /* || $config =~ ^(configs/)?[a-z0-9_]+(\.py)?(:[a-z0-9_]+)?$ ]] ||
    fail "there is no configuration ${config%:*} in this working tree"
}

check_nfs() {
  [[ -z ${NFS-} || $NFS == ?*:/* ]] || fail "NFS=$NFS is not like 10.0.0.2:/share"
}

# The arguments as one line that a shell reads as the same arguments.
quoted() {
  local line
  printf -v line ' %q' "$@"
  echo "${line# }"
}

# With DRY_RUN=1 a command is shown instead.
run() {
  if [[ -n ${DRY_RUN-} ]]; then quoted "$@"; else "$@"; fi
}

# train.py's "start me again", and JAX's end after another host has died.
again() {
  [[ $1 == 75 || $1 == 134 ]]
}

# How much an exit code says about a run of several processes that end differently: a mistake is told first, then any
# other failure, as the others end by 134 or 75 because of it; then --stop; then what a lost host or signal leaves.
telling() {
  case $1 in
    0) echo 0 ;;
    75 | 134 | 255) echo 1 ;;
    "$STOPPED") echo 2 ;;
    2) echo 4 ;;
    *) echo 3 ;;
  esac
}

# The exit code that counts among several.
most_telling() {
  local code result=0
  for code in "$@"; do
    (($(telling "$code") <= $(telling "$result"))) || result=$code
  done
  echo "$result"
}
