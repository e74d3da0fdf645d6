"""Study files, good and bad: what is wrong is said in one line that names the file, the key and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autotune import aims
from autotune.errors import SpecError
from autotune.spec import StudySpec, load
from tests.conftest import study

SHIPPED = sorted((Path(__file__).parents[1] / "studies").glob("*.toml"))

GOOD = """\
[study]
name = "night"
seed = 1

[cluster]
driver = "process"
binary = "ollama"
model = "gemma3n"
first_port = 9000
balancer = "nginx"
balancer_port = 9999
devices = [{ id = "0" }, { cores = "0-1" }]
vram_free_gib = 1
env = { OLLAMA_DEBUG = "1" }
home = "home"
start_timeout_s = 60
time_scale = 1

[search]
num_parallel = [4, 8]
layouts = ["0 | 1"]
instances_per_device = [1, 2]
policy = ["round_robin"]
flash_attention = ["on"]
kv_cache_type = ["f16"]
threads = [1]
num_batch = [512]
env = { LLAMA_ARG_CACHE_RAM = ["0", "8192"] }

[baseline]
layout = "0"
num_parallel = 4

[workload]
endpoint = "chat"
num_ctx = 2048
num_predict = { kind = "normal", mean = 236, spread = 0.15 }
input_tokens = 60
raw = false
think = true
levels = [5, { users = 10 }, { rate = 2.5 }]
warmup_s = 30
window_s = 60
window_max_s = 120

[objective]
at = 10
min_success_rate = 0.9

[[objective.limits]]
metric = "ttft_s"
statistic = "mean"
max = 2.0
at = "5 users"

