"""Copies of a model's folder at other addresses, made while it is trained and once more at the end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from helpers.errors import DataError
from helpers.storage import copy_folder

Address = str | dict[str, Any]
"""An fsspec address, or one under `address` beside options of its file system."""


def copy_model(folder: Path, addresses: Iterable[Address]) -> None:
    """Copy `<run>/models/<name>` to `<address>/<run>/<name>` for each address. Raises DataError where that fails."""
    for given in addresses:
        options = {"address": given} if isinstance(given, str) else dict(given)
        address = f"{options.pop('address').rstrip('/')}/{folder.absolute().parents[1].name}/{folder.name}"
        copy_folder(folder, address, options)


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
            tqdm.write(f"{error} The next checkpoint will be copied again.")
