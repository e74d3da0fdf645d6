"""Hardware profiles: what a played host is made of, as TOML files beside this module or anywhere else.

A profile is frozen and complete: the laws in `model` and `memory` take every figure from here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autotune.errors import SpecError, complaint

MIB = 1 << 20
SHIPPED = Path(__file__).with_name("profiles")

LONGEST_S, MOST_MIB, MOST = 3600.0, 1 << 30, 1_000_000
"""No time of a real host is longer, no memory larger (a PiB), nothing that is counted more: what is, is a slip."""

Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]
Mib = Annotated[float, Field(ge=0, le=MOST_MIB)]
Times = Annotated[float, Field(ge=0.001, le=1000)]
"""A speed, or a slowness, against another."""
Stretch = Annotated[float, Field(ge=0, le=10)]
Sigma = Annotated[float, Field(ge=0, le=2)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class DeviceProfile(_Part):
    """One GPU of the played host."""

    uuid: str = Field(min_length=1)
    """What CUDA_VISIBLE_DEVICES names it by."""
    name: str
    memory_mib: int = Field(gt=0, le=MOST_MIB)
    reserved_mib: int = Field(default=170, ge=0)
    """Held by the driver: never free. 22528 − 22358 in the recordings."""
    speed: Times = 1.0
    """Relative to the device the models' step times were taken on: 2 halves every time."""
    compute_capability: str = "7.5"

    @model_validator(mode="after")
    def _some_memory(self) -> Self:
        if self.reserved_mib >= self.memory_mib:
            raise ValueError(f"reserved_mib = {self.reserved_mib} leaves nothing of memory_mib = {self.memory_mib}")
        return self

    @property
    def memory_bytes(self) -> int:
        """All of the device's memory."""
        return self.memory_mib * MIB

    @property
    def usable_bytes(self) -> int:
        """What is free on the empty device."""
        return (self.memory_mib - self.reserved_mib) * MIB


class HostProfile(_Part):
    """What the instances of a host share."""

    contention: Stretch = 0.0
    """Every further instance with a loaded model stretches all times of all of them by this part."""
    occupancy: float = Field(default=0.7, gt=0, le=1)
    """The part of a step during which it really occupies its device; the rest (launches, sampling) runs beside the
    neighbours' part. `r` instances on one device stretch a step by max(1, r · occupancy)."""
    cpu_slowdown: Times = 15.0
    """How many times slower a layer runs on the CPU than on a device of speed 1."""
    overhead_s: Seconds = 0.0
    """Time between a request's arrival and its place in the queue: parsing, tokenising, health check. Holds no slot."""
    step_jitter: Sigma = 0.0
    """Sigma of a log-normal factor (mean 1) on every step."""
    life_jitter: Sigma = 0.0
    """Sigma of a log-normal factor (mean 1) drawn once in the life of a process."""
    memory_mib: int = Field(default=64 * 1024, gt=0, le=MOST_MIB)
    context_mib: int = Field(default=300, ge=0, le=MOST_MIB)
    """Device memory an instance takes for itself, which no buffer line names. 8880 − 8580 in the recordings."""


class ModelProfile(_Part):
    """One model: its size, and its times on a device of speed 1, alone on the host."""

    name: str = Field(min_length=1)
    family: str = "llama"
    parameter_size: str = "1B"
    quantization: str = "Q4_K_M"
    capabilities: tuple[str, ...] = ("completion",)
    context_length: int = Field(default=32768, ge=4, le=1000 * MOST)
    """Tokens it was trained on: num_ctx is clamped to this."""
    embedding_length: int = Field(default=2048, gt=0, le=MOST)
    layers: int = Field(gt=0, le=MOST)
    """Without the output layer, which is placed like one more."""
    weights_mib: float = Field(gt=0, le=MOST_MIB)
    embedding_mib: Mib = 0.0
    """The part of the weights that stays in host memory even when every layer is on a device."""
    kv_mib_per_1024_tokens: Mib
    """Key-value cache at f16."""
    compute_mib: Mib = 520.0
    """Compute buffer, for each instance and device."""
    step_base_s: Seconds
    """a in: one decode step of a batch of b takes a + c·b."""
    step_slot_s: Seconds
    """c in: one decode step of a batch of b takes a + c·b."""
    prefill_base_s: Seconds = 0.0
    prefill_tps: float = Field(default=2000.0, ge=0.001, le=1000 * MOST)
    """Prompt tokens per second."""
    load_s: Seconds
    """From the disk."""
    warm_load_s: Seconds
    """From the page cache: some instance of this host has read the file before."""
    end_chance: float = Field(default=0.0, ge=0, le=1)
    """The chance of every token to be the end token."""
    answer_tokens: int = Field(default=256, gt=0, le=MOST)
    """Where an answer ends by itself when the request sets no num_predict."""

    @model_validator(mode="after")
    def _some_work(self) -> Self:
        if self.step_base_s + self.step_slot_s <= 0:
            raise ValueError("step_base_s and step_slot_s cannot both be 0")
        if self.embedding_mib > self.weights_mib:
            raise ValueError("embedding_mib is a part of weights_mib and cannot be larger")
        return self

    @property
    def weights_bytes(self) -> int:
        """The file's size."""
        return int(self.weights_mib * MIB)

    @property
    def all_layers(self) -> int:
        """M of "offloaded N/M layers": the output layer counts."""
        return self.layers + 1

    @property
    def kv_bytes_per_token(self) -> float:
        """At f16."""
        return self.kv_mib_per_1024_tokens * MIB / 1024

    @property
    def generates(self) -> bool:
        """It can answer, and not only embed."""
        return "completion" in self.capabilities


class Profile(_Part):
    """A played host: its devices, the models it has on disk, and how it behaves."""

    name: str
    version: str = "0.32.15"
    """What GET /api/version says. The API itself is the one of 0.32.15 whatever stands here."""
    time_scale: float = Field(default=1.0, gt=0, le=MOST)
    """Time compression: every time of the model is divided by this."""
    tps_error: float = Field(default=0.0, ge=0)
    """Of a profile that was fitted to a study: by which part the TPS of its trials, played again, is off in the median,
    0.2 is a fifth. 0 where nobody has held it against one."""
    host: HostProfile = HostProfile()
    devices: tuple[DeviceProfile, ...] = ()
    """In CUDA's order. None: a host without GPU."""
    models: tuple[ModelProfile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what, names in (("device", [d.uuid for d in self.devices]), ("model", [m.name for m in self.models])):
            if len(set(names)) < len(names):
                raise ValueError(f"two entries name the same {what}")
        return self

    def model(self, name: str = "") -> ModelProfile:
        """The model of this name, by default the first; KeyError without one."""
        if not name:
            return self.models[0]
        return {model.name: model for model in self.models}[name]


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """A shipped profile by its name, or any by its path."""
    path = _find(name_or_path)
    try:
        return Profile.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise SpecError(f"{path}: {complaint(error, 'profile')}") from error


def _find(name_or_path: str | Path) -> Path:
    shipped = SHIPPED / f"{name_or_path}.toml"
    if shipped.parent == SHIPPED and shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = ", ".join(shipped_profiles())
    raise SpecError(f"profile {str(name_or_path)!r}: no such file, and none of the shipped ones ({names})")
