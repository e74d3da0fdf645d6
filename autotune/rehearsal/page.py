"""A fitted profile as a TOML file: each figure with where it comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from autotune.rehearsal.fit import NOTHING
from autotune.simulator.profiles import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autotune.plan import Provenance, ProvenDevice
    from autotune.rehearsal.fit import Figure, Fit
    from autotune.rehearsal.sizes import Sizes
    from autotune.spec import StudySpec

FAMILY, ONE_SLOT_FAMILY = "llama", "qwen35"
"""What the stand-in takes its number of slots from."""

LEAST_CONTEXT = 32768


class Reproduced(Protocol):
    """How well the profile reproduces the study."""

    @property
    def trials(self) -> int:
        """How many were played again."""

    @property
    def caution(self) -> str:
        """Why nothing is to be made of it; empty where something is."""

    @property
    def tps(self) -> float:
        """Median error."""

    @property
    def ttft(self) -> float:
        """Median error."""


@dataclass(frozen=True, slots=True)
class Found:
    """All that goes into the file."""

    spec: StudySpec
    provenance: Provenance
    fit: Fit
    sizes: Sizes
    loads: tuple[Figure, Figure]
    answers: tuple[Figure, Figure]
    kinds: Mapping[str, str]


def page(found: Found, errors: Reproduced | None = None) -> str:
    """The file's text."""
    return "\n".join([*_head(found, errors), *_host(found), *_devices(found), *_model(found), ""])


def _head(found: Found, errors: Reproduced | None) -> Iterator[str]:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", found.spec.study.name)
    yield f"# The host {_plain(found.provenance.host)} as the study {name} saw it, fitted by autotune."
    if errors is not None:
        yield f"# Played again on it, the {errors.trials} measured trials differ in the median by"
        yield f"# {errors.tps:.1%} in TPS and {errors.ttft:.1%} in mean TTFT."
        if errors.caution:
            yield f"# CAUTION: {errors.caution}"
    yield "# Not fitted: cpu_slowdown, step_jitter, embedding_mib, and whatever says so below."
    yield ""
    yield f'name = "{name}"'
    yield f'version = "{_plain(found.provenance.ollama)}"'
    if errors is not None:
        yield f"tps_error = {errors.tps:.6g}  # the median above, in parts"
    yield ""


def _host(found: Found) -> Iterator[str]:
    fit = found.fit
    yield "[host]"
    yield _line("contention", fit.contention)
    yield _line("occupancy", fit.occupancy, least=0.01)
    yield _line("overhead_s", fit.overhead_s)
    yield _line("life_jitter", fit.life_jitter)
    yield ""


def _devices(found: Found) -> Iterator[str]:
    for device in found.provenance.devices:
        yield "[[devices]]"
        yield f'uuid = "{_uuid(device)}"'
        yield f'name = "{_plain(device.name)}"'
        yield f"memory_mib = {device.memory_bytes // MIB}"
        yield _line("speed", found.fit.speeds[found.kinds[device.id]])
        yield ""


def _uuid(device: ProvenDevice) -> str:
    """The stand-in knows a device by a name as NVIDIA gives it."""
    made_up = f"GPU-{device.index:08}-0000-4000-8000-{device.index:012}"
    return device.id if re.fullmatch(r"GPU-[0-9A-Za-z-]+", device.id) else made_up


def _model(found: Found) -> Iterator[str]:
    fit, sizes = found.fit, found.sizes
    yield "[[models]]"
    yield f'name = "{found.spec.cluster.model}"'
    yield f'family = "{ONE_SLOT_FAMILY if sizes.one_slot else FAMILY}"'
    yield f"context_length = {max(LEAST_CONTEXT, found.spec.workload.num_ctx)}"
    yield f"layers = {sizes.layers.value:.0f}  # {sizes.layers.why}"
    yield _line("weights_mib", sizes.weights_mib)
    yield _line("kv_mib_per_1024_tokens", sizes.kv_mib_per_1024_tokens)
    yield _line("compute_mib", sizes.compute_mib)
    yield _line("step_base_s", fit.step_base_s)
    yield _line("step_slot_s", fit.step_slot_s)
    yield _line("prefill_base_s", fit.prefill_base_s)
    yield _line("prefill_tps", fit.prefill_tps)
    yield _line("load_s", found.loads[0])
    yield _line("warm_load_s", found.loads[1])
    yield _line("end_chance", found.answers[0])
    yield f"answer_tokens = {max(1, round(found.answers[1].value))}  # {found.answers[1].why}"


def _line(key: str, figure: Figure, least: float = 0.0) -> str:
    value = figure.value if abs(figure.value) >= NOTHING else 0.0
    return f"{key} = {max(least, value):.6g}  # {figure.why}"


def _plain(text: str) -> str:
    """Without what would end a string, or a line."""
    return re.sub(r'[\x00-\x1f"\\]', " ", text)
