# Sourced by the scripts of this folder: a virtual environment in the checkout with the pinned requirements and the package.
# Installs only what changed since the last time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
  echo "Python 3.11 or 3.12 is needed, and $python is $("$python" --version 2>&1); set PYTHON to one." >&2
  exit 2
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
install() { # install FILE: once, and again when it or pyproject.toml changed
  local wanted stamp=".venv/installed-${1//\//-}"
  wanted=$(cat "$1" pyproject.toml | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing the pinned $1 into .venv (once; a minute or two)"
    .venv/bin/pip install --quiet --disable-pip-version-check -r "$1"
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
    echo "$wanted" > "$stamp"
  fi
}
install_apart() { # install_apart FILE: into .venv/plan, where only `qwenvl plan` looks (a wheel of 203 MiB)
  local stamp=".venv/plan/installed"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$(cksum < "$1")" ]; then
    echo "installing the pinned $1 into .venv/plan (once)"
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/plan -r "$1"
    cksum < "$1" > "$stamp"
  fi
}
install_accelerator() { # install_accelerator KIND: JAX's own packages for tpu, cuda12 or cuda13
  local wanted stamp=".venv/installed-accelerator"
  wanted="jax[$1]==$(sed -n 's/^jax==//p' requirements.txt)"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $wanted into .venv (once)"
    .venv/bin/pip install --quiet --disable-pip-version-check "$wanted"
    echo "$wanted" > "$stamp"
  fi
}
install requirements.txt
[ -z "${QWENVL_ACCELERATOR:-}" ] || install_accelerator "$QWENVL_ACCELERATOR"
export PATH="$PWD/.venv/bin:$PATH"
