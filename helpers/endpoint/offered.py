"""What a server offers: the address of its methods, and the model that is asked."""

import re

from helpers.endpoint.failures import Refusal
from helpers.endpoint.transport import Answer, Transport
from helpers.errors import EndpointError
from helpers.files import Record
from helpers.server import addresses

NO_MODEL = (
    "lists no model; load one on the server, name one in endpoint.model or, on Open WebUI, ask its administrator to "
    "give your account access to one"
)
_NO_CHAT = re.compile(
    r"embed|rerank|whisper|tts|speech|moderation|dall-e|image|guard|realtime|audio|\bbge\b|\be5\b", re.IGNORECASE
)
_CONTEXT = ("context_length", "max_model_len", "context_window", "max_context_length", "n_ctx", "n_ctx_train")


def find_model(transport: Transport, wanted: str | None) -> tuple[str, int | None]:
    """The model to ask, and its context in tokens where the server tells; the transport's address is set.

    Without a `wanted` one it is the first that chats. That one may be listed with a tag or a prefix, or not at all if
    the server answers for it. Raises EndpointError where the server cannot be used, or does not offer the model.
    """
    items = _listed(transport, wanted)
    offered = [str(item["id"]) for item in items]
    chatting = [name for name in offered if not _NO_CHAT.search(name)] or offered
    if wanted is None and not offered:
        raise transport.failures.error(NO_MODEL)
    model = wanted or chatting[0]
    if offered and model not in offered:
        alike = [name for name in offered if name.endswith(f"/{model}") or name.startswith(f"{model}:")]
        same = [name for name in alike if name == f"{model}:latest"] or alike
        if len(same) == 1:
            model = same[0]
            transport.tell(f"{wanted} is called {model} there")
        elif not isinstance(said := _hello(transport, model), dict):
            if isinstance(said, Refusal) and said.status not in (400, 404, 422):
                raise transport.failures.explain(said)
            raise transport.failures.error(
                f"does not offer the model {wanted!r}; set endpoint.model to one it offers, such as "
                f"{', '.join((same or chatting)[:5])}"
            )
    about = next((item for item in items if item["id"] == model), {})
    numbers = [of.get(name) for of in (about, about.get("meta")) if isinstance(of, dict) for name in _CONTEXT]
    return model, next((number for number in numbers if isinstance(number, int)), None)


def _listed(transport: Transport, wanted: str | None) -> list[Record]:
    """The models that the server lists; its address becomes the first below which it lists any.

    Where it lists none, but answers for the `wanted` model, the list is empty.
    """
    places, failure = addresses(str(transport.client.base_url).rstrip("/")), None
    for transport.client.base_url in places:
        body = transport.models()
        if isinstance(body, Refusal):
            failure = failure or transport.failures.explain(body)
            if body.status not in (404, 405, 501):
                if body.status == 401 or not wanted:
                    raise failure
                places = [str(transport.client.base_url)]  # a key may be good for chat alone
                break
        elif isinstance(body, EndpointError):
            failure = failure or body
        elif isinstance(data := body.get("data"), list):
            return [item for item in data if isinstance(item, dict) and "id" in item]
    for transport.client.base_url in places if wanted else []:
        body = _hello(transport, str(wanted))
        if isinstance(body, dict):
            return []
        if isinstance(body, Refusal) and body.status not in (404, 405):
            raise transport.failures.explain(body)
    transport.client.base_url = places[0]
    if failure is None:
        raise transport.failures.error(NO_MODEL)
    others = ", ".join(addresses(transport.failures.place)[1:])
    raise type(failure)(f"{str(failure).rstrip('.')}. No other address answers either ({others}); copy it again.")


def _hello(transport: Transport, model: str) -> Answer:
    """What a model says to a greeting, or why it says nothing."""
    body = transport.chat([{"role": "user", "content": "Hello"}], {"max_tokens": 8}, model)
    return body if not isinstance(body, dict) or body.get("choices") else EndpointError("no reply")
