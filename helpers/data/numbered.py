"""Ask a chat model for several things in one request, each under its number from 1."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Thing = TypeVar("Thing")


def numbered(key: str, **parts: Any) -> dict[str, Any]:
    """The arguments `schema` and `accept` of `complete_json`, for a reply `{key: [{"number", **parts}]}`.

    `parts` are `str`, or a list that holds the shape of its items: `numbered("texts", text=str)`. `accept`, which a
    reply has to fit, is looser: one odd thing must not cost the others.
    """
    accept = {"type": "object", "properties": {key: {"type": "array"}}, "required": [key]}
    return {"schema": _schema({key: [{"number": int, **parts}]}), "accept": accept}


def by_number(things: Sequence[Any], count: int, read: Callable[[dict[str, Any]], Thing | None]) -> dict[int, Thing]:
    """What `read` finds in the things of a reply, under their numbers less 1; by place if a number is odd or double."""
    found = {
        place: told
        for place, thing in enumerate(things)
        if isinstance(thing, dict) and (told := read(thing)) is not None
    }
    known = {str(number): number - 1 for number in range(1, count + 1)}
    numbers = [known.get(str(things[place].get("number")), -1) for place in found]
    if len({*numbers} - {-1}) < len(numbers):
        return found
    return dict(zip(numbers, found.values(), strict=True))


def _schema(shape: Any) -> dict[str, Any]:
    """The JSON schema of a shape, whose objects have all of their keys and no others."""
    if isinstance(shape, dict):
        inner = {key: _schema(value) for key, value in shape.items()}
        return {"type": "object", "properties": inner, "required": [*shape], "additionalProperties": False}
    if isinstance(shape, list):
        return {"type": "array", "items": _schema(shape[0])}
    return {"type": {int: "integer", str: "string"}[shape]}
