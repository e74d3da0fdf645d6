"""What a study file may hold, told from the tables themselves: a page for people, a JSON schema for editors.

The files in `studies/` are written by `make reference`.
"""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from autotune.spec.study import StudySpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DRAFT = "http://json-schema.org/draft-07/schema#"
COLUMNS = 120
EXAMPLE = """\
[study]
name = "night"

[cluster]
model = "gemma3n"
devices = "gpu"

[search]
num_parallel = [4, 8, 16]
instances_per_device = [1, 2]

[baseline]                      # what you run today
layout = "0"
num_parallel = 4

[workload]                      # what your users do
num_ctx = 2048
num_predict = { kind = "normal", mean = 236, spread = 0.25 }
input_tokens = 200
levels = [5, 10, { rate = 2.5 }]

[objective]
at = 10

[[objective.limits]]
metric = "ttft_s"
statistic = "p95"
max = 5.0

[budget]
until = "07:00"
"""
HEAD = f"""\
# The study file

<!-- Written by `make reference`: the words are in autotune/spec. -->

Every table of a study file, and every key. An unknown key is refused, and no value is bent to fit. Times are seconds,
lengths tokens, paths relative to the study file. With `cluster.time_scale` other than 1 every second of `[workload]`,
and every figure in the results, is a second of the played host.

The study files beside this page ship with autotune: `autotune studies` lists them, `autotune studies NAME` copies one.
In a comment they name `study.schema.json`; an editor that understands it (Even Better TOML, or any other with Taplo)
checks them and completes keys. `autotune reference` prints this page, `autotune reference --schema` that schema, and
`autotune doctor STUDY.toml` tells whether this host has what a study needs.

```toml
{EXAMPLE}```

A layout is written with the numbers of the devices: `0 | 1` are two instances, one on each; `0x2` are two on device 0;
`0+1` is one over both.
"""


def schema() -> dict[str, Any]:
    """A study file in words of JSON schema.

    It accepts every file that loads. It holds no references: an editor that follows one forgets what stands beside it.
    """
    whole = StudySpec.model_json_schema()
    tables = whole.pop("$defs")
    return {"$schema": DRAFT, "title": "Study file of autotune", **_plain(whole, tables)}


def _plain(node: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
    """Without references, without null (TOML has none), without titles that repeat the key."""
    named = tables[node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
    plain = {key: value for key, value in {**named, **node}.items() if key not in {"$ref", "title"}}
    if plain.get("default") in (None, []) or isinstance(plain["default"], dict):
        plain.pop("default", None)
    if "description" in plain:
        plain["description"] = " ".join(plain["description"].split())
    for key in plain.keys() & {"properties", "patternProperties"}:
        plain[key] = {name: _plain(value, tables) for name, value in plain[key].items()}
    if "patternProperties" in plain:
        plain["additionalProperties"] = False
    if "items" in plain:
        plain["items"] = _plain(plain["items"], tables)
    for key in plain.keys() & {"anyOf", "oneOf"}:
        plain[key] = [_plain(branch, tables) for branch in plain[key] if branch != {"type": "null"}]
    if len(plain.get("anyOf", ())) == 1:
        plain = {**plain.pop("anyOf")[0], **plain}
    return plain


def page() -> str:
    """All tables and keys, in Markdown."""
    return HEAD + "".join(_section(heading, table) for heading, table in _headed(schema()))


def _headed(whole: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each table below its heading; one that stands in several places once."""
    for name, field in whole["properties"].items():
        table = _table(field) or field
        if "description" in field and table != field:
            table = {**table, "description": f"{table['description']} {field['description']}"}
        yield f"## `[{name}]`", table
        inner = {key: found for key, field in table["properties"].items() if (found := _table(field))}
        for key, found in inner.items():
            places = [f"`{name}.{other}`" for other in inner if inner[other] == found]
            if places[0] == f"`{name}.{key}`":
                yield f"### A table of {' or '.join(places)}", found


def _table(field: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table with keys of its own that a key may hold, or hold a list of."""
    if "properties" in field:
        return dict(field)
    inner = [*field.get("anyOf", ()), *field.get("oneOf", ()), *([field["items"]] if "items" in field else [])]
    return next(filter(None, map(_table, inner)), None)


def _section(heading: str, table: Mapping[str, Any]) -> str:
    required = table.get("required", ())
    keys = "".join(_bullet(key, field, needed=key in required) for key, field in table["properties"].items())
    return f"\n{heading}\n\n{_wrapped(table['description'])}\n\n{keys}"


def _bullet(key: str, field: Mapping[str, Any], *, needed: bool) -> str:
    usual = f"by default `{json.dumps(field['default'])}`" if "default" in field else "optional"
    first = f"**`{key}`**: {_words(field)}; {'required' if needed else usual}."
    return f"- {_wrapped(first, '  ')}\n  {_wrapped(field['description'], '  ')}\n"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, COLUMNS - len(indent), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _words(field: Mapping[str, Any], many: str = "") -> str:
    """What a key may hold; `many` is the "s" of “list of …s”."""
    kind = field.get("type", "")
    if branches := field.get("anyOf") or (not kind and field.get("oneOf")):
        return _or(_words(branch, many) for branch in branches)
    if values := field.get("enum") or ("const" in field and [field["const"]]):
        return _or(f"`{json.dumps(value)}`" for value in values)
    if kind == "array":
        return f"list{many} of {_words(field['items'], 's')}"
    if "patternProperties" in field:
        return f"table of names, each with a {_words(*field['patternProperties'].values())}"
    text = "path" if field.get("format") == "path" else "text"
    names = {"string": text, "integer": "whole number", "number": "number", "object": "table"}
    plain = f"{names[kind]}{many}{_bounds(field)}" if kind in names else "`true` or `false`"
    return str(field.get("$comment", plain))


def _or(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _bounds(field: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return "".join(f" {word} {field[key]}" for key, word in words.items() if key in field)
