"""Files at an fsspec address, such as s3://bucket/folder: read, and copied to."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from helpers.config import PROJECT_ROOT
from helpers.errors import ConfigError, DataError
from helpers.files import at_home

Address = str | dict[str, Any]
"""An fsspec address, or one under `address` beside options of its file system."""


def fetch(address: str, options: Mapping[str, Any]) -> bytes:
    """The content of a file at an address of fsspec, with options of its file system. Else raises DataError."""
    import fsspec

    try:
        with fsspec.open(address, "rb", **options) as file:
            return bytes(file.read())
    except Exception as error:  # each file system has its own kinds
        raise DataError(f"{address.partition('?')[0]} cannot be read ({_reason(error)}).") from None


def copy_model(folder: Path, addresses: Iterable[Address]) -> None:
    """Copy `<run>/models/<name>` to `<address>/<run>/<name>` for each address.

    Raises ConfigError where one is no address or lies in the run folder, DataError where it cannot be written.
    """
    run = folder.absolute().parents[1]
    for given in addresses:
        options = {"address": given} if isinstance(given, str) else dict(given)
        address = str(options.pop("address")).strip().rstrip("/")
        if not address or "::" in address:
            raise ConfigError(
                f"training.additional_output_paths: {address!r} is no address; give one such as s3://bucket/models."
            )
        if "://" not in address:
            address = str((PROJECT_ROOT / at_home(address)).resolve())
            if Path(address, run.name, folder.name).is_relative_to(run):
                raise ConfigError(
                    f"training.additional_output_paths: copies in {address} would lie in the run folder itself. Give "
                    "another folder."
                )
        _copy_folder(folder, f"{address}/{run.name}/{folder.name}", options)


def _copy_folder(folder: Path, address: str, options: Mapping[str, Any]) -> None:
    """Copy a model's folder to an address, but for files that are being written, whose names begin with a dot.

    Missing folders are made, a missing bucket is not. Files that lie there already stay, but for those below
    checkpoints/ that are gone here. Raises DataError where a file cannot be written.
    """
    from fsspec.asyn import AsyncFileSystem
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(address, **options)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        targets = {f"{root}/{path.relative_to(folder).as_posix()}": path for path in files}
        for target, path in targets.items():
            if not isinstance(system, AsyncFileSystem):  # object stores have no folders: a bucket would be made
                system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(path), target)
        system.invalidate_cache()
        for other in {*system.find(f"{root}/checkpoints")} - {*targets}:
            system.rm_file(other)
    except Exception as error:
        raise DataError(f"{address.partition('?')[0]} cannot be written ({_reason(error)}).") from None


def _reason(error: Exception) -> str:
    """Why, in a line; options may be secret and are not shown."""
    if isinstance(error, FileNotFoundError):
        if not isinstance(error.__cause__, OSError):
            return "there is no such file or bucket"
        error = error.__cause__  # no server answers
    if isinstance(error, ImportError):
        return f"{error}: install that package"
    told = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    if "credential" in str(error).lower() or isinstance(error, PermissionError):
        remedy = "give credentials by the environment or .env (for S3 AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        told = f"{told.rstrip('.')}; {remedy}"
    return told
