"""What one server accepts: a field that it refuses is left out from then on, and that is said once."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from helpers.endpoint.failures import Refusal

Messages = Sequence[Mapping[str, str]]

OPTIONAL = ("temperature", "seed", "stop", "stream")
"""Fields that a request can do without; replies are cut at `stop` here as well."""
SYSTEM = "system message"
INSTEAD = {SYSTEM: "; its words stand before the first question", "max_tokens": "; max_completion_tokens is sent"}
THINKING_TOKENS = 2048  # room for thoughts before an answer

_TOO_LONG = re.compile(
    r"context (length|window|size)|(prompt|input|max_tokens\W*) is too (long|large)|too many tokens|"
    r"exceeds?\b.*\b(token|context)|max\w*_tokens\W+(must be )?(at most|less than)",
    re.IGNORECASE,
)
_REFUSES = re.compile(r"support|permitted|allowed|unknown|unrecogni|unexpected|invalid|roles? must", re.IGNORECASE)
_NO_SYSTEM = re.compile(r"system\W+(role|message|prompt|turn)|roles? (must|\w+ not)|only user and", re.IGNORECASE)


class Accepted:
    """The fields of requests to one server. `extra`: those of `endpoint.extra`, always sent.

    `refused` names what is not sent any more and why, in the order in which that was found out; `thinks` says whether
    the model thinks before it writes; then it gets `room` for that, in tokens. `tell` prints news once.
    """

    def __init__(self, extra: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        self.extra, self.refused, self.thinks, self.room = dict(extra), dict[str, str](), False, 0
        self._tell = tell

    def fields(self, messages: Messages, wanted: Mapping[str, Any], room: int) -> dict[str, Any]:
        """The fields of a request, as far as the server accepts what is `wanted`; `room`: tokens for thoughts."""
        fields = {"messages": [dict(message) for message in messages], "stream": False, **wanted}
        fields["max_tokens"] += room
        if "max_tokens" in self.refused:
            fields["max_completion_tokens"] = fields.pop("max_tokens")
        if SYSTEM in self.refused and fields["messages"][0]["role"] == "system":
            told, first, *rest = fields["messages"]
            fields["messages"] = [{**first, "content": f"{told['content']}\n\n{first['content']}"}, *rest]
        kept = {name: value for name, value in fields.items() if name not in self.refused}
        return kept | ({"extra_body": self.extra} if self.extra else {})

    def refused_field(self, refusal: Refusal, sent: Mapping[str, Any]) -> str:
        """The optional one of the fields `sent` that a refusal names; empty where it names none."""
        said = refusal.named
        if refusal.status not in (400, 422, 500, 501) or _TOO_LONG.search(refusal.detail):
            return ""
        if refusal.status >= 500 and not _REFUSES.search(said):  # such as "error while reading the stream"
            return ""
        for name in ("max_tokens", "max_completion_tokens", *OPTIONAL):
            if name in sent and re.search(rf"(?<![\w-]){name}(?![\w-])", said, re.IGNORECASE):
                return name
        return SYSTEM if sent["messages"][0]["role"] == "system" and _NO_SYSTEM.search(said) else ""

    def learn(self, refusal: Refusal, sent: Mapping[str, Any], room: int) -> bool:
        """Stop sending the optional field that a refusal names, or halve the `room`; whether anything changes."""
        if room and _TOO_LONG.search(refusal.detail):
            self.room = min(self.room, room // 2)  # requests refused together halve it once
            return True
        if name := self.refused_field(refusal, sent):
            self.refuse(name, f"the server refuses it{INSTEAD.get(name, '')}")
        return bool(name)

    def refuse(self, name: str, why: str) -> None:
        """Send `name` no more."""
        self.refused.setdefault(name, why)
        self._tell(f"requests go without {name} from now on: {self.refused[name]}")

    def leave_room(self) -> None:
        """Give the model room for thoughts before it writes."""
        if not self.thinks:
            self.thinks, self.room = True, THINKING_TOKENS
        self._tell(f"the model thinks before it writes: every reply has {THINKING_TOKENS} more tokens for that")
