"""A table read from an S3 server, and checkpoints copied to it."""

import logging
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from datasets import Dataset, load_from_disk
from moto.server import ThreadedMotoServer
from safetensors.torch import load_file

from helpers.course import main
from helpers.errors import ConfigError, DataError
from helpers.files import read_json, write_atomic
from helpers.storage import copy_model, fetch
from helpers.training.callbacks import Copies


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(endpoint_url=address)
    system.mkdir("bucket")
    yield address, system
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST"))  # its state outlives it
    server.stop()


def options(address: str, *more: str) -> list[str]:
    table = f"{{load_from_disk: {{dataset_path: s3://bucket/data, storage_options: {{endpoint_url: '{address}'}}}}}}"
    copies = f"[{{address: s3://bucket/copies, endpoint_url: '{address}'}}]"
    settings = {
        "data.source": table,
        "training.adapters": "{four_bit: nf4}",
        "training.additional_output_paths": copies,
        "training_arguments": "{max_steps: 8, save_steps: 3}",
    }
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")] + [*more]


def test_a_dataset_on_s3_is_learnt_and_its_checkpoints_are_copied_there(s3: Any, tmp_path: Path) -> None:
    address, system = s3
    rows = [
        {
            "input": f"What costs ticket {n}?",
            "contexts": [f"Ticket {n}: {n} euros.", "Sundays: free."],
            "response": f"{n} euros",
        }
        for n in range(30)
    ]
    Dataset.from_list(rows).save_to_disk("s3://bucket/data", storage_options={"endpoint_url": address})
    run = tmp_path / "run"
    common = ["--conf", "smoke", "--run", str(run), *options(address)]
    assert main(["prepare", *common]) == 0
    card = read_json(run / "dataset" / "card.json")
    assert card["rows_read"] == card["rows_kept"] == 30
    tokens = load_from_disk(run / "dataset" / "tokenised")["train"]
    assert {*tokens.column_names} == {"input_ids", "labels", "attention_mask", "full_text"}
    assert any("Ticket 7: 7 euros.\n\nSundays: free.\n\nWhat costs ticket 7?" in text for text in tokens["full_text"])
    assert main(["fine-tune", *common]) == 0
    system.invalidate_cache()
    here = run / "models" / "four_bit"
    there = {name.removeprefix("bucket/copies/run/four_bit/") for name in system.find("bucket/copies")}
    assert there == {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    system.get("bucket/copies/run/four_bit/adapter_model.safetensors", str(tmp_path / "back.safetensors"))
    assert (
        load_file(str(tmp_path / "back.safetensors")).keys()
        == load_file(str(here / "adapter_model.safetensors")).keys()
    )


def test_every_checkpoint_is_copied_and_a_lost_server_does_not_stop_training(
    s3: Any, tmp_path: Path, capsys: Any
) -> None:
    address, system = s3
    folder = tmp_path / "run" / "models" / "a"
    copies = Copies(folder, [{"address": "s3://bucket/copies", "endpoint_url": address}, str(tmp_path / "also")])
    write_atomic(folder / "checkpoints" / "data.sha256", "1")
    copies.on_train_begin()
    for step in (3, 6):
        shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step - 3}", ignore_errors=True)
        write_atomic(folder / "checkpoints" / f"checkpoint-{step}" / "weights", str(step))
        copies.on_save()
        system.invalidate_cache()
        kept = ["data.sha256", f"checkpoint-{step}/weights"]
        assert {*system.find("bucket/copies")} == {f"bucket/copies/run/a/checkpoints/{name}" for name in kept}
        assert (tmp_path / "also/run/a/checkpoints" / kept[1]).read_text() == str(step)
    system.rm("bucket", recursive=True)
    copies.on_save()
    assert "s3://bucket/copies/run/a cannot be written" in capsys.readouterr().out
    with pytest.raises(DataError, match="cannot be written"):
        copies.on_train_begin()


def test_s3_without_credentials_says_what_to_do(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address, _ = s3
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match="AWS_ACCESS_KEY_ID"):
        fetch("s3://bucket/faq.csv", {"endpoint_url": address})


def test_a_server_that_is_not_there_is_told_from_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/faq\.csv cannot be read \(ClientConnector"):
        fetch("http://127.0.0.1:9/faq.csv", {})
    with pytest.raises(DataError, match="there is no such file or bucket"):
        fetch(str(tmp_path / "faq.csv"), {})


def test_a_copy_destroys_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "models" / "a"
    write_atomic(tmp_path / "copies" / "run" / "a" / "adapter_model.safetensors", "of an earlier run")
    write_atomic(folder / "checkpoints" / "data.sha256", "1")
    Copies(folder, [f"{tmp_path}/copies/"]).on_train_begin()
    assert (tmp_path / "copies" / "run" / "a" / "adapter_model.safetensors").exists()
    assert (tmp_path / "copies" / "run" / "a" / "checkpoints" / "data.sha256").exists()
    for address in ("", "/", str(tmp_path), str(folder), f"{tmp_path}/mine::copies"):
        with pytest.raises(ConfigError, match="additional_output_paths"):
            copy_model(folder, [address])


def test_an_address_is_read_anew(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    more = ["--conf", "smoke", "--run", str(tmp_path / "run"), "--data", f"file://{table}"]
    for price in ("low", "high"):
        table.write_text("question,answer\n" + "".join(f"What costs {n}?,{price} {n}\n" for n in range(12)))
        assert main(["prepare", *more, "--set", "data.split.validation=0"]) == 0
        assert price in (tmp_path / "run" / "dataset" / "train.jsonl").read_text()
    assert {*load_from_disk(tmp_path / "run" / "dataset" / "tokenised")} == {"train", "test"}
