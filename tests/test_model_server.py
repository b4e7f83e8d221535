"""A model's folder behind an OpenAI-compatible address."""

from pathlib import Path

import openai
import psutil
import pytest

from helpers.endpoint.child import child_server
from helpers.endpoint.model_server import model_server
from helpers.errors import EndpointError, ModelError
from helpers.models.find import load_tokenizer, resolve_model
from helpers.models.generate import generate_answers
from helpers.models.load import load_base

QUESTION = [{"role": "user", "content": "What does DHAB stand for?"}]


def test_a_served_model_answers_as_it_does_here_and_goes() -> None:
    [wanted] = generate_answers(
        load_base("tiny-random"), load_tokenizer("tiny-random"), [QUESTION], max_new_tokens=8, batch_size=1
    )
    with model_server(Path(resolve_model("tiny-random"))) as url:
        assert url.startswith("http://127.0.0.1:")
        (child,) = (each for each in psutil.Process().children() if "helpers.endpoint.model_server" in each.cmdline())
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
        asked = {"messages": QUESTION, "max_tokens": 8, "temperature": 0}
        reply = client.chat.completions.create(model="tiny-random", **asked)  # type: ignore[call-overload]
        assert (reply.choices[0].message.content or "").strip() == wanted.text
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="another", **asked)  # type: ignore[call-overload]
    assert not child.is_running()


def test_a_folder_without_a_whole_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no whole model"), model_server(tmp_path):
        pass


def test_a_folder_whose_name_would_be_misread_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine@v2"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"mine@v2 cannot be served.*Rename it"), model_server(folder):
        pass


def test_what_went_wrong_in_the_child_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from helpers.endpoint.child import watch_parent\nwatch_parent()\nraise ValueError('no such weights')\n"
    (tmp_path / "breaks.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(
            EndpointError,
            match=r"toy stopped with exit code 1.*is its model whole, and memory free\? It said: .*no such weights",
        ),
        child_server("breaks", title="toy", start_s=20),
    ):
        pass
