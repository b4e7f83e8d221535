"""Copies of a model's folder at other addresses, made while it is trained and once more at the end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from helpers.config import PROJECT_ROOT
from helpers.errors import ConfigError, DataError
from helpers.storage import copy_folder

Address = str | dict[str, Any]
"""An fsspec address, or one under `address` beside options of its file system."""


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
            address = str((PROJECT_ROOT / Path(address).expanduser()).resolve())
            if Path(address, run.name, folder.name).is_relative_to(run):
                raise ConfigError(
                    f"training.additional_output_paths: copies in {address} would lie in the run folder itself. Give "
                    "another folder."
                )
        copy_folder(folder, f"{address}/{run.name}/{folder.name}", options)


class Copies(TrainerCallback):  # type: ignore[misc]
    """Copies at every checkpoint. An address that cannot be written stops a training before its first step only."""

    def __init__(self, folder: Path, addresses: Iterable[Address]) -> None:
        self._folder, self._addresses = folder, tuple(addresses)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Copy what is there, the last checkpoint of a killed training perhaps."""
        copy_model(self._folder, self._addresses)

    def on_save(self, *_: Any, **__: Any) -> None:
        """Copy the new checkpoint; a failure is told, and training goes on."""
        try:
            copy_model(self._folder, self._addresses)
        except DataError as error:
            tqdm.write(f"{error} Training goes on; the copy is tried again at the next checkpoint or at the end.")