[budget]
trials = 7
until = "07:00"
"""
LINES = [number for number, line in enumerate(GOOD.splitlines()) if " = " in line]


def read(text: str, folder: Path) -> StudySpec:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def complaint(text: str, folder: Path) -> str:
    with pytest.raises(SpecError) as caught:
        read(text, folder)
    where = f"{folder / 'study.toml'}: "
    assert caught.value.message.startswith(where)
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix(where)


# good files


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_load(path: Path) -> None:
    spec = load(path)
    assert spec.study.name == path.stem
    assert all(spec.level(limit.at) for limit in spec.objective.limits)


def test_there_are_three_shipped_studies() -> None:
    assert [path.stem for path in SHIPPED] == ["four-gpus", "local-cpu", "quickstart", "reference-deployment"]


def test_short_forms_mean_the_long_ones(tmp_path: Path) -> None:
    spec = read(GOOD, tmp_path)
    assert [level.label for level in spec.workload.levels] == ["5 users", "10 users", "2.5 requests/s"]
    assert spec.workload.input_tokens is not None
    assert (spec.workload.input_tokens.kind, spec.workload.input_tokens.mean) == ("fixed", 60)
    short = read(changed('[{ id = "0" }, { cores = "0-1" }]', '["0", { cores = "0-1" }]'), tmp_path)
    assert short.cluster.devices == spec.cluster.devices


@pytest.mark.parametrize(("at", "label"), [(5, "5 users"), (2.5, "2.5 requests/s"), ("10 users", "10 users")])
def test_a_level_is_known_by_its_users_its_rate_or_its_label(tmp_path: Path, at: float | str, label: str) -> None:
    assert read(GOOD, tmp_path).level(at).label == label


def test_a_limit_without_a_level_has_the_objectives_and_that_the_last(tmp_path: Path) -> None:
    assert read(GOOD, tmp_path).level(None).label == "10 users"
    assert read(changed("at = 10\n", ""), tmp_path).level(None).label == "2.5 requests/s"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = changed('binary = "ollama"', 'binary = "bin/ollama"\nprofile = "own.toml"\nmodels_dir = "../models"')
    written = read(text.replace("input_tokens = 60", 'prompts = "prompts.jsonl"'), tmp_path)
    assert written.cluster.binary == str(tmp_path / "bin" / "ollama")
    assert written.cluster.profile == str(tmp_path / "own.toml")
    assert written.cluster.models_dir == tmp_path.parent / "models"
    assert written.cluster.home == tmp_path / "home"
    assert written.workload.prompts == tmp_path / "prompts.jsonl"
    assert read(GOOD, tmp_path).cluster.binary == "ollama"


def test_earlier_studies_are_folders_beside_the_file_unless_they_are_named(tmp_path: Path) -> None:
    def warm(written: str) -> object:
        return read(changed("num_batch = [512]", f"warm_start = {written}"), tmp_path).search.warm_start

    assert read(GOOD, tmp_path).search.warm_start == "auto"
    assert warm('"off"') == "off"
    assert warm('"../night-1"') == (str(tmp_path.parent / "night-1"),)
    assert warm('["one", "/two"]') == (str(tmp_path / "one"), "/two")


@pytest.mark.parametrize(("driver", "scale", "played"), [("process", 1, False), ("process", 2, True)])
def test_a_clock_that_is_not_the_walls_makes_a_study_simulated(driver: str, scale: float, played: bool) -> None:
    assert study(cluster={"driver": driver, "time_scale": scale}).cluster.simulated is played
    assert study().cluster.simulated


# the kinds of load


@pytest.mark.parametrize(
    ("level", "label"),
    [
        ('{ rate = 2.5, arrivals = "constant" }', "2.5 requests/s constant"),
        ('{ rate = 2.5, arrivals = "gamma", burstiness = 0.5 }', "2.5 requests/s gamma 0.5"),
        ("{ ramp = [1, 5], over_s = 60 }", "ramp 1 to 5 requests/s in 60 s"),
        ("{ ramp = [0, 2.5], over_s = 1.5 }", "ramp 0 to 2.5 requests/s in 1.5 s"),
        # ignored since the first version
        ('{ users = 3, arrivals = "constant" }', "3 users"),
    ],
)
def test_a_level_has_a_label_of_its_own(tmp_path: Path, level: str, label: str) -> None:
    spec = read(changed("{ users = 10 }", level).replace("at = 10\n", f'at = "{label}"\n'), tmp_path)
    assert [one.label for one in spec.workload.levels] == ["5 users", label, "2.5 requests/s"]
    assert spec.level(None) is spec.workload.levels[1]


TRACE = {"prompts": "trace.csv", "format": "azure", "input_tokens": None}
TALK = {"endpoint": "chat", "conversation": {"turns": 4}}
PREFIX = {"shared_prefix": {"prefixes": 4, "tokens": 7}}
SPREAD = {"input_tokens": {"kind": "lognormal", "mean": 8}, "num_predict": {"kind": "normal", "mean": 8}}


@pytest.mark.parametrize(
    "written",
    [
        TRACE | {"levels": [{"trace": 1}, {"trace": 2.5}, 5]},
        {"prompts": "talks.json", "format": "sharegpt", "input_tokens": None, "levels": [{"rate": 1}]},
        SPREAD | {"correlation": -0.5},
        TALK,
        PREFIX | {"levels": [{"ramp": (1, 5), "over_s": 60}]},
    ],
)
def test_what_is_asked_comes_back_from_the_store_as_it_was(written: dict[str, Any]) -> None:
    spec = study(workload=written)
    again = StudySpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json"))))
    assert again == spec
    assert again.measured() == spec.measured() != study().measured()


def test_keys_that_were_added_mean_what_was_measured_before() -> None:
    data = study(workload={"levels": [2, {"rate": 1.0}]}).model_dump(mode="json")
    workload = data["workload"]
    for key in ("correlation", "shared_prefix", "conversation", "format"):
        del workload[key]
    for level in workload["levels"]:
        for key in ("ramp", "trace", "burstiness", "over_s"):
            del level[key]
    now = study(workload={"levels": [2, {"rate": 1}]})
    assert StudySpec.model_validate(data).measured() == now.measured()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        # levels
        ({"levels": [{}]}, "a level has one of users, rate, ramp, trace; this one has none"),
        ({"levels": [{"rate": 1, "arrivals": "gamma"}]}, 'arrivals "gamma" needs burstiness, a number above 0'),
        ({"levels": [{"rate": 1, "burstiness": 2}]}, 'burstiness 2 belongs to arrivals "gamma"'),
        ({"levels": [{"rate": 1, "arrivals": "gamma", "burstiness": 0}]}, "should be greater than or equal to 0.01"),
        ({"levels": [{"users": 1, "arrivals": "gamma"}]}, 'arrivals "gamma" belongs to a rate; this level has users'),
        ({"levels": [{"ramp": (1, 2), "arrivals": "constant"}]}, 'arrivals "constant" belongs to a rate'),
        ({"levels": [{"ramp": (1, 5)}]}, "a ramp needs over_s, a number above 0"),
        ({"levels": [{"rate": 1, "over_s": 9}]}, "over_s 9 belongs to a ramp"),
        ({"levels": [{"ramp": (1, 5, 9), "over_s": 9}]}, "allowed are two rates, the second above 0, as in [1, 5]"),
        ({"levels": [{"ramp": (1, 0), "over_s": 9}]}, "allowed are two rates, the second above 0, as in [1, 5]"),
        (
            {"levels": [{"trace": 1}]},
            'levels: "trace" needs prompts with times, of format mooncake or burstgpt or azure',
        ),
        # files
        ({"format": "azure"}, 'format "azure" belongs to a file of prompts'),
        (TRACE | {"format": "csv"}, "should be 'jsonl', 'sharegpt', 'mooncake', 'burstgpt' or 'azure'"),
        (
            TRACE | {"num_predict": SPREAD["num_predict"]},
            'num_predict.kind "normal": the answers of format "azure" have',
        ),
        (TRACE | {"correlation": 0.5}, "correlation belongs to input_tokens, not to a file of prompts"),
        (TRACE | PREFIX, "shared_prefix belongs to input_tokens, not to a file of prompts"),
        (TRACE | TALK, "conversation belongs to input_tokens, not to a file of prompts"),
        # the generator
        ({"correlation": 0.5}, "correlation 0.5: all lengths of input_tokens are equal; allowed is one with the kind"),
        (SPREAD | {"correlation": 1.5}, "should be less than or equal to 1"),
        ({"shared_prefix": {"prefixes": 4, "tokens": 8}}, "tokens 8: allowed is less than input_tokens 8"),
        ({"shared_prefix": {"prefixes": 0, "tokens": 8}}, "should be greater than or equal to 1"),
        # conversations
        (TALK | {"endpoint": "generate"}, 'conversation: endpoint "generate" takes a single text; allowed is "chat"'),
        (TALK | {"levels": [2, {"rate": 1}]}, 'conversation: "1 requests/s" would not wait for an answer'),
        (TALK | PREFIX, "shared_prefix or conversation, one of the two"),
        (
            TALK | {"num_ctx": 63},
            "conversation.turns 4: messages and answers are 64 tokens in the mean, more than num_ctx",
        ),
        (TALK | {"conversation": {"turns": 1}}, "should be greater than or equal to 2"),
    ],
)
def test_what_does_not_go_together_is_refused(written: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        study(workload=written)
    (error,) = caught.value.errors()
    assert words in error["msg"].replace("Input should", "should")


LIMIT = {"metric": "ttft_s", "statistic": "p50", "max": 1}


@pytest.mark.parametrize(
    ("objective", "levels", "words"),
    [
        ({}, [4], "objective.limits: none; a capacity is the largest load at which limits hold"),
        ({"limits": [{**LIMIT, "at": 4}]}, [4], '`at` says nothing with metric "capacity"'),
        ({"limits": [LIMIT], "at": 4}, [4], '`at` says nothing with metric "capacity"'),
        ({"limits": [LIMIT]}, [4, 8], "one level of users or a rate, to begin with"),
        ({"limits": [LIMIT]}, [{"ramp": (1, 5), "over_s": 60}], "one level of users or a rate, to begin with"),
    ],
)
def test_a_capacity_that_cannot_be_searched_is_refused(
    objective: dict[str, Any], levels: list[Any], words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        study(objective={"metric": "capacity", **objective}, workload={"levels": levels})
    (error,) = caught.value.errors()
    assert words in error["msg"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            [("ttft_s", "p95", 2), ("ttft_s", "p95", 5)],
            "objective.limits[1]: ttft_s p95 at '8 users' is limited twice, to 2 s and to 5 s; allowed is one limit",
        ),
        (
            [("ttft_s", "p50", 5), ("ttft_s", "p95", 2)],
            "limits[0].max: 5: ttft_s p50 at '8 users' is never more than ttft_s p95, which is limited to 2 s;",
        ),
        (
            [("e2e_s", "p99", 1), ("ttft_s", "p95", 1)],
            "limits[1].max: 1: ttft_s p95 at '8 users' is never more than e2e_s p99, which is limited to 1 s;",
        ),
        ([("e2e_s", "mean", 1), ("ttft_s", "mean", 3)], "ttft_s mean at '8 users' is never more than e2e_s mean"),
    ],
)
def test_limits_that_do_not_go_together_are_refused(limits: list[tuple[str, str, float]], words: str) -> None:
    told = [dict(zip(("metric", "statistic", "max"), limit, strict=True)) for limit in limits]
    with pytest.raises(ValidationError) as caught:
        study(objective={"limits": told}, workload={"levels": [4, 8]})
    (error,) = caught.value.errors()
    assert words in error["msg"]


def test_limits_that_say_more_together_than_alone_may_stand_together() -> None:
    told = [("ttft_s", "p50", 1, 8), ("ttft_s", "p95", 2, 8), ("ttft_s", "mean", 2, 8), ("ttft_s", "p95", 2, 4)]
    told += [("e2e_s", "p95", 3, 8), ("tpot_s", "p95", 3, 8)]
    limits = [dict(zip(("metric", "statistic", "max", "at"), limit, strict=True)) for limit in told]
    assert len(study(objective={"limits": limits}, workload={"levels": [4, 8]}).objective.limits) == 6


def test_a_capacity_begins_with_the_level() -> None:
    spec = study(objective={"metric": "capacity", "limits": [LIMIT], "capacity_max": 64}, workload={"levels": [4]})
    search = aims.search(spec)
    assert (search.first, search.most, search.whole, search.resolution) == (4.0, 64.0, True, 0.05)
    assert aims.at_load(spec, 9.0).label == "9 users"
    assert aims.limits(spec, aims.at_load(spec, 9.0)) == list(spec.objective.limits)
    rate = study(objective={"metric": "capacity", "limits": [LIMIT]}, workload={"levels": [{"rate": 2.5}]})
    assert (aims.search(rate).first, aims.search(rate).whole) == (2.5, False)
    assert aims.at_load(rate, 3.25).label == "3.25 requests/s"


# what a study measures


def test_what_is_measured_is_flat() -> None:
    measured = study(baseline={"env": {"OLLAMA_DEBUG": "1"}}).measured()
    assert measured["baseline.env.OLLAMA_DEBUG"] == "1"
    assert measured["workload.num_predict.mean"] == 8
    assert not any(isinstance(value, dict) and value for value in measured.values())
    assert json.loads(json.dumps(measured)) == measured


@pytest.mark.parametrize(
    "change",
    [
        {"budget": {"trials": 99, "until": "07:00", "proof_share": 0.5}},
        {"study": {"name": "other"}},
        {"cluster": {"start_timeout_s": 1, "load_timeout_s": 1, "stop_timeout_s": 1}},
        {"search": {"sampler": "tpe"}},
    ],
)
def test_budget_name_patience_and_sampler_do_not_change_what_is_measured(change: dict[str, Any]) -> None:
    assert study(**change).measured() == study().measured()


@pytest.mark.parametrize(
    "change",
    [
        {"study": {"seed": 1}},
        {"workload": {"num_ctx": 2048}},
        {"workload": {"levels": [3]}},
        {"search": {"num_parallel": [1]}},
        {"objective": {"min_success_rate": 0.5}},
    ],
)
def test_all_else_does(change: dict[str, Any]) -> None:
    assert study(**change).measured() != study().measured()


# bad files


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        # unknown keys, in every table
        ("seed = 1", "sede = 1", 'study.sede: unknown key; did you mean "seed"? Allowed here: name, seed'),
        ("first_port", "frist_port", 'cluster.frist_port: unknown key; did you mean "first_port"?'),
        ("policy =", "polices =", 'search.polices: unknown key; did you mean "policy"?'),
        ('layout = "0"', 'layuot = "0"', 'baseline.layuot: unknown key; did you mean "layout"?'),
        ("endpoint", "endpont", 'workload.endpont: unknown key; did you mean "endpoint"?'),
        ("min_success_rate", "min_sucess", 'objective.min_sucess: unknown key; did you mean "min_success_rate"?'),
        ("trials = 7", "trails = 7", 'budget.trails: unknown key; did you mean "trials"?'),
        ("[budget]", "[proof]\npiars = 4\n[budget]", 'proof.piars: unknown key; did you mean "pairs"?'),
        ("[budget]", "[budgets]", 'budgets: unknown key; did you mean "budget"? Allowed here: baseline, budget,'),
        (
            "raw = false",
            "shared_prefix = { prefix = 1, tokens = 9 }",
            'shared_prefix.prefix: unknown key; did you mean "prefixes"?',
        ),
        (
            "raw = false",
            "conversation = { turn = 4 }",
            'workload.conversation.turn: unknown key; did you mean "turns"?',
        ),
        ("{ users = 10 }", "{ user = 10 }", 'workload.levels[1].user: unknown key; did you mean "users"?'),
        ('{ id = "0" }', '{ idd = "0" }', 'cluster.devices[0].idd: unknown key; did you mean "id"?'),
        ("mean = 236", "maen = 236", 'workload.num_predict.maen: unknown key; did you mean "mean"?'),
        ('metric = "ttft_s"', 'metrik = "ttft_s"', 'objective.limits[0].metrik: unknown key; did you mean "metric"?'),
        ("time_scale = 1", "text = 1", "cluster.text: unknown key. Allowed here: balancer,"),
        ("time_scale = 1", '"a\\nb" = 1', "cluster.'a\\nb': unknown key"),
        # missing ones
        ("num_ctx = 2048\n", "", "workload.num_ctx: missing; it has no default"),
        ('num_predict = { kind = "normal", mean = 236, spread = 0.15 }\n', "", "workload.num_predict: missing"),
        ("input_tokens = 60\n", "", "workload: input_tokens (there is no default) or a file of prompts"),
        ('model = "gemma3n"\n', "", "cluster.model: missing"),
        ('trials = 7\nuntil = "07:00"\n', "", "budget: one of trials, hours, until must be set"),
        # wrong types: TOML has types, and nothing is bent to fit
        ("num_ctx = 2048", 'num_ctx = "2048"', "workload.num_ctx: '2048': should be a valid integer"),
        ("seed = 1", "seed = true", "study.seed: True: should be a valid integer"),
        ("seed = 1", "seed = 1.0", "study.seed: 1.0: should be a valid integer"),
        ("warmup_s = 30", 'warmup_s = "30"', "workload.warmup_s: '30': should be a valid number"),
        ("warmup_s = 30", "warmup_s = 1979-05-27", "should be a valid number"),
        ("raw = false", 'raw = "no"', "workload.raw: 'no': should be a valid boolean"),
        ("num_parallel = [4, 8]", "num_parallel = 4", "search.num_parallel: 4: should be a valid list"),
        ("num_parallel = [4, 8]", 'num_parallel = [4, "8"]', "search.num_parallel[1]: '8': should be a valid integer"),
        ("input_tokens = 60", 'input_tokens = "60"', "'60': should be a whole number of tokens, or a table"),
        ("levels = [5,", 'levels = ["5",', "workload.levels[0]: '5': should be a whole number of users, or a table"),
        ("levels = [5,", "levels = [true,", "workload.levels[0]: True: should be a whole number of users, or a table"),
        ('{ id = "0" }', "0", "cluster.devices[0]: 0: should be a device's id, or a table"),
        ("at = 10", "at = true", "objective.at: True: should be users, a rate, or a level's label"),
        ("at = 10", "at = [10]", "objective.at: [10]: should be users, a rate, or a level's label"),
        ('[study]\nname = "night"\nseed = 1\n', "study = 3\n", "study: 3: should be a valid table"),
        # values out of range
        ("first_port = 9000", "first_port = 65536", "cluster.first_port: 65536: should be less than or equal to 65535"),
        (
            "vram_free_gib = 1",
            "vram_free_gib = 1e300",
            "vram_free_gib: 1e+300: should be less than or equal to 1048576",
        ),
        (
            '{ id = "0" }',
            '{ id = "0", memory_gib = 1e300 }',
            "devices[0].memory_gib: 1e+300: should be less than or equal to 1048576",
        ),
        ("levels = [5,", "levels = [1000000000,", "levels[0].users: 1000000000: should be less than or equal to 65535"),
        (
            "_device = [1, 2]",
            "_device = [1000000000]",
            "instances_per_device[0]: 1000000000: should be less than or equal",
        ),
        ("at = 10", "capacity_max = 1000000000", "objective.capacity_max: 1000000000: should be less than or equal to"),
        ("window_s = 60", "window_s = 0", "workload.window_s: 0: should be greater than 0"),
        ("window_max_s = 120", "window_max_s = inf", "workload.window_max_s: inf: should be a finite number"),
        ("warmup_s = 30", "warmup_s = nan", "workload.warmup_s: nan: should be a finite number"),
        ("min_success_rate = 0.9", "min_success_rate = 1.1", "should be less than or equal to 1"),
        ('["round_robin"]', '["ip_hash"]', "search.policy[0]: 'ip_hash': should be 'round_robin', 'least_conn' or"),
        ('["round_robin"]', "[]", "search.policy: []: an empty list; at least one value is needed"),
        ("levels = [5, { users = 10 }, { rate = 2.5 }]", "levels = []", "workload.levels: []: an empty list"),
        ('until = "07:00"', 'until = "7:00"', "budget.until: '7:00': allowed is a time of day, as in \"07:00\""),
        ('name = "night"', 'name = "a night"', "study.name: 'a night': allowed is a letter or digit, then letters,"),
        ('name = "night"', f'name = "{"n" * 201}"', "digits, '.', '_', '-'; up to 200"),
        ('name = "night"', 'name = "study.toml"', "name: 'study.toml': allowed is any name but that of this file"),
        ('name = "night"', 'name = "night\\n"', "study.name: 'night\\n': allowed is"),
        (
            'layout = "0"\n',
            "num_parallel_at = { b = 8 }\n",
            "baseline.num_parallel_at.b: allowed is the letters of kinds",
        ),
        ('layout = "0"\n', 'weights = "memory"\n', "baseline.weights: 'memory': should be 'equal' or 'slots'"),
        ('layouts = ["0 | 1"]', 'per_class = "yes"', "search.per_class: 'yes': should be 'auto', True or False"),
        ('layouts = ["0 | 1"]', "weights = []", "search.weights: []: an empty list"),
        ("num_batch = [512]", "warm_start = 1", "search.warm_start: 1: should be a valid list"),
        ("num_batch = [512]", 'warm_start = ""', 'search.warm_start: \'\': allowed is "auto", "off", a study folder'),
        ("num_batch = [512]", "warm_start = []", "search.warm_start: []: an empty list; at least one value is needed"),
        ("num_batch = [512]", "warm_start = [true]", "search.warm_start[0]: True: should be a valid string"),
        ("num_batch = [512]", 'warm_start = ["a", "a"]', "search.warm_start: ['a', 'a']: the same value twice"),
        ('["0 | 1"]', '"all"', "search.layouts: 'all': allowed is \"auto\" or a list of layouts"),
        ('[{ id = "0" }, { cores = "0-1" }]', '"cores:0"', "cluster.devices: 'cores:0': allowed are \"auto\""),
        # contradictions
        ("window_s = 60", "window_s = 600", "workload: window_s 600 is more than window_max_s 120"),
        ("[budget]", "[proof]\npairs = 25\n[budget]", "proof: pairs 25 is more than pairs_max 24"),
        ("warmup_s = 30", "warmup_s = 200", "workload: warmup_s 200 is more than warmup_max_s 180"),
        ("input_tokens = 60", 'input_tokens = 60\nprompts = "x.jsonl"', "input_tokens (there is no default) or a file"),
        (
            "{ users = 10 }",
            "{ users = 10, rate = 1 }",
            "workload.levels[1]: a level has one of users, rate, ramp, trace; this one has users and rate",
        ),
        ('{ id = "0" }', '{ id = "0", cores = "0" }', "cluster.devices[0]: a device has either an id or cores"),
        ("balancer_port = 9999", "balancer_port = 9000", "cluster: balancer_port 9000 is first_port"),
        ("at = 10", "at = 11", "objective.at: 11: no such level; there are '5 users', '10 users', '2.5 requests/s'"),
        ('at = "5 users"', "at = 6", "objective.limits[0].at: 6: no such level; there are '5 users',"),
        # the same twice
        ("num_parallel = [4, 8]", "num_parallel = [4, 4]", "search.num_parallel: [4, 4]: the same value twice"),
        ('["0 | 1"]', '["0", "0"]', "search.layouts: ['0', '0']: the same value twice"),
        ('["0", "8192"]', '["0", "0"]', "search.env.LLAMA_ARG_CACHE_RAM: ['0', '0']: the same value twice"),
        ("{ users = 10 }", "{ users = 5 }", "workload: levels: the same load twice"),
        # variables
        ("OLLAMA_DEBUG", "OLLAMA_HOST", "cluster.env.OLLAMA_HOST: OLLAMA_HOST is set by cluster.first_port"),
        ("OLLAMA_DEBUG", "OLLAMA_VULKAN", "cluster.env.OLLAMA_VULKAN: OLLAMA_VULKAN is set by cluster.devices"),
        ("LLAMA_ARG_CACHE_RAM", "LLAMA_ARG_THREADS", "search.env.LLAMA_ARG_THREADS: LLAMA_ARG_THREADS is set by"),
        ("OLLAMA_DEBUG", "PATH", "cluster.env.PATH: only variables that begin with OLLAMA_ or LLAMA_ARG_ reach"),
        ("OLLAMA_DEBUG", '"OLLAMA_A=B"', "cluster.env.'OLLAMA_A=B': only variables that begin with"),
        ('OLLAMA_DEBUG = "1"', "OLLAMA_DEBUG = 1", "cluster.env.OLLAMA_DEBUG: 1: should be a valid string"),
        (
            'OLLAMA_DEBUG = "1"',
            'OLLAMA_DEBUG = "\\u0000"',
            "cluster.env.OLLAMA_DEBUG: '\\x00': allowed is text",
        ),
        # paths that cannot be
        ('home = "home"', 'home = "~nobody.here/x"', "cluster.home: '~nobody.here/x': no usable path:"),
        ('home = "home"', 'home = "\\u0000"', "cluster.home: '\\x00': no usable path:"),
    ],
)
def test_a_bad_value_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert words in complaint(changed(old, new), tmp_path)


def test_two_mistakes_are_two_lines(tmp_path: Path) -> None:
    text = changed("seed = 1", 'seed = "x"').replace("num_ctx = 2048", "num_ctx = 1")
    with pytest.raises(SpecError) as caught:
        read(text, tmp_path)
    first, second = caught.value.message.splitlines()
    assert "study.seed: 'x'" in first
    assert "workload.num_ctx: 1: should be greater than or equal to 4" in second


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    assert "not TOML" in complaint("[study]\nname = \n", tmp_path)
    assert "(at line 2, column 8)" in complaint("[study]\nname = \n", tmp_path)


def test_a_name_of_200_letters_is_one(tmp_path: Path) -> None:
    assert read(GOOD.replace('"night"', f'"{"n" * 200}"'), tmp_path).study.name == "n" * 200


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nosuch\.toml: No such file"):
        load(tmp_path / "nosuch.toml")
    with pytest.raises(SpecError, match="Is a directory"):
        load(tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(b"[study]\nname = \xff\n")
    with pytest.raises(SpecError, match=r"not UTF-8 text \(byte 15\)"):
        load(tmp_path / "study.toml")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert read(f"\ufeff{GOOD}", tmp_path) == read(GOOD, tmp_path)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8)
scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.sampled_from(["0", "1", "1e308", "-0.0", "inf", "nan", "true", "false", "1979-05-27", "07:32:00", '"~x/y"']),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
    texts.map(json.dumps),
)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    st.dictionaries(texts, scalars, max_size=2).map(
        lambda pairs: "{" + ", ".join(f"{json.dumps(key)} = {value}" for key, value in pairs.items()) + "}"
    ),
    st.sampled_from(["[[1], {}]", '[{ users = "x" }, { rate = -1 }]', "[{ cores = 3 }]", "{ mean = [] }"]),
)


@given(st.sampled_from(LINES), values)
def test_whatever_stands_behind_a_key_the_file_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, number: int, value: str
) -> None:
    lines = GOOD.splitlines()
    lines[number] = f"{lines[number].split(' = ')[0]} = {value}"
    _loads_or_is_refused("\n".join(lines), tmp_path_factory)


@given(st.sampled_from(LINES), st.one_of(texts.map(json.dumps), st.none()))
def test_whatever_a_key_is_called_the_file_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, number: int, key: str | None
) -> None:
    lines = GOOD.splitlines()
    lines[number] = "" if key is None else f"{key} = {lines[number].split(' = ', 1)[1]}"
    _loads_or_is_refused("\n".join(lines), tmp_path_factory)


def _loads_or_is_refused(text: str, factory: pytest.TempPathFactory) -> None:
    path = factory.getbasetemp() / "mutated.toml"
    path.write_text(text, encoding="utf-8")
    try:
        spec = load(path)
    except SpecError as error:
        assert all(line.startswith(f"{path}: ") for line in error.message.split("\n"))  # noqa: PT017
    else:
        assert spec.measured()
