# shellcheck shell=bash
# Source this file, so that the environment stays active in your shell:
#   source 00-set_up/init_locally.sh
# Works in bash and zsh. Nothing here may end the reader's shell: no exit, no set -e, errors are returned.

_course_init() {
    local root=$1 python
    unset -f _course_init # leaves nothing behind in the reader's shell
    if ! bash "$root/00-set_up/install.sh"; then return 1; fi

    python=$(bash "$root/00-set_up/install.sh" --python) || return 1
    if [ -f "${python%/*}/activate" ] && [ "${VIRTUAL_ENV:-}" != "${python%/bin/*}" ]; then
        # shellcheck disable=SC1091
        . "${python%/*}/activate" || return 1
    fi

    if [ ! -e "$root/.env" ]; then
        (umask 077 && cp "$root/00-set_up/env.example" "$root/.env") || return 1
        echo "Created .env: put your keys there if you have any."
    fi
    chmod 600 "$root/.env" || return 1

    echo "Next: jupyter lab"
}

# zsh names the sourced file $0; bash keeps it in BASH_SOURCE. The status of this line is the file's own.
_course_init "$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
