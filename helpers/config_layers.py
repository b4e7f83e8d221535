"""Read and merge layers of YAML, refuse those that hold a secret, and explain mistakes in them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from helpers.errors import ConfigError

SECRET_SHAPE = re.compile(
    r"^(sk-(?!learn)|hf_|eyJ|gh[pousr]_|github_pat_|glpat-|xox\w-|AKIA)\S{8,}|^(Bearer|Basic) (?=\S*[\d=])\S{8,}$"
    r"|^[0-9a-fA-F]{64,}$"
    r"|(?i:://[^/@\s:]*:[^/@\s]+@|https?://[^/?#@\s]+@|://\S+[?&][\w-]*(?:sig|signature|token|key|secret|password)=)"
)
"""Keys, headers, http://user:password@host, https://token@host and signed addresses."""
SECRET_NAME = re.compile(
    r"(^|_)(?<!\b[be]os_)(?<!\bpad_)(?<!\bunk_)"
    r"(token|key|apikey|pass(?:word|wd|phrase)?|pwd|auth|secret|connection_string|authorization|credentials?|signature)$",
    re.IGNORECASE,
)
"""Ends of names, with _ between their words."""
NAME = r"^[a-z][a-z0-9_]*$"
"""What names in a pipeline look like."""
OWN_KEYS = {"adapters", "training_arguments", "lora_arguments", "source", "columns", "storage_options"}
"""Mappings whose keys are the reader's own names: they are replaced whole."""


def layered(files: Sequence[Path], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge YAML files, then overrides with dotted keys; later values win. Raises ConfigError, also for a secret."""
    merged: dict[str, Any] = {}
    for source, layer in [*((path, read_layer(path)) for path in files), (Path("overrides"), nested(overrides))]:
        _refuse_secrets(layer, source)
        _merge(merged, layer)
    return merged


def read_layer(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file; none where it is empty. Raises ConfigError where it is no such file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = read_yaml(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Check its name and folder.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}. Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {min(where.line + 1, len(text.splitlines()))}" if where else ""
        fault = "this is not valid YAML. Check indentation and quotes"
        if isinstance(error, _RepeatedKeyError):
            fault = str(error.problem)
        raise ConfigError(f"{path.name}{line}: {fault}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name}: expected keys and values, received a {type(content).__name__}.")
    return content


class _RepeatedKeyError(yaml.MarkedYAMLError):
    """A key that stands twice in one mapping, of which one value would be lost."""


class _Loader(yaml.CSafeLoader):
    """YAML in which 1e-8, without a decimal point, is a number, and keys stay text: `on` is not read as True."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if str(key.value) in seen and key.value != "<<":
                problem = f"the key {key.value!r} stands there twice. Put both parts under one"
                raise _RepeatedKeyError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        self.flatten_mapping(node)  # what `<<` names
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d[\d_]*(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Values of YAML text. Raises yaml.YAMLError."""
    found = yaml.load(text, _Loader)  # a safe loader
    try:
        json.dumps(found, default=str)
    except ValueError:  # by an anchor, a value holds itself
        raise yaml.YAMLError from None
    return found


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings, but for those that hold the reader's own keys."""
    if isinstance(value, dict) and value and prefix.rsplit(".", 1)[-1] not in OWN_KEYS:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _merge(target: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict) and key not in OWN_KEYS:
            _merge(target[key], value)
        else:
            target[key] = value


def nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings out of dotted keys: the opposite of `flat`."""
    tree: dict[str, Any] = {}
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        level = tree
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise ConfigError(f"overrides: {dotted} cannot be set, because {parent} was set to one value.")
        level[last] = deepcopy(value)  # later keys may go into it, and the caller's must stay as it is
    return tree


def _walk(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(layer, Mapping):
        for key, value in layer.items():
            yield from _walk(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(layer, list | tuple):
        for value in layer:
            yield from _walk(value, prefix)
    else:
        yield prefix, layer


def _refuse_secrets(layer: Mapping[str, Any], source: Path) -> None:
    """Refuse what is a secret by its name or by the shape of its value; the message does not show it."""
    for key, value in _walk(layer):
        name_of = re.sub(r"(?<=[a-z\d])(?=[A-Z])|-", "_", key.rsplit(".", 1)[-1])  # X-Api-Key, secretAccessKey
        named = value is not None and not isinstance(value, bool) and SECRET_NAME.search(name_of)
        if named or SECRET_SHAPE.search(str(value)):
            name = "HF_TOKEN" if str(value).startswith("hf_") else "OWUI_TOKEN=... or OPENAI_API_KEY"
            if ".load_dataset" in key:
                name = "HF_TOKEN"
            elif key.startswith(("data.", "training.additional_output_paths")):
                name = "AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY (of other file systems their own names)"
            if "pseudonym" in key or re.fullmatch("[0-9a-fA-F]{64,}", str(value)):
                name = "PSEUDONYM_KEY"
            raise ConfigError(
                f"{source.name}: {key} holds a secret (not shown). Remove it there and write the line "
                f"'{name}=...' into the file .env instead; git ignores that file."
            )


def explained(error: ValidationError, what: str) -> str:
    """All mistakes of a configuration in one text. What may be a secret is not shown: below unknown keys, or long."""
    lines: list[str] = []
    for mistake in error.errors():
        key, received = ".".join(map(str, mistake["loc"])), repr(mistake["input"])
        message = str(mistake["msg"])
        if mistake["type"] == "string_pattern_mismatch" and mistake["ctx"]["pattern"] == NAME:
            message = "use small letters a to z, digits and _ only, a letter first"
        told = [message]
        if mistake["type"] == "value_error":  # of a validator here, which may find several
            told = str(mistake["ctx"]["error"]).split("\n")
        elif mistake["type"] == "extra_forbidden":
            told = ["unknown key"]
        elif mistake["type"] != "missing" and len(received) <= 40:
            told = [f"{message}; received {received}"]
        lines += [f"  {key}: {each}" if key else f"  {each}" for each in told]
    count = f"{len(lines)} mistake" + ("s" if len(lines) > 1 else "")
    return f"{what} has {count}:\n" + "\n".join(lines)
