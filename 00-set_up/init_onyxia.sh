#!/usr/bin/env bash
# Personal initialisation script of an Onyxia service (chart jupyter-pytorch-gpu).
#
# Onyxia clones the repository of the launch link, exports the chosen Vault secret as environment variables,
# and then runs `curl <this file> | bash`. Because bash reads the script from its standard input, everything
# stands in main: it is read whole before any command could swallow the rest of it.
# JupyterLab starts only after this script, and Onyxia waits about ten minutes for it.
set -euo pipefail

REPOSITORY_URL=https://github.com/fine-tuning-course/fine-tuning-course

# Write the secrets that are present to .env, readable by its owner alone; values are never printed.
write_env() {
    local file=$1 name names="HF_TOKEN" written=""
    # The AI provider of the user's Onyxia account comes first, then the Vault secret fine_tuning.
    if [ -n "${OPENAI_API_KEY:-}" ] && [ -n "${OPENAI_BASE_URL:-}" ]; then
        names="OPENAI_BASE_URL OPENAI_API_KEY $names"
    else
        names="OWUI_URL OWUI_TOKEN OWUI_FAV_MODEL $names"
    fi
    for name in $names; do
        if [ -n "${!name:-}" ]; then written="$written $name"; fi
    done
    if [ -z "$written" ]; then
        echo "No endpoint in this service: the course will run on its own small model."
        return
    fi
    (
        umask 077
        for name in $written; do printf '%s=%s\n' "$name" "${!name}"; done >"$file.new"
        # Lines that the reader added for other names are kept.
        if [ -f "$file" ]; then grep -Ev "^($(printf '%s' "${written# }" | tr ' ' '|'))=" "$file" >>"$file.new" || true; fi
        mv "$file.new" "$file"
    )
    echo "Wrote to .env:$written"
}

main() {
    local work=${ROOT_PROJECT_DIRECTORY:-${WORKSPACE_DIR:-$HOME/work}} name=${GIT_REPOSITORY:-$REPOSITORY_URL} root
    name=${name##*/}
    root=$work/${name%.git}
    if [ ! -d "$root" ]; then
        echo "Cloning the course"
        git clone -q --depth 1 "$REPOSITORY_URL" "$root"
    fi
    write_env "$root/.env"
    bash "$root/00-set_up/install.sh" --system
    # Onyxia runs this script as root on some images, and JupyterLab as another user.
    if [ "$(id -u)" -eq 0 ] && [ -n "${USERNAME:-}" ] && [ -f "$root/.env" ]; then chown "$USERNAME" "$root/.env"; fi
}

main "$@" </dev/null
