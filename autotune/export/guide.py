"""INSTALL.md, and the Modelfile of a derived model."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from autotune.cluster.nginx import EVERYWHERE
from autotune.export import compose
from autotune.export.systemd import DROP_IN, SITES, UNITS, library
from autotune.plan import LOOPBACK
from autotune.result import amount

if TYPE_CHECKING:
    from autotune.export.bundle import Bundle
    from autotune.spec import Level, StudySpec

_DERIVE = """
0. Make the derived model while the old service still runs. Its store has to be {models}:

{commands}
"""
_NOTES = """\
- Clients ask `{url}` for the model `{model}`. A request that sends `num_ctx`, `num_batch` or `num_thread` of its own
  makes Ollama load the model again.
- `ollama pull`, `ollama ps` and `ollama create` through the balancer reach one instance, and not always the same: `ps`
  shows a part of the cluster. Name an instance instead: `OLLAMA_HOST={first} ollama ps`. All instances share one model
  store, so that one `pull` serves them all.
- `OLLAMA_KEEP_ALIVE=-1` keeps the model in memory, and `OLLAMA_MAX_LOADED_MODELS=1` lets no second one in: a request
  for another model throws the first one out.
- The trials wrote Ollama's log to a file, units write it to the journal. At a hundred short requests a second that took
  a good part of a core where this was tried. `StandardOutput=append:FILE` in a drop-in does without.
- The units run as `{user}`, who must be able to read {models}.
"""
_ROOT = "- They run as root because the model store is root's. To name another user: `autotune export … --user NAME`.\n"
_OPEN = "- nginx listens on {listen}, and asks nobody for a password: mind the firewall.\n"
_DIRECT = "- The client of the trials spread the requests itself; the nginx site was not measured.\n"
_TOOLKIT = "The NVIDIA Container Toolkit has to be there."
_ROCM = f"ROCm's kernel driver has to be there: {', '.join(f'`{one}`' for one in compose.AMD)}."

_TEXT = """\
# {title}

{marks}

{answer}

{expected}

Read it once, then run the commands from inside this folder. They touch only files of their own names, and the service
that you stop in step 1.

## Install (systemd and nginx)
{derive}
1. Stop what serves now, so that devices and ports are free (`autotune doctor` names whatever holds them). Where
   `{name}@…` is among it, an earlier export of this name is installed, whose files this one would overwrite: take that
   back first by the INSTALL.md of its own, and keep its folder, which is your way back to it.

{stop}

2. Install the units, and start them. Each counts as started when its model is loaded:

{units}

3. Install the nginx site. With more than some hundred users raise `worker_connections` in `/etc/nginx/nginx.conf`:

{site}

4. Check: every instance has the model loaded, and a load like the one that was measured gives what was measured:

{check}

## Roll back

{rollback}

## Good to know

{notes}
## Containers in place of units

`compose.yaml` starts the same instances and the same nginx site in containers, on the host's network. This is not what
was measured: the trials ran Ollama without containers.{needed}

    docker compose up -d      # after step 1; `docker compose down` takes it back
