#!/usr/bin/env bash
# Installs the package and its requirements into .venv, once; a second call finds that done.
#
#   launch/setup.sh [cpu | tpu | cuda13 | cuda12]     which JAX; default: cpu
#
# BASE_PYTHON=FILE   an interpreter of Python 3.11 or later, for .venv to be made with; default: the newest found. Where
#                    there is none, as on Ubuntu 22.04, uv is installed for this user by pip and fetches one.
# DRY_RUN=1          print the commands
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
case ${1-cpu} in
  -h | --help) usage && exit ;;
  cpu | tpu | cuda12 | cuda13) kind=${1-cpu} ;;
  *) fail "'$1' is none of cpu, tpu, cuda13, cuda12" ;;
esac

# Hosts may share this folder: one installs, the others wait and find it done. macOS has no flock.
if [[ -z ${DRY_RUN-} ]] && command -v flock >/dev/null; then
  exec 9>.venv.lock
  flock 9
fi

done_file=.venv/installed-$kind
if [[ $done_file -nt pyproject.toml ]]; then exit; fi

# The first interpreter that is new enough and can make environments.
find_python() {
  local name
  for name in ${BASE_PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if "$name" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

if [[ ! -x .venv/bin/pip ]]; then
  if python=$(find_python); then
    run "$python" -m venv .venv
  elif [[ -n ${BASE_PYTHON-} ]]; then
    fail "$BASE_PYTHON is not Python 3.11 or later with ensurepip"
  else
    run python3 -m pip install --quiet --user uv
    run python3 -m uv venv --seed --python 3.12 .venv
  fi
fi
packages=(--editable ".[train,export]")
[[ $kind != tpu ]] || packages=(--editable ".[train,export,gcs]")
[[ $kind == cpu ]] || packages+=("jax[$kind]")
run .venv/bin/python -m pip install --quiet --disable-pip-version-check "${packages[@]}"
run touch "$done_file"
