"""What a study file may hold: the page and the schema say what the tables say, no more and no less."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from autotune.cli import main
from autotune.errors import SpecError
from autotune.spec import load
from autotune.spec.reference import EXAMPLE, page, schema
from tests.test_spec import GOOD, LINES, SHIPPED, changed, read, values

if TYPE_CHECKING:
    from collections.abc import Iterator

STUDIES = Path(__file__).parents[1] / "studies"
SCHEMA = Draft7Validator(schema())


def keys(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of the schema, those of tables in lists and of tables that a value may stand for among them."""
    for name, field in node.get("properties", {}).items():
        yield f"{path}{name}", field
        yield from keys(field, f"{path}{name}.")
    for inner in [*node.get("anyOf", ()), *node.get("oneOf", ()), *filter(None, [node.get("items")])]:
        yield from keys(inner, path)


def accepts(text: str) -> bool:
    return SCHEMA.is_valid(tomllib.loads(text))


# both are up to date


@pytest.mark.parametrize(("name", "arguments"), [("README.md", []), ("study.schema.json", ["--schema"])])
def test_what_lies_beside_the_studies_is_up_to_date(
    name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reference", *arguments]) == 0
    assert capsys.readouterr().out == (STUDIES / name).read_text(), "run `make reference`"


def test_every_key_has_a_description() -> None:
    every = dict(keys(schema()))
    assert len(every) > 80
    assert [path for path, field in every.items() if len(field.get("description", "")) < 8] == []


def test_nothing_is_left_of_what_only_python_knows() -> None:
    text = json.dumps(schema())
    assert "$ref" not in text
    assert "null" not in text
    Draft7Validator.check_schema(schema())


def test_the_page_has_every_key_and_no_line_that_runs_on() -> None:
    written = page()
    for path, field in keys(schema()):
        name = path.rpartition(".")[2]
        assert f"**`{name}`**" in written or f"## `[{name}]`" in written
        assert " ".join(field["description"].split()) in " ".join(written.split())
    assert max(map(len, written.splitlines())) <= 120


def test_the_page_says_what_is_allowed_and_what_is_usual() -> None:
    lines = page().splitlines()
    assert "- **`first_port`**: whole number from 1 to 65535; by default `9000`." in lines
    assert "- **`num_ctx`**: whole number from 4; required." in lines
    assert '- **`endpoint`**: `"generate"` or `"chat"`; by default `"generate"`.' in lines
    assert "- **`raw`**: `true` or `false`; by default `false`." in lines
    assert "- **`seed`**: whole number from 0; by default `0`." in lines
    assert '- **`until`**: a time of day, as in "07:00"; optional.' in lines
    assert "- **`limits`**: list of tables; optional." in lines
    assert "### A table of `workload.num_predict` or `workload.input_tokens`" in lines


def test_the_example_is_a_study(tmp_path: Path) -> None:
    assert read(EXAMPLE, tmp_path).study.name == "night"
    assert accepts(EXAMPLE)


# the schema accepts what loads


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_name_the_schema_and_keep_to_it(path: Path) -> None:
    text = path.read_text()
    directive = text.splitlines()[1]
    assert directive.startswith("#:schema ")
    named = path.parent / directive.removeprefix("#:schema ")
    assert json.loads(named.read_text()) == schema()
    assert [error.message for error in SCHEMA.iter_errors(tomllib.loads(text))] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('[{ id = "0" }, { cores = "0-1" }]', '["0", { cores = "0-1" }]'),
        ('[{ id = "0" }, { cores = "0-1" }]', '"gpu"'),
        ('[{ id = "0" }, { cores = "0-1" }]', '"groups:2"'),
        ('layouts = ["0 | 1"]', 'layouts = "auto"'),
        ('num_predict = { kind = "normal", mean = 236, spread = 0.15 }', "num_predict = 236"),
        ("input_tokens = 60", "input_tokens = { mean = 60 }"),
        ("input_tokens = 60", 'prompts = "prompts.jsonl"'),
        ("{ users = 10 }", '{ rate = 1, arrivals = "gamma", burstiness = 0.5 }'),
        ("{ users = 10 }", "{ ramp = [1, 5], over_s = 60 }"),
        ("{ users = 10 }", "{ trace = 1 }"),
        ("raw = false", "shared_prefix = { prefixes = 4, tokens = 50 }"),
        ("raw = false", "conversation = { turns = 4 }"),
        ("raw = false", 'format = "azure"'),
        ("at = 10", "at = 2.5"),
        ("at = 10", 'at = "2.5 requests/s"'),
        ("trials = 7\n", ""),
    ],
)
def test_short_forms_are_accepted(old: str, new: str) -> None:
    assert accepts(GOOD)
    assert accepts(changed(old, new))