"""


def install(bundle: Bundle) -> str:
    """How to install it, and how to take it back."""
    return _TEXT.format(
        name=bundle.name,
        title=f"{bundle.name}: {len(bundle.plan.instances)} × Ollama with {bundle.plan.slots} slots",
        marks="\n\n".join(f"**{mark}**" for mark in bundle.marks),
        answer=bundle.answer,
        expected=_expected(bundle),
        stop=_commands("systemctl list-units 'ollama*'        # what there is", "sudo systemctl disable --now ollama"),
        derive=_derive(bundle),
        units=_commands(*_units(bundle)),
        site=_commands(*_site(bundle)),
        check=_commands(*_check(bundle)),
        rollback=_commands(*_rollback(bundle)),
        notes=_notes(bundle),
        needed="".join(f" {one}" for one in _needed(bundle)),
    )


def modelfile(bundle: Bundle) -> str:
    """The derived model: parameters that no environment variable can set."""
    derived = bundle.plan.derived
    assert derived is not None
    lines = [f"FROM {derived.parent}", *(f"PARAMETER {name} {value}" for name, value in derived.parameters)]
    return bundle.comments + "\n".join(lines) + "\n"


def _commands(*lines: str) -> str:
    return "\n".join(f"       {line}" for line in lines)


def _expected(bundle: Bundle) -> str:
    told = bundle.expected()
    unit, mean = told["unit"], told["output_tps"] if "output_tps" in told else told["capacity"]
    value = f"{amount(mean, unit)} {unit}"
    if told["low"] is None:
        return f"Measured once: {value} at {told['load']}. One measurement is not a proof."
    return (
        f"What to expect at {told['load']}: {value}; a fresh start lands between"
        f" {amount(told['low'], unit)} and {amount(told['high'], unit)} 19 times of 20."
    )


def _numbers(bundle: Bundle) -> str:
    return " ".join(f"{bundle.name}@{number}" for number in range(len(bundle.plan.instances)))


def _derive(bundle: Bundle) -> str:
    """The derived model has to be in the store before an instance can load it."""
    if bundle.plan.derived is None:
        return ""
    commands = _commands(f"ollama create {bundle.model} -f Modelfile")
    return _DERIVE.format(models=bundle.provenance.models_dir, commands=commands)


def _units(bundle: Bundle) -> list[str]:
    lines = [
        f"sudo install -D -m 755 preload {library(bundle)}/preload",
        f"sudo install -m 644 systemd/{bundle.name}@.service {UNITS}/",
    ]
    for number in range(len(bundle.plan.instances)):
        folder = f"{bundle.name}@{number}.service.d"
        lines.append(f"sudo install -D -m 644 systemd/{folder}/{DROP_IN} {UNITS}/{folder}/{DROP_IN}")
    return [*lines, "sudo systemctl daemon-reload", f"sudo systemctl enable --now {_numbers(bundle)}"]


def _site(bundle: Bundle) -> list[str]:
    return [
        f"sudo install -m 644 nginx/{bundle.name}.conf {SITES}/",
        "sudo nginx -t && sudo systemctl reload-or-restart nginx",
    ]


def _check(bundle: Bundle) -> list[str]:
    shown = [f"curl -s {instance.url}/api/ps" for instance in bundle.plan.instances]
    capacity = bundle.expected().get("capacity")
    command = "bench" if capacity is None else "capacity"
    return [*shown, f"autotune {command} {_url(bundle)} --model {bundle.model} {load(bundle.spec, capacity)}"]


def load(spec: StudySpec, capacity: float | None = None) -> str:
    """The study's load, as far as it can be told: its lengths are all equal. A capacity is looked for where it was."""
    level, work = spec.level(None), spec.workload
    if capacity is not None:
        asked = _search(spec, capacity)
    else:
        asked = f"--concurrency {level.users}" if level.users is not None else _arrivals(level)
    if work.input_tokens is not None:
        prompts = f"--input-tokens {work.input_tokens.mean}"
    else:
        prompts = f"--prompts {quote(str(work.prompts))} --format {work.format}"
    if (shared := work.shared_prefix) is not None:
        prompts += f" --shared-prefix {shared.prefixes},{shared.tokens}"
    if work.conversation is not None:
        prompts += f" --turns {work.conversation.turns}"
    return (
        f"--endpoint {work.endpoint} {asked} {prompts} --num-predict {work.num_predict.mean}"
        f" --temperature {work.temperature:g} --warmup {work.warmup_s:g} --window {work.window_s:g}"
    )


def _search(spec: StudySpec, capacity: float) -> str:
    """What makes `autotune capacity` look for it."""
    asked, users = spec.objective, spec.level(None).users is not None
    limits = [f"--limit {one.metric}:{one.statistic}:{one.max:g}" for one in asked.limits]
    first = f"--first {max(1, round(capacity))}" if users else f"--by rate --first {float(f'{capacity:.3g}'):g}"
    sure = f"--resolution {asked.precision:g} --min-success-rate {asked.min_success_rate:g}"
    return " ".join([first, *limits, sure, f"--window-max {spec.workload.window_max_s:g}"])


def _arrivals(level: Level) -> str:
    """What comes whatever the cluster does, as `bench` says it."""
    if level.ramp is not None:
        start, end = level.ramp
        return f"--ramp {start:g},{end:g},{level.over_s:g}"
    if level.trace is not None:
        return f"--trace {level.trace:g}"
    shape = f" --burstiness {level.burstiness:g}" if level.burstiness is not None else ""
    return f"--rate {level.rate:g} --arrivals {level.arrivals}{shape}"


def _url(bundle: Bundle) -> str:
    """Where clients on this host reach it."""
    everywhere = bundle.listen in {"0.0.0.0", EVERYWHERE}  # noqa: S104 - compared, not bound
    return f"http://{LOOPBACK if everywhere else bundle.listen}:{bundle.plan.balancer.port}"


def _rollback(bundle: Bundle) -> list[str]:
    units = f"{UNITS}/{bundle.name}@"
    first = bundle.plan.instances[0].address
    return [
        *([f"OLLAMA_HOST={first} ollama rm {bundle.model}"] if bundle.plan.derived else []),
        f"sudo rm {SITES}/{bundle.name}.conf && sudo nginx -t && sudo systemctl reload-or-restart nginx",
        f"sudo systemctl disable --now {_numbers(bundle)}",
        f"sudo rm -r {units}.service {units}*.service.d {library(bundle)}",
        "sudo systemctl daemon-reload",
        "sudo systemctl enable --now ollama      # or whatever you stopped in step 1",
    ]


def _notes(bundle: Bundle) -> str:
    plan = bundle.plan
    notes = _NOTES.format(
        url=_url(bundle),
        model=bundle.model,
        first=plan.instances[0].address,
        user=bundle.user,
        models=bundle.provenance.models_dir,
    )
    notes += _ROOT if bundle.user == "root" and not bundle.spec.cluster.simulated else ""
    notes += _OPEN.format(listen=bundle.listen) if bundle.listen != LOOPBACK else ""
    return notes + (_DIRECT if plan.balancer.kind != "nginx" else "")


def _needed(bundle: Bundle) -> list[str]:
    """What this host has to have before containers can use its GPUs."""
    makes = [compose.amd(one) for one in bundle.plan.instances if one.on_gpu]
    return [needed for amd, needed in ((False, _TOOLKIT), (True, _ROCM)) if amd in makes]
