"""Work on many items whose results are found again after a kill."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from helpers.errors import RunError
from helpers.files import read_jsonl, write_jsonl
from helpers.resumable import Results, resumable_map


def squares(numbers: list[int], path: Path, *, fail_at: int | None = None, asked: list[int] | None = None) -> Results:
    """Two results for each number; those of one number are shared."""

    def work(number: int, found: Results) -> Iterator[dict[str, Any] | list[dict[str, Any]]]:
        for power in (2, 3):
            if found.get((number, power)) is None:
                if number == fail_at and power == 3:
                    raise ValueError(number)
                if asked is not None:
                    asked.append(number)
                yield {"of": number, "power": power, "is": number**power}

    return resumable_map(
        numbers,
        work,
        path=path,
        fields=("of", "power", "is"),
        keys=lambda number: [(number, 2), (number, 3)],
        key=lambda row: (row["of"], row["power"]),
        parallel=3,
        title="powers",
        keep=lambda row: row["is"] is not None,
    )


def test_items_with_one_key_share_a_result(tmp_path: Path) -> None:
    asked: list[int] = []
    found = squares([4, 2, 4, 4], tmp_path / "p.jsonl", asked=asked)
    assert sorted(asked) == [2, 2, 4, 4] and len(read_jsonl(tmp_path / "p.jsonl")) == 4
    assert [found[number, power]["is"] for number in (4, 2, 4) for power in (2, 3)] == [16, 64, 4, 8, 16, 64]
    with pytest.raises(KeyError):
        found[3, 2]


def test_a_failure_keeps_what_was_made_and_only_the_rest_is_done_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "p.jsonl", list[int]()
    with pytest.raises(ValueError, match="7"):
        squares([*range(20)], path, fail_at=7)
    kept = read_jsonl(path)
    assert {"of": 7, "power": 2, "is": 49} in kept and len(kept) < 40
    with path.open("ab") as file:
        file.write(b'{"of": 19, "pow')  # a kill
    squares([*range(20)], path, asked=asked)
    assert len(asked) == 40 - len(kept)
    assert sorted(row["is"] for row in read_jsonl(path)) == sorted(n**power for n in range(20) for power in (2, 3))


def test_a_result_that_does_not_count_is_made_again_and_the_newest_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_jsonl(path, [{"of": 3, "power": 2, "is": None}, {"of": 3, "power": 3, "is": 27}])
    found = squares([3], path)
    assert found[3, 2]["is"] == 9 and len(read_jsonl(path)) == 3


def test_results_stay_when_their_file_is_replaced_and_threads_may_read(tmp_path: Path) -> None:
    path, wrong = tmp_path / "p.jsonl", list[int]()
    found = squares([*range(200)], path)
    write_jsonl(path, (found[number, 2] for number in reversed(range(200))))
    assert [row["of"] for row in read_jsonl(path)] == [*reversed(range(200))]

    def read() -> None:
        wrong.extend(number for number in range(200) if found[number, 3]["is"] != number**3)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong


def test_another_process_at_the_same_work_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with FileLock(tmp_path / ".p.jsonl.lock"), pytest.raises(RunError, match="Another process is writing"):
        squares([1], path)
    assert squares([1], path)[1, 2]["is"] == 1


def test_a_full_temporary_folder_is_explained(tmp_path: Path) -> None:
    found = squares([1], tmp_path / "p.jsonl")
    found._places.execute("PRAGMA max_page_count = 2")
    with pytest.raises(RunError, match=r"SQLite cannot write its temporary file .*TMPDIR"):
        for number in range(10_000):
            found.add(number, number)


def test_a_record_that_lacks_a_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_jsonl(path, [{"of": 2, "power": 2, "is": 4}, {"power": 3}])
    with pytest.raises(RunError, match=r"p\.jsonl: record 2 lacks of and is\. Delete its line"):
        squares([2], path)
    assert len(read_jsonl(path)) == 2