@given(st.sampled_from(LINES), values)
def test_the_schema_accepts_every_file_that_loads(
    tmp_path_factory: pytest.TempPathFactory, number: int, value: str
) -> None:
    lines = GOOD.splitlines()
    lines[number] = f"{lines[number].split(' = ')[0]} = {value}"
    path = tmp_path_factory.getbasetemp() / "accepted.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    try:
        load(path)
    except SpecError:
        return
    assert accepts("\n".join(lines))


# and refuses typical mistakes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials = 7", "trails = 7"),
        ("[budget]", "[budgets]"),
        ("{ users = 10 }", "{ user = 10 }"),
        ('{ id = "0" }', '{ idd = "0" }'),
        ("mean = 236", "maen = 236"),
        ('metric = "ttft_s"', 'metric = "ttft"'),
        ("num_ctx = 2048\n", ""),
        ("num_ctx = 2048", 'num_ctx = "2048"'),
        ("num_ctx = 2048", "num_ctx = 2"),
        ("num_parallel = [4, 8]", "num_parallel = 4"),
        ("num_parallel = [4, 8]", "num_parallel = []"),
        ("num_parallel = [4, 8]", "num_parallel = [4, 4]"),
        ("num_parallel = [4, 8]", "num_parallel = [0]"),
        ("input_tokens = 60\n", ""),
        ("input_tokens = 60", 'input_tokens = 60\nprompts = "x.jsonl"'),
        ("{ users = 10 }", "{ users = 10, rate = 1 }"),
        ("{ users = 10 }", "{ ramp = [1], over_s = 60 }"),
        ("{ users = 10 }", "{ ramp = 1, over_s = 60 }"),
        ("raw = false", "conversation = 4"),
        ("raw = false", "conversation = { turns = 1 }"),
        ("raw = false", "correlation = 2"),
        ("levels = [5,", 'levels = ["5",'),
        ("first_port = 9000", "first_port = 65536"),
        ('balancer = "nginx"', 'balancer = "haproxy"'),
        ('[{ id = "0" }, { cores = "0-1" }]', '"gpus"'),
        ('[{ id = "0" }, { cores = "0-1" }]', "[]"),
        ('layouts = ["0 | 1"]', 'layouts = "all"'),
        ("raw = false", 'raw = "no"'),
        ("at = 10", "at = [10]"),
        ('name = "night"', 'name = "a night"'),
        ("OLLAMA_DEBUG", "OLLAMA_HOST"),
        ("OLLAMA_DEBUG", "PATH"),
        ('OLLAMA_DEBUG = "1"', "OLLAMA_DEBUG = 1"),
        ('["0", "8192"]', '"8192"'),
        ("min_success_rate = 0.9", "min_success_rate = 1.1"),
        ('until = "07:00"', 'until = "7 am"'),
        ('trials = 7\nuntil = "07:00"\n', ""),
    ],
)
def test_typical_mistakes_are_refused(old: str, new: str) -> None:
    assert not accepts(changed(old, new))
