#!/usr/bin/env bash
# The whole test suite. Arguments go to pytest: launch/test.sh tests/training -k resume
source "$(dirname "$0")/environment.sh"
install tests/requirements.txt
install_apart launch/plan-requirements.txt

python -m pytest -n 2 --dist loadfile "$@"
