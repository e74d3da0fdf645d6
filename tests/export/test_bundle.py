"""What is exported: every setting that was measured, in every form; and what cannot be exported, in one clear line."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import export
from autotune.cli import main
from autotune.cli.parser import parser
from autotune.confirm import place
from autotune.errors import NothingFeasible, StorageError, UsageError
from autotune.export import compose, systemd
from autotune.export.bundle import bundle
from autotune.export.guide import load
from autotune.ground import Ground
from autotune.inventory import Device, Inventory
from autotune.ollama.api import Ollama, ServerFacts
from autotune.simulator import SIMULATED
from autotune.simulator.profiles import load_profile
from autotune.store import FORMAT, Store
from tests.conftest import TINY, cores, gpus, study
from tests.factories import BASELINE, LIMIT, PROVENANCE, params, result, space
from tests.proofs import FAST
from tests.simulator.exchange import free_port, instance

if TYPE_CHECKING:
    from autotune.plan import Provenance
    from autotune.spec import StudySpec

RAN = replace(PROVENANCE, libraries="/opt/cuda/lib", models_dir="/")
REAL = {"cluster": {"driver": "process", "balancer": "nginx", "first_port": 9000, "balancer_port": 9999}}


def proved(
    folder: Path,
    inventory: Inventory | None = None,
    chosen: dict[str, Any] = FAST,
    gain: float = 50,
    provenance: Provenance = RAN,
    **tables: Any,
) -> Store:
    """A study in which `chosen` was proved to be better than the baseline by so many tokens/s."""
    spec: StudySpec = study(objective={"limits": [LIMIT]}, **{**REAL, **tables})
    store, there = Store(folder / "night"), inventory or gpus()
    store.open(spec, "# a study\n")
    ground = Ground(spec, there, ServerFacts("0.32.15", TINY), Path("/models of all"), Path("/home"), space(), {})
    first = {**BASELINE, "layout": "0+1"} if inventory and inventory.devices[0].make == "cpu" else BASELINE
    pair = [first, chosen]
    for number, one in enumerate([*pair, params(32)]):
        plan = ground.plan(one)
        store.trials.write_plan(number, one, plan, provenance)
        reason = "load_failed" if number == 2 else ""
        store.trials.save(result(number, one, 100 + gain * number, reason=reason, fingerprint=plan.fingerprint), [])
    shelf = store.proof(store.begin_proof(pair))
    for number in range(8):
        which = place(number, 2)[1]
        plan = ground.plan(pair[which])
        shelf.write_plan(number, pair[which], plan, provenance)
        found = result(number, pair[which], 100 + gain * which + number / 10, fingerprint=plan.fingerprint)
        shelf.save(found, [])
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return proved(tmp_path)


def test_the_longest_name_of_a_study_can_be_exported(tmp_path: Path) -> None:
    export.write(proved(tmp_path, study={"name": "n" * 200}), tmp_path / "out", user="ollama")
    assert (tmp_path / "out" / "systemd" / f"ollama-{'n' * 200}@0.service.d").is_dir()


def test_a_capacity_far_below_1_is_not_rounded_away(store: Store) -> None:
    chosen = bundle(store, trial=0, user="ollama")
    (run,) = chosen.runs
    rare = replace(run, unit="requests/s", score=replace(run.score, objective=0.2104))
    assert "Measured once: 0.21 requests/s at the limits." in replace(chosen, runs=(rare,)).files()["INSTALL.md"]


# everything that was measured


def test_every_setting_of_the_plan_is_in_the_units_and_in_the_environment_files(store: Store) -> None:
    chosen = bundle(store)
    files = chosen.files()
    assert len(chosen.plan.instances) == 2
    for number, one in enumerate(chosen.plan.instances):
        unit = files[f"systemd/ollama-test@{number}.service.d/10-autotune.conf"]
        for name, value in one.env:
            if name != "HOME":
                assert f'Environment="{name}={value}"' in unit
                assert f"\n{name}={value}\n" in files[f"env/{one.name}.env"]
        assert "HOME=" not in unit
        assert 'Environment="LD_LIBRARY_PATH=/opt/cuda/lib"' in unit
        assert "LD_LIBRARY_PATH" not in files["compose.yaml"]  # a container has libraries of its own
        assert f'Environment="CUDA_VISIBLE_DEVICES={one.devices[0]}"' in unit
        assert one.devices[0].startswith("GPU-")
        assert f"ExecStartPost=/bin/bash /usr/local/lib/ollama-test/preload 127.0.0.1 {one.port} tiny" in unit
    template = files["systemd/ollama-test@.service"]
    for line in ("ExecStart=/usr/local/bin/ollama serve", "Restart=always", "RestartSec=3", "TimeoutStartSec=660"):
        assert f"\n{line}\n" in template
    for name in ("OLLAMA_CONTEXT_LENGTH", "OLLAMA_KEEP_ALIVE", "OLLAMA_MODELS", "OLLAMA_NUM_PARALLEL", "OLLAMA_VULKAN"):
        assert name in dict(chosen.plan.instances[0].env)


def test_nginx_is_what_was_measured_and_listens_where_it_is_told(store: Store) -> None:
    site = bundle(store).files()["nginx/ollama-test.conf"]
    for piece in (
        "listen 127.0.0.1:9999;",
        "least_conn;",
        "server 127.0.0.1:9001 max_fails=0;",
        "proxy_buffering off;",
    ):
        assert piece in site
    everywhere = bundle(store, listen="0.0.0.0").files()
    assert "listen 0.0.0.0:9999;" in everywhere["nginx/ollama-test.conf"]
    assert "mind the firewall" in everywhere["INSTALL.md"]
    assert "http://127.0.0.1:9999" in everywhere["INSTALL.md"]
    assert "listen [::1]:9999;" in bundle(store, listen="::1").files()["nginx/ollama-test.conf"]
    both = bundle(store, listen="::").files()
    assert "listen [::]:9999 ipv6only=off;" in both["nginx/ollama-test.conf"], "IPv4 is answered, too"
    assert "Clients ask `http://127.0.0.1:9999`" in both["INSTALL.md"]


def test_instances_that_differ_are_exported_with_their_slots_and_weights(tmp_path: Path) -> None:
    first, second = gpus(2).devices
    mixed = Inventory("host", (first, replace(second, kind="large")))
    chosen = {**FAST, "num_parallel": 4, "num_parallel@B": 6, "weights": "slots"}
    files = bundle(proved(tmp_path, mixed, chosen)).files()
    assert "\nOLLAMA_NUM_PARALLEL=4\n" in files["env/ollama-0.env"]
    assert "\nOLLAMA_NUM_PARALLEL=6\n" in files["env/ollama-1.env"]
    for address in ("127.0.0.1:9000 weight=2", "127.0.0.1:9001 weight=3"):
        assert f"server {address} max_fails=0;" in files["nginx/ollama-test.conf"]
    assert "2 × Ollama with 4 and 6 slots" in files["INSTALL.md"]


def test_compose_has_the_same_instances_with_their_devices(store: Store) -> None:
    chosen = bundle(store)
    services = compose.services(chosen)
    assert list(services) == ["ollama-0", "ollama-1", "nginx"]
    one = services["ollama-1"]
    assert one["image"] == "ollama/ollama:0.32.15"
    (card,) = one["deploy"]["resources"]["reservations"]["devices"]
    assert card["device_ids"] == list(chosen.plan.instances[1].devices)
    assert one["environment"]["OLLAMA_HOST"] == "127.0.0.1:9001"
    assert one["volumes"][0] == "/models of all:/models of all"
    assert "without containers. The NVIDIA Container Toolkit has to be there.\n" in chosen.files()["INSTALL.md"]


def test_a_cpu_is_pinned_in_every_form(tmp_path: Path) -> None:
    chosen = bundle(proved(tmp_path, cores((0, 2), (1, 3))))
    files = chosen.files()
    assert "\nCPUAffinity=0 2\n" in files["systemd/ollama-test@0.service.d/10-autotune.conf"]
    assert compose.services(chosen)["ollama-1"]["cpuset"] == "1,3"
    assert "deploy" not in compose.services(chosen)["ollama-1"]
    assert "the trials ran Ollama without containers.\n\n" in files["INSTALL.md"]
    assert 'Environment="LLAMA_ARG_THREADS=2"' in files["systemd/ollama-test@0.service.d/10-autotune.conf"]


def test_an_amd_card_gets_its_own_image_and_devices(tmp_path: Path) -> None:
    cards = tuple(Device(index, f"GPU-{index}a", "amd", "Card", 8 << 30, "card") for index in range(2))
    chosen = bundle(proved(tmp_path, Inventory("host", cards)))
    service = compose.services(chosen)["ollama-0"]
    assert (service["image"], service["devices"]) == ("ollama/ollama:0.32.15-rocm", ["/dev/kfd", "/dev/dri"])
    guide = chosen.files()["INSTALL.md"]
    assert "without containers. ROCm's kernel driver has to be there: `/dev/kfd`, `/dev/dri`.\n" in guide
    assert "NVIDIA" not in guide


def test_a_derived_model_comes_with_its_modelfile(tmp_path: Path) -> None:
    chosen = bundle(proved(tmp_path, chosen={**FAST, "num_batch": 256}))
    files = chosen.files()
    assert chosen.plan.model.startswith("autotune-tiny-batch256-")  # which the next night takes away
    assert files["Modelfile"].endswith("FROM tiny\nPARAMETER num_batch 256\n")
    assert "ollama create tuned-tiny-batch256 -f Modelfile" in files["INSTALL.md"]
    assert "preload 127.0.0.1 9000 tuned-tiny-batch256" in files["systemd/ollama-test@0.service.d/10-autotune.conf"]
    assert "for the model `tuned-tiny-batch256`" in files["INSTALL.md"]
    back = files["INSTALL.md"].partition("## Roll back")[2]
    assert back.count("ollama rm tuned-tiny-batch256") == 1
    asked = back.index("OLLAMA_HOST=127.0.0.1:9000 ollama rm tuned-tiny-batch256")
    assert asked < back.index("systemctl disable"), "while there is a server that surely answers"


def test_the_document_has_the_whole_provenance(store: Store) -> None:
    told = json.loads(bundle(store).files()["cluster.json"])
    assert told["provenance"] == json.loads(json.dumps(asdict(RAN)))
    assert (told["simulated"], told["proved"], told["study_file"]) == (False, True, "# a study\n")
    assert told["answer"].startswith("Winner: 0 | 1  NUM_PARALLEL 8, least_conn: 150.")
    expected = told["expected"]
    assert expected["load"] == "2 users"
    assert 149 < expected["low"] < expected["output_tps"] < expected["high"] < 152
    assert told["plan"]["instances"][0]["env"]
    assert [one["label"] for one in told["figures"]] == ["2 users"]
    assert len(told["trials"]) == 4


def test_the_guide_warns_of_what_surprises(store: Store) -> None:
    guide = bundle(store).files()["INSTALL.md"]
    for piece in (
        "`ollama pull`, `ollama ps` and `ollama create` through the balancer reach one instance",
        "sudo systemctl enable --now ollama-test@0 ollama-test@1",
        "## Roll back",
        "autotune bench http://127.0.0.1:9999 --model tiny --endpoint generate --concurrency 2 --input-tokens 8",
        "19 times of 20",
    ):
        assert piece in guide


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (
            {"input_tokens": 50, "shared_prefix": {"prefixes": 3, "tokens": 40}},
            "--input-tokens 50 --shared-prefix 3,40",
        ),
        (
            {"endpoint": "chat", "conversation": {"turns": 3}},
            "--endpoint chat --concurrency 2 --input-tokens 8 --turns 3",
        ),
    ],
)
def test_the_check_has_what_prompts_share_and_how_long_conversations_are(
    tmp_path: Path, workload: dict[str, Any], words: str
) -> None:
    guide = bundle(proved(tmp_path, workload=workload)).files()["INSTALL.md"]
    assert words in guide


@pytest.mark.parametrize(
    ("level", "value", "words"),
    [
        (2, 17.0, "--first 17 --limit ttft_s:mean:2"),
        ({"rate": 3.0}, 0.2123, "--by rate --first 0.212 --limit ttft_s:mean:2"),
    ],
)
def test_the_check_of_a_capacity_looks_for_it_where_it_was(level: Any, value: float, words: str) -> None:
    limits = {"limits": [{"metric": "ttft_s", "statistic": "mean", "max": 2.0}]}
    spec = study(objective={"metric": "capacity", **limits}, workload={"levels": [level]})
    asked = load(spec, value)
    assert words in asked
    told = parser().parse_args(["capacity", "http://127.0.0.1:9999", "--model", "tiny", *shlex.split(asked)])
    assert told.first == pytest.approx(value, rel=0.01)


# the script that loads the model


def preload(store: Store, tmp_path: Path, port: int, **env: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "preload"
    script.write_text(bundle(store).files()["preload"])
    command = ["bash", str(script), "127.0.0.1", str(port), "tiny"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)


def test_it_ends_with_the_server_that_it_waits_for(store: Store, tmp_path: Path) -> None:
    server = subprocess.Popen(["true"])
    server.wait()
    done = preload(store, tmp_path, free_port(), MAINPID=str(server.pid))
    assert (done.returncode, done.stderr) == (1, "the server has ended\n")


async def test_it_waits_until_the_model_is_loaded_and_says_why_it_is_not(store: Store, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with instance(tmp_path, load_profile("2x-small")) as port:
        done = await loop.run_in_executor(None, lambda: preload(store, tmp_path, port))
        assert (done.returncode, done.stderr) == (0, "")
        async with Ollama(f"http://127.0.0.1:{port}") as server:
            assert [one.name for one in await server.loaded()] == ["tiny:latest"]
    faults = {"AUTOTUNE_SIM_FAULT": "load_fails"}
    async with instance(tmp_path, load_profile("2x-small"), **faults) as port:
        done = await loop.run_in_executor(None, lambda: preload(store, tmp_path, port))
        assert done.returncode == 1
        assert "500" in done.stderr


# marks


def test_every_file_of_a_simulated_study_says_so(tmp_path: Path) -> None:
    simulated = bundle(proved(tmp_path, cluster={**REAL["cluster"], "driver": "simulated"}))
    assert all(SIMULATED in content for content in simulated.files().values())
    assert not any(SIMULATED in content for content in bundle(proved(tmp_path / "real")).files().values())


def test_a_trial_that_was_chosen_by_hand_is_marked_as_not_proved(store: Store) -> None:
    chosen = bundle(store, trial=0)
    assert chosen.plan.layout == "0"
    assert all("Not proved" in content for content in chosen.files().values())
    assert json.loads(chosen.files()["cluster.json"])["expected"]["low"] is None
    assert "One measurement is not a proof." in chosen.files()["INSTALL.md"]
    assert "Winner" not in chosen.files()["INSTALL.md"]
    assert bundle(store, trial=1).proved  # the same configuration as the winner's


# words that mean something to systemd and Compose


PRINTABLE = st.text(st.characters(exclude_categories=("C", "Zl", "Zp"), exclude_characters="\ufeff"), max_size=20)
KEYS = st.sampled_from(["a", "b-c", "d_e"])
SERVICES = st.dictionaries(
    KEYS,
    st.recursive(
        PRINTABLE | st.lists(PRINTABLE, min_size=1, max_size=3),
        lambda inner: (
            st.dictionaries(KEYS, inner, min_size=1, max_size=3)
            | st.lists(st.dictionaries(KEYS, inner, min_size=1, max_size=2), min_size=1, max_size=2)
        ),
        max_leaves=8,
    ),
    min_size=1,
)


@given(PRINTABLE)
def test_whatever_a_value_holds_systemd_reads_it_back(value: str) -> None:
    read = shlex.split(f'"NAME={systemd._unit_text(value)}"')[0]
    assert read.replace("%%", "%") == f"NAME={value}"


def test_a_dollar_is_written_twice_in_all_but_the_first_word(tmp_path: Path) -> None:
    program = tmp_path / "a$b 100%" / "my ollama"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    store = proved(tmp_path, provenance=replace(RAN, command=(str(program), "serve", "$HOME")))
    unit = next(text for name, text in bundle(store).files().items() if name.endswith("@.service"))
    written = str(program).replace("%", "%%")
    assert f'\nExecStart="{written}" serve "$$HOME"\n' in unit
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    one = tmp_path / "one.service"
    one.write_text("\n".join(line for line in unit.splitlines() if not line.startswith("User=")))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", one], capture_output=True, text=True, check=False)
    assert (done.returncode, "executable" in done.stderr) == (0, False), done.stderr


@given(SERVICES)
def test_whatever_a_compose_file_holds_yaml_reads_it_back(value: dict[str, Any]) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(compose._yaml(value)) == doubled(value)


def doubled(value: Any) -> Any:
    """As Compose reads it: $ is written twice."""
    if isinstance(value, dict):
        return {key: doubled(part) for key, part in value.items()}
    return [doubled(part) for part in value] if isinstance(value, list) else value.replace("$", "$$")


# what cannot be exported


def test_an_export_is_there_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    said = export.write(store, target)
    assert said[-1] == f"Next: read {target / 'INSTALL.md'}"
    assert {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} == set(
        bundle(store).files()
    )
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    empty = tmp_path / "empty"
    empty.mkdir()
    export.write(store, empty)
    assert (empty / "INSTALL.md").exists()


def test_a_folder_that_is_not_empty_is_never_touched(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "file").write_text("mine")
    with pytest.raises(UsageError, match="mine: is not an empty folder; nothing was written"):
        export.write(store, target)
    with pytest.raises(UsageError, match="is not an empty folder"):
        export.write(store, target / "file")
    assert [path.name for path in target.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--to "):
        export.write(store, tmp_path / "file" / "out")


def test_a_study_without_a_winner_says_what_it_has(tmp_path: Path) -> None:
    slower = proved(tmp_path / "slower", gain=-20)
    with pytest.raises(NothingFeasible, match=r"no proved winner; there is nothing to install\. Keep what"):
        bundle(slower)
    begun = proved(tmp_path / "begun")
    for path in sorted(begun.folder.glob("proofs/0000/00*/result.json"))[3:]:
        path.unlink()
    with pytest.raises(NothingFeasible, match=r"no proved winner; --trial N exports a trial that you choose\. Best: "):
        bundle(begun)
    assert not bundle(begun, trial=1).proved


@pytest.mark.parametrize(
    ("trial", "words"), [(9, "has the trials 0 to 2"), (-1, "has the trials"), (2, "could not be")]
)
def test_a_trial_that_cannot_be_exported_is_refused(store: Store, trial: int, words: str) -> None:
    with pytest.raises(UsageError, match=rf"--trial {trial}: .*{words}"):
        bundle(store, trial=trial)


def test_an_address_that_is_none_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="--listen localhost: allowed is an IP address"):
        bundle(store, listen="localhost")


@pytest.mark.parametrize("command", [["status"], ["report"], ["export", "--to", "out"]])
def test_a_study_that_cannot_be_read_is_one_clear_line(
    command: list[str],
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(code: int, study: Path) -> str:
        name, *rest = command
        assert main([name, str(study), *rest]) == code
        said = capsys.readouterr()
        (line,) = said.err.splitlines()
        assert (said.out, (tmp_path / "out").exists()) == ("", False)
        return line

    assert "nowhere.toml: No such file or directory" in refused(2, tmp_path / "nowhere.toml")
    assert "no study (there is no study.json" in refused(4, tmp_path)
    header = store.header() or {}
    (store.folder / "study.json").write_text(json.dumps({**header, "format": FORMAT + 1}))
    assert f"format {FORMAT + 1} is of a newer autotune" in refused(4, store.folder)
    (store.folder / "study.json").write_text("{")
    assert "study.json: damaged" in refused(4, store.folder)
    store.write_header(header)
    (store.folder / "trials/0001/result.json").write_text("{}")
    assert "trials/0001/result.json: damaged" in refused(4, store.folder)


def test_a_study_in_which_nothing_was_measured_has_nothing_to_export(tmp_path: Path) -> None:
    store = Store(tmp_path / "night")
    store.open(study(), "")
    with pytest.raises(UsageError, match="nothing was measured in this study yet"):
        bundle(store)


@pytest.mark.parametrize(
    ("path", "damage", "words"),
    [
        ("proofs/0000/0001/plan.json", {"provenance": {}}, r"plan\.json: damaged \("),
        ("proofs/0000/0001/plan.json", {"provenance": 3}, r"plan\.json: damaged \("),
        ("proofs/0000/0001/plan.json", {"plan": {"instances": 1}}, r"plan\.json: damaged \("),
        ("proofs/0000/proof.json", {"candidates": [{}, {}]}, r"proof\.json: damaged \(no candidates\)"),
        ("proofs/0000/proof.json", {"candidates": [params(1), params(99)]}, "runs of other configurations than"),
    ],
)
def test_a_proof_that_is_damaged_is_one_clear_line(store: Store, path: str, damage: dict[str, Any], words: str) -> None:
    file = store.folder / path
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    with pytest.raises(StorageError, match=words):
        bundle(store)


def test_a_proof_that_has_only_begun_does_not_hide_one_that_was_finished(store: Store) -> None:
    store.begin_proof([BASELINE, params(16)])
    assert bundle(store).proved


def test_names_are_such_that_systemd_and_nginx_take_them(tmp_path: Path) -> None:
    chosen = bundle(proved(tmp_path))
    odd = replace(chosen, found=replace(chosen.found, spec=study(study={"name": "My_Night.2"})))
    assert odd.name == "ollama-my-night-2"


def test_the_user_is_the_stores_owner_or_the_one_that_is_named(store: Store, tmp_path: Path) -> None:
    assert "\nUser=nobody\n" in bundle(store, user="nobody").files()["systemd/ollama-test@.service"]
    assert bundle(store).user == "root"
    assert "They run as root because the model store is root's" in bundle(store).files()["INSTALL.md"]
    gone = proved(tmp_path / "gone", provenance=PROVENANCE)
    with pytest.raises(UsageError, match=r"/models of all, where the models were: .*--user NAME"):
        bundle(gone)
    assert bundle(gone, user="ollama").user == "ollama"
    with pytest.raises(UsageError, match="--user 'two words': allowed is the name of a user"):
        bundle(gone, user="two words")


def test_a_folder_that_is_there_stays_the_one_it_is(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "lent"
    target.mkdir(mode=0o750)
    before = target.stat()
    export.write(store, target)
    after = target.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
