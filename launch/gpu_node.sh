#!/usr/bin/env bash
# Trains on all GPUs of this machine, in one process.
#
#   launch/gpu_node.sh --config=FILE --workdir=DIR [other arguments of train.py]
#
# EXTRA=cuda13     or cuda12, for older drivers; default: cuda13
# RESTARTS=N       start again up to N times after exit code 75 or 134; default: 3
# BASE_PYTHON=FILE makes .venv; default: the newest that is found. PYTHON=FILE runs train.py; default: .venv's
# CUDA_VISIBLE_DEVICES=0,1 takes only those GPUs
# DRY_RUN=1        print the commands
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
help_or_go_on "$@"
check_arguments "$@"
launch/setup.sh "${EXTRA:-cuda13}"
export RESTARTS=${RESTARTS:-3}
exec launch/worker.sh "$@"
