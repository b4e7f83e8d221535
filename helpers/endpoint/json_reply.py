"""Find the JSON object in what a model wrote, and hold it against a JSON schema."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]


def find_object(text: str, schema: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the first object in a text that fits a schema, else None and what was wrong.

    Args:
        text: a reply, perhaps with words or a code fence around the object, or a reasoning model's thoughts.
        schema: JSON Schema of the object.
    """
    fault = "no JSON object"
    for found in _objects(text.rpartition("</think>")[2]):
        if (violation := _violation(found, schema)) is None:
            return found, ""
        fault = f"no JSON object that fits the schema ({violation[:200]})"
    return None, fault


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in a text, in order."""
    end = 0
    for brace in re.finditer(r"\{", text):
        if brace.start() < end:
            continue
        try:
            found, end = json.JSONDecoder().raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        yield found


def _violation(found: dict[str, Any], schema: dict[str, Any]) -> str | None:
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(found))
    return None if error is None else str(error.message)
