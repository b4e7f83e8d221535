"""A chat server that answers the course's writing and judging prompts well, and the same way each time."""

import json
import re
from typing import Any

from scripted_server import Response, ScriptedServer, completion, failure

ANSWER = re.compile(r"[^\n]*\n(.+?) = (.+?)\.(?: |$)", re.DOTALL)
QUESTION = re.compile(r"(.+), [^:]+: \1", re.DOTALL)


def reply(body: dict[str, Any]) -> str:
    """What the writer or judge says to a request; questions carry the request's seed, so that they differ."""
    last = body["messages"][-1]["content"]
    if "response_format" in body:
        verdict = "correct" if "do not know" in last else "incorrect"
        return json.dumps({"verdict": verdict, "reason": f"{len(last)} characters"})
    if found := ANSWER.match(last):
        link = "is abbreviated" if "is abbreviated" in body["messages"][2]["content"] else "stands for"
        return f"{found[1]} {link} {found[2]}."
    told = body["messages"][0]["content"]
    if (found := QUESTION.fullmatch(last)) and "en français" in told:
        if "ce que signifient" in told:
            return f"Le ticket {body['seed']} parle de {found[1]}. Que signifie ce sigle ?"
        return f"Le ticket {body['seed']} parle de {found[1]}. Quel est le sigle ?"
    if found := QUESTION.fullmatch(last):
        if "what acronyms mean" in body["messages"][0]["content"]:
            return f"Ticket {body['seed']} says {found[1]}. Could you spell out what is meant?"
        return f"Ticket {body['seed']} needs the short code for {found[1]}. Which one?"
    if "word questions anew" in body["messages"][0]["content"]:
        return f"Please tell me by letter: {last}" if body["seed"] % 3 else last  # every third says nothing new
    return "I cannot help."


class Talker(ScriptedServer):
    """Answers until request `fail_from` (counted from 0), and from there on gives `fails_with`."""

    def __init__(self) -> None:
        self.fail_from: int | None = None
        self.fails_with: Response = failure(500)
        self.delay_s = 0.0
        super().__init__(self._say)

    @property
    def base_url(self) -> str:
        """The address for `endpoint.base_url`."""
        return f"{self.url}/v1"

    def _say(self, number: int, _: str, body: dict[str, Any]) -> Response:
        if self.fail_from is not None and number >= self.fail_from:
            return self.fails_with
        said = completion(reply(body))
        return Response(said.status, said.headers, said.body, self.delay_s)
