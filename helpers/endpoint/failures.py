"""Turn whatever a chat endpoint does wrong into one sentence with a remedy, in which no API key is left."""

import re
from dataclasses import dataclass, field

import openai

from helpers.errors import EndpointError, RequestRejected


@dataclass(frozen=True)
class Failures:
    """Words the failures of one endpoint; its attributes are those of `ChatEndpoint`."""

    base_url: str
    key: str = field(repr=False)
    timeout_s: float
    max_attempts: int
    max_wait_s: float

    def error(self, predicate: str, kind: type[EndpointError] = EndpointError) -> EndpointError:
        """The error "The chat endpoint <address> <predicate>."."""
        return kind(self._redact(f"The chat endpoint {self.base_url} {predicate}."))

    def shorten(self, text: str) -> str:
        """The start of a text of the server, on one line and without the key."""
        text = " ".join(self._redact(text).split())  # Redact first: half a key is a leak too.
        return text if len(text) <= 200 else f"{text[:200]}..."

    def explain(self, error: openai.OpenAIError) -> EndpointError:
        """Translate an error of the `openai` library."""
        match error:
            case openai.APITimeoutError():
                return self.error(
                    f"did not answer within {self.timeout_s:g} s; see whether it is overloaded, lower "
                    "endpoint.parallel_requests or raise endpoint.timeout_s"
                )
            case openai.APIConnectionError():
                return self.error(
                    f"cannot be reached, or broke off its answer ({self.shorten(str(error.__cause__))}); "
                    "check that it runs and that endpoint.base_url is right"
                )
            case openai.APIStatusError():
                return self._of_status(error)
        return self.error(f"could not be used: {self.shorten(str(error))}; check the endpoint settings")

    def not_json(self, text: str) -> EndpointError:
        """Describe a successful answer that is no JSON object."""
        if _is_web_page(text):
            return self.error(f"answered with a web page (HTML) where JSON was expected; {self._paths()}")
        return self.error(
            f"answered with something that is no whole JSON object: {self.shorten(text)!r}; run again, and "
            "check endpoint.base_url if it persists"
        )

    def _of_status(self, error: openai.APIStatusError) -> EndpointError:
        status, body = error.status_code, error.body if isinstance(error.body, dict) else {}
        detail = str(body.get("message") or body.get("detail") or error.response.text or "no reason given")
        detail = "a web page" if _is_web_page(detail) else self.shorten(detail)
        said = f"answered {status} ({detail})"
        if status in (401, 403):
            return self.error(f"{said}: it refuses the API key; set OPENAI_API_KEY or OWUI_TOKEN anew")
        if status in (400, 404) and re.search(r"\bmodel\b.*\bnot\b.*\b(found|exist)", detail, re.IGNORECASE):
            return self.error(f"{said}: it does not offer the model; set endpoint.model to one it lists")
        if status in (404, 405):
            return self.error(f"{said}: nothing is served at this path; {self._paths()}")
        if status == 429:
            asked = error.response.headers.get("retry-after", "")
            wait = f", asks to wait {asked} s" if re.fullmatch(r"[\d.]+", asked) else ""
            return self.error(
                f"{said}: it takes no more requests for now{wait}, and {self.max_attempts} attempts or "
                f"{self.max_wait_s:g} s are used up; run again later, lower endpoint.parallel_requests or "
                "raise endpoint.max_wait_s"
            )
        if status >= 500 and status != 501:
            return self.error(f"{said}: it fails; look at its log, or run again later")
        if status in (400, 422, 501):
            return self.error(f"{said}: it rejects the request; check the endpoint settings", RequestRejected)
        return self.error(f"{said}; check the endpoint settings")

    def _paths(self) -> str:
        root = re.sub(r"(/api|/openai)?(/v\d+)?$", "", self.base_url)
        return f"for Open WebUI the address is {root}/api, for most other servers {root}/v1"

    def _redact(self, text: str) -> str:
        return text.replace(self.key, "[API key]") if self.key else text


def _is_web_page(text: str) -> bool:
    return text.lstrip().lower().startswith(("<!doctype", "<html"))
