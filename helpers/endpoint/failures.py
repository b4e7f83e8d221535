"""Turn whatever a chat endpoint does wrong into one sentence with a remedy, in which no API key is left."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from helpers.config import Endpoint
from helpers.errors import EndpointError, RequestRejected, UnreadableReply


class Refusal(Exception):
    """An answer with an error status, or with an error in place of a reply."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.text, self.headers = status, text, headers or {}

        found, self._field = None, ""
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
        if isinstance(found, list) and len(found) == 1:  # Gemini's
            [found] = found
        while isinstance(found, dict):
            self._field = self._field or str(found.get("param") or "")
            found = next((found[name] for name in ("error", "message", "detail") if found.get(name)), None)
        self._said = found

    @property
    def detail(self) -> str:
        """The server's own words."""
        return str(self._said or self.text or "no reason given")

    @property
    def loading(self) -> bool:
        """Whether the server is up and its model not yet."""
        return self.status == 503 and re.search(_LOADING, self.detail, re.I | re.S) is not None

    @property
    def named(self) -> str:
        """What the refusal is about: the field that it names apart, else its words without what they repeat of ours."""
        items = self._said if isinstance(self._said, list) else []
        places = [item["loc"] for item in items if isinstance(item, dict) and item.get("loc")]
        return self._field or str(places or "") or re.sub(r"\{.*\}", "", self.detail, flags=re.DOTALL)

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later; not where credit is used up, or a format is not implemented."""
        for_now = self.status == 429 and re.search(_FOR_NOW, self.detail, re.I)
        used_up = self.status in _OF_ACCOUNTS and re.search(_NO_CREDIT, self.detail, re.I) and not for_now
        if self.status == 501 or used_up:
            return False
        told = self.headers.get("x-should-retry")  # what OpenAI's servers know of it
        return told == "true" or (told != "false" and (self.status in (408, 409, 429) or self.status >= 500))

    @property
    def wait_s(self) -> float:
        """Seconds that the server asks to wait, as a number or a date; 0 where it does not."""
        asked = self.headers.get("retry-after", "")
        with suppress(ValueError):
            return float(asked)
        with suppress(ValueError, TypeError, OverflowError):
            return max(0.0, (parsedate_to_datetime(asked).astimezone(UTC) - datetime.now(UTC)).total_seconds())
        return 0.0


@dataclass(frozen=True)
class Failures:
    """Words the failures of one endpoint; `place` is its address without secrets."""

    place: str
    key: str = field(repr=False)
    settings: Endpoint

    def error(self, predicate: str, kind: type[EndpointError] = EndpointError) -> EndpointError:
        """The error "The chat endpoint <address> <predicate>."."""
        return kind(f"The chat endpoint {self.place} {predicate}.")

    def shorten(self, text: str) -> str:
        """The start of a text of the server, on one line and without the key."""
        text = " ".join(self.redact(text).split())  # Redact first: half a key is a leak too.
        return text if len(text) <= 200 else f"{text[:200]}..."

    def explain(self, error: Exception) -> EndpointError:
        """Translate a refusal, or an error of the `openai` library."""
        import openai

        match error:
            case Refusal():
                return self._refused(error)
            case openai.APITimeoutError():
                return self.error(
                    f"did not answer within {self.settings.timeout_s:g} s; see whether it is overloaded, lower "
                    "endpoint.parallel_requests or raise endpoint.timeout_s"
                )
            case openai.APIConnectionError():
                cause = self.shorten(str(error.__cause__))
                if "CERTIFICATE" in cause.upper():
                    return self.error(
                        f"shows a certificate that this machine does not trust ({cause}); put SSL_CERT_FILE=<path of "
                        "your organisation's certificates, a .pem file> into .env"
                    )
                return self.error(
                    f"cannot be reached, or broke off its answer ({cause}); check that it runs, that endpoint.base_url "
                    "is right, and the proxy if one is set"
                )
        # What other errors say may hold parts of the address or of a proxy's, with their passwords.
        return self.error(f"could not be asked ({type(error).__name__}); check its address and the proxy's")

    def not_json(self, text: str) -> EndpointError:
        """Describe a successful answer that is no JSON object: an attempt that came to nothing."""
        said = f"something that is no whole JSON object: {self.shorten(text)!r}; check endpoint.base_url if it persists"
        if _is_web_page(text):
            said = "a web page (HTML) where JSON was expected; check endpoint.base_url"
        return self.error(f"answered with {said}", UnreadableReply)

    def _refused(self, refusal: Refusal) -> EndpointError:
        status, wait_s = refusal.status, refusal.wait_s
        detail = "a web page" if _is_web_page(refusal.detail) else self.shorten(refusal.detail)
        place = self.shorten(refusal.headers.get("location", "").partition("?")[0])
        told = self.settings.model_dump() | {
            "place": place or "an address that it does not name",
            "wait": f", asks to wait {wait_s:.0f} s" if 0 < wait_s < float("inf") else "",
        }
        for (pattern, statuses), cure in _CURES.items():
            if status in statuses and re.search(pattern, f"{detail} {place}".strip(), re.I):
                kind = RequestRejected if cure in (_FILTERED, _REJECTED) else EndpointError
                return self.error(f"answered {status} ({detail}): {cure.format_map(told)}", kind)
        return self.error(f"answered {status} ({detail}); check the endpoint settings")

    def redact(self, text: str) -> str:
        """A text of the server without the key, which some servers repeat, and without half characters."""
        text = text.encode("utf-8", "replace").decode()
        return re.sub(rf"(?<!\w){re.escape(self.key)}(?!\w)", "[API key]", text) if self.key else text


_LOADING = (
    r"^(?!.*(overload|heavy|upstream)).*\b(loading|warming up|starting up|being loaded|not (yet )?(loaded|ready))\b"
)
_NO_CREDIT = r"quota|billing|credit|insufficient.(funds|balance)|payment"
_OF_ACCOUNTS = (402, 403, 429)
_FOR_NOW = r"per.?(minute|second|hour)|retry in|check quota"  # a limit that passes, whatever word it has for it
_FILTERED = "its filter held the request back"
_REJECTED = "it rejects the request; check the endpoint settings"
_ADMINISTRATOR = "ask its administrator to"
_BAD_KEY = (
    "it refuses the API key: the key is wrong, has expired, or the server takes no API keys; set OPENAI_API_KEY or "
    "OWUI_TOKEN anew"
)
_TOO_MANY = (
    "it takes no more requests for now{wait}, and {max_attempts} attempts or {max_wait_s:g} s are used up; run again "
    "later, lower endpoint.parallel_requests or raise endpoint.max_wait_s"
)
_SERVER_FAULTS = range(500, 10**9)  # an error in a reply with status 200 may have any code
_CURES: dict[tuple[str, Sequence[int]], str] = {
    (r"content.?(filter|management|policy)|safety system", (400, 403, 422)): _FILTERED,
    (_FOR_NOW, (429,)): _TOO_MANY,
    (_NO_CREDIT, _OF_ACCOUNTS): "the account has no credit left; top it up, or choose another server",
    (r"connection error|connection refused|cannot connect|upstream|bad gateway|backend", (400, *range(500, 600))): (
        f"it runs, but the model server behind it does not answer; {_ADMINISTRATOR} start that one"
    ),
    (r"\bapi.?keys?\b.*\b(not enabled|disabled)", (401, 403)): (
        f"it takes no API keys; {_ADMINISTRATOR} allow them (Open WebUI: Admin Panel > Settings > General)"
    ),
    (r"\bapi.?key.*\b(endpoint|path|route)", (401, 403)): (
        f"the API key is restricted to other paths; {_ADMINISTRATOR} allow it /api/models and /api/chat/completions"
    ),
    (r"permission to access|administrator", (401, 403)): (
        f"the account may not use this; {_ADMINISTRATOR} approve it and give it access to the model"
    ),
    (r"permission|access|forbidden", (403,)): (
        f"the account may not use this; {_ADMINISTRATOR} give it access to the model"
    ),
    (r"^a web page$", (403,)): "a firewall or proxy in front of the server refuses; ask its administrator",
    (r"\bapi.?key( is| was)? (not valid|invalid|incorrect)|(invalid|incorrect).api.?key", range(400, 10**9)): _BAD_KEY,
    ("", (401, 403)): _BAD_KEY,
    (r"\bmodel\b[^.]*(deprecated|retired|decommissioned|no longer (available|supported))", (400, 404, 410)): (
        "it does not offer the model any more; set endpoint.model to one it lists"
    ),
    (r"login|signin|sign_in|/sso|/auth\b", (302, 303, 307)): (
        "it wants a login in a browser; set an address that takes an API key"
    ),
    (r"\bmodel\b.*\bnot\b.*\b(found|exist)|no such model|unknown model", (400, 404)): (
        "it does not offer the model; set endpoint.model to one it lists"
    ),
    ("", range(300, 400)): "it has moved to {place}; write that address in place of its own",
    ("", (404, 405)): "nothing is served at this path; check endpoint.base_url",
    ("", (429,)): _TOO_MANY,
    (_LOADING, (503,)): (
        "its model was not loaded after {loading_s:g} s; run again later, or raise endpoint.loading_s"
    ),
    ("", (400, 413, 422, 501)): _REJECTED,
    ("", _SERVER_FAULTS): "it fails; look at its log, or run again later",
}
"""A pattern of a server's words and the statuses they come with: what to do. The first that fits counts."""


def _is_web_page(text: str) -> bool:
    return text.lstrip().lower().startswith(("<!doctype", "<html"))
