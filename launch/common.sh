# shellcheck shell=bash
# What the scripts beside this file share; they source it.

# The comment at the top of a script is its help. The script lies beside this file; $0 may be relative to another folder.
usage() {
  sed -n '2,${/^#/!q;/^#SBATCH/q;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]%/*}/${0##*/}"
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

# The working tree as it is here, without what each machine makes for itself.
pack() {
  run tar --create --gzip --exclude-vcs --exclude='./.venv*' --exclude=./runs --exclude=./data --exclude='.*_cache' \
    "$@" .
}
