"""The declaration of holders, joins and templates: read whole, refused whole."""

from pathlib import Path

import pytest

from helpers.data.holders.pipeline import load_pipeline
from helpers.errors import ConfigError
from helpers.run import EXAMPLES

EXAMPLE = EXAMPLES / "providers" / "pipeline.yaml"


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    """The example's pipeline with some of its text replaced."""
    text = EXAMPLE.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_is_read() -> None:
    pipeline = load_pipeline(EXAMPLE)
    assert [holder.name for holder in pipeline.holders] == ["hospital", "pharmacy", "insurer"]
    assert pipeline.joins[0].on == ["patient", "episode"]  # `on` is a truth value in YAML 1.1
    assert pipeline.holders[2].names == ["episode", "narrative", "condition"]
    assert pipeline.fictitious
    assert [path.name for path in pipeline.files] == [
        "pipeline.yaml",
        "hospital.jsonl",
        "pharmacy.csv",
        "insurer.csv",
        "planted.jsonl",
    ]
    assert all(path.is_file() for path in pipeline.files)


@pytest.mark.parametrize("path", sorted((EXAMPLES / "providers" / "public").glob("*.yaml")), ids=lambda path: path.stem)
def test_public_sets_are_declared_row_by_row_and_not_fictitious(path: Path) -> None:
    pipeline = load_pipeline(path)
    assert [holder.unit for holder in pipeline.holders] == ["patient" if path.stem == "phee" else "row"]
    assert not pipeline.fictitious


def test_one_holder_that_says_nothing_makes_the_whole_not_fictitious(tmp_path: Path) -> None:
    declared = "name: pharmacy\n    fictitious: true"
    assert not load_pipeline(changed(tmp_path, (declared, declared.replace("true", "false")))).fictitious
    path = changed(tmp_path, (declared, "name: pharmacy"))
    with pytest.raises(ConfigError, match=r"holders\.1\.fictitious: Field required"):
        load_pipeline(path)


def test_mistakes_of_shape_come_together_and_unknown_keys_are_not_repeated(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        ("cap: 32", "cap: 0\npseudonym_key: 5ecre7"),
        ("format: csv", "format: xls"),
        ("how: inner", "how: outer"),
    )
    with pytest.raises(ConfigError) as raised:
        load_pipeline(path)
    message = str(raised.value)
    assert "has 4 mistakes" in message
    for part in ("cap:", "pseudonym_key: unknown key", "holders.1.format", "joins.0.how"):
        assert part in message
    assert "5ecre7" not in message
    assert raised.value.__cause__ is None


def test_a_key_in_place_of_the_key_column_is_not_repeated(tmp_path: Path) -> None:
    path = changed(tmp_path, ("key: {column: telephone, kind: phone, region: FR}", f"key: '{'9f8e7d6c' * 8}'"))
    with pytest.raises(ConfigError, match=r"holders\.1\.key: ") as raised:
        load_pipeline(path)
    assert "9f8e" not in str(raised.value)


def test_parts_that_do_not_fit_come_together(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        ("coded: [episode, drug, dose]", "coded: [drug, dose, colour]"),
        ("left: hospital, right: insurer", "left: hospital, right: bank"),
        ("{hospital.note} Which drug", "{hospital.notes} Which drug"),
        ("by: hospital.service", "by: hospital.ward"),
        ("validation: 0.1", "validation: 0.9"),
        ("region: FR}", "region: FR, column: x}"),
        ('hospital.episode: ["{episode}"]', 'hospital.episode: ["{day} {month}"]'),
    )
    text = path.read_text(encoding="utf-8").replace("region: FR, column: x}", "region: FR}")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_pipeline(path)
    message = str(raised.value)
    for part in (
        "has 8 mistakes",
        "holders.pharmacy.coded: 'colour' is not among its columns",
        "joins.0.on: 'episode' must be a coded column of pharmacy",
        "joins.1.right: 'bank' is no holder",
        "joins: nothing joins 'insurer'",
        "templates.0: 'hospital.notes' is no column",
        "split.by: 'hospital.ward' is no column",
        "leave nothing to train on",
        "'month' is not in lookalike.vocabulary",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    file: hospital.jsonl\n", "", "exactly one of file and load_dataset"),
        ("    format: jsonl ", "    unit: patient ", "file and format"),
        ("    key: {column: mobile, kind: phone, region: FR}", "", "say 'unit: row'"),
        ("kind: phone, region: FR}", "kind: phone}", "region"),
        ("    format: jsonl ", "    unit: row\n    format: jsonl ", "stands alone"),
        ("on: [patient, episode], how: inner", "on: [episode], how: inner", "must hold 'patient'"),
        ("name: pharmacy", "name: hospital", "declared twice"),
        ('answer: "{pharmacy.drug}"}', 'answer: ""}', "give question and answer, or a text alone"),
        ('answer: "{pharmacy.drug}"}', 'answer: "{pharmacy.drug}", text: "all of it"}', "or a text alone"),
        ("columns: {episode: visit,", "columns: {patient: visit,", "must differ"),
        ("    format: jsonl ", "    separator: ;\n    format: jsonl ", "separator goes with csv; format is jsonl"),
        ("    format: jsonl ", "    sheet: a\n    format: jsonl ", "sheet goes with xlsx; format is jsonl"),
        ("columns: {episode: visit,", "columns: {episode: mobile,", "'episode' holds keys or names of persons"),
        ("columns: {episode: visit,", "columns: {episode: family_name,", "'episode' holds keys or names of persons"),
        (
            "{hospital.note} Which drug",
            "{hospital.Compte rendu} Which drug",
            "'{hospital.Compte rendu} Which ' is no slot; write {holder.column}",
        ),
        (
            "{hospital.note} Which drug",
            "{hospital.note Which drug",
            "'{hospital.note Which drug is s' is no slot",
        ),
        ("{hospital.note} Which drug", "{{hospital.note}} Which drug", "'{{hospital.note}}' would stay as it is"),
        (
            "templates:  ",
            'templates:\n  - {text: "no column"}\n  #',
            "templates.0: it has no column; write {holder.column}",
        ),
        ('hospital.episode: ["{episode}"]', 'hospital.episode: ["{episode"]', "'{episode' is no slot; write {word}"),
        (
            "name: pharmacy\n",
            "name: Pharmacie\n",
            "holders.1.name: use small letters a to z, digits and _ only, a letter first; received 'Pharmacie'",
        ),
    ],
)
def test_a_part_that_does_not_fit(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_pipeline(changed(tmp_path, (old, new)))
    assert message in str(raised.value)


def test_a_pipeline_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml cannot be read: No such file.* Check its name"):
        load_pipeline(tmp_path / "x.yaml")


@pytest.mark.parametrize("content", ["holders: [", "- 1\n", "", "path: /etc\n"])
def test_a_file_that_is_no_pipeline(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load_pipeline(tmp_path / "x.yaml")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        load_pipeline(tmp_path / "nowhere.yaml")


def test_a_local_set_is_among_the_files_that_decide(tmp_path: Path) -> None:
    path = tmp_path / "phee.yaml"
    path.write_text((EXAMPLES / "providers" / "public" / "phee.yaml").read_text("utf-8"), encoding="utf-8")
    (tmp_path / "phee.jsonl").write_text("{}\n", encoding="utf-8")
    assert [file.name for file in load_pipeline(path).files] == ["phee.yaml", "phee.jsonl"]
