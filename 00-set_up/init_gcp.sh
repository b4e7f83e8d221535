#!/usr/bin/env bash
# Start-up script of a Vertex AI Workbench instance or a Deep Learning VM. It holds no secret.
#
# Google Cloud runs it as root at every start, so a second run only checks. The course goes into the home of
# the user that JupyterLab runs as, in its own environment, offered there as the kernel "Fine-tuning course".
set -euo pipefail

REPOSITORY_URL=https://github.com/fine-tuning-course/fine-tuning-course

main() {
    local user home root python
    user=$(id -un)
    # Both kinds of machine run JupyterLab as the user jupyter.
    if [ "$user" = root ] && id jupyter >/dev/null 2>&1; then user=jupyter; fi
    as_user() { if [ "$user" = "$(id -un)" ]; then "$@"; else runuser -u "$user" -- env "HOME=$home" "$@"; fi; }
    home=$HOME
    if [ "$user" != "$(id -un)" ]; then home=$(getent passwd "$user" | cut -d: -f6); fi

    root=$home/$(basename "$REPOSITORY_URL" .git)
    if [ ! -d "$root" ]; then as_user git clone -q --depth 1 "$REPOSITORY_URL" "$root"; fi

    # Without --system: the machine's conda packages stay as they are.
    as_user env VENV="$root/.venv" bash "$root/00-set_up/install.sh"
    python=$root/.venv/bin/python
    if [ -z "${DRY_RUN:-}" ]; then
        as_user "$python" -m ipykernel install --user --name fine-tuning-course --display-name "Fine-tuning course"
    fi
    echo "The course is in $root"
}

main "$@"
