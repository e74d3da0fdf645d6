"""The models of a played host: those of the profile, and those derived from them, which all its instances see."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.simulator.profiles import ModelProfile, Profile

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One model as a server lists it."""

    name: str
    """With its tag."""
    model: ModelProfile
    blob: str
    """Path of its file: two names of one file share one loaded model."""
    modified_at: str
    parameters: Json = field(default_factory=dict)
    """Options that requests without them get."""
    parent: str = ""

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return hashlib.sha256(f"{self.name} {self.parameters}".encode()).hexdigest()

    @property
    def details(self) -> Json:
        """As in /api/ps and /api/show."""
        model = self.model
        return {
            "parent_model": self.parent,
            "format": "gguf",
            "family": model.family,
            "families": [model.family],
            "parameter_size": model.parameter_size,
            "quantization_level": model.quantization,
        }

    def listed(self) -> Json:
        """As in /api/tags."""
        model = self.model
        more = {"context_length": model.context_length, "embedding_length": model.embedding_length}
        return {
            "name": self.name,
            "model": self.name,
            "modified_at": self.modified_at,
            "size": model.weights_bytes,
            "digest": self.digest,
            "details": self.details | more,
            "capabilities": list(model.capabilities),
        }

    def shown(self) -> Json:
        """As in /api/show."""
        shown: Json = {"modelfile": f"# Modelfile of a simulated model\nFROM {self.blob}\nTEMPLATE {{{{ .Prompt }}}}\n"}
        if self.parameters:
            shown["parameters"] = "\n".join(f"{key:<30} {value}" for key, value in self.parameters.items())
        return shown | {
            "template": "{{ .Prompt }}",
            "details": self.details,
            "model_info": _model_info(self.model),
            "tensors": [{"name": "token_embd.weight", "type": "F16", "shape": [self.model.embedding_length, 442]}],
            "capabilities": list(self.model.capabilities),
            "modified_at": self.modified_at,
        }


class Library:
    """What is on the host's disk. Derived models are in one file, read again at every look."""

    def __init__(self, profile: Profile, models: Path, state: Path) -> None:
        self._models = models
        self._derived = state / "derived.json"
        installed_at = go_time(time.time_ns())
        self._own = {
            tagged(model.name): self._entry(model, tagged(model.name), installed_at) for model in profile.models
        }

    def entries(self) -> dict[str, Entry]:
        """All models by tagged name."""
        return self._own | {name: self._from_file(name, kept) for name, kept in self._read().items()}

    def find(self, name: str) -> Entry | None:
        """The model of this name, with or without its tag."""
        own = self._own.get(tagged(name))
        return own or self.entries().get(tagged(name))

    def derive(self, name: str, origin: Entry, parameters: Json) -> None:
        """A new name for a model, with options of its own."""
        kept = {
            "from": tagged(origin.model.name),
            "parameters": origin.parameters | parameters,
            "modified_at": go_time(time.time_ns()),
        }
        self._write(self._read() | {tagged(name): kept})

    def delete(self, name: str) -> bool:
        """Forget a derived model; False if there is none of this name."""
        kept = self._read()
        if kept.pop(tagged(name), None) is None:
            return False
        self._write(kept)
        return True

    def _entry(self, model: ModelProfile, name: str, modified_at: str) -> Entry:
        blob = self._models / "blobs" / f"sha256-{hashlib.sha256(model.name.encode()).hexdigest()}"
        return Entry(name, model, str(blob), modified_at)

    def _from_file(self, name: str, kept: Json) -> Entry:
        origin = self._own[kept["from"]]
        return Entry(name, origin.model, origin.blob, kept["modified_at"], kept["parameters"], origin.name)

    def _read(self) -> dict[str, Json]:
        try:
            kept: dict[str, Json] = json.loads(self._derived.read_text())
        except FileNotFoundError:
            return {}
        return {name: entry for name, entry in kept.items() if entry["from"] in self._own}

    def _write(self, kept: dict[str, Json]) -> None:
        draft = self._derived.with_suffix(".draft")
        draft.write_text(json.dumps(kept, indent=1))
        draft.replace(self._derived)


def tagged(name: str) -> str:
    """A name with its tag, `latest` where it has none."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _model_info(model: ModelProfile) -> Json:
    family = model.family
    kv_heads = 2
    key_length = max(1, round(model.kv_bytes_per_token / (4 * model.layers * kv_heads)))
    return {
        "general.architecture": family,
        "general.file_type": 1,
        "general.parameter_count": model.weights_bytes // 2,
        f"{family}.attention.head_count": 4,
        f"{family}.attention.head_count_kv": kv_heads,
        f"{family}.attention.key_length": key_length,
        f"{family}.attention.layer_norm_rms_epsilon": 0.00001,
        f"{family}.attention.value_length": key_length,
        f"{family}.block_count": model.layers,
        f"{family}.context_length": model.context_length,
        f"{family}.embedding_length": model.embedding_length,
        f"{family}.feed_forward_length": 2 * model.embedding_length,
        f"{family}.rope.dimension_count": key_length,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.token_type": None,
        "tokenizer.ggml.tokens": None,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def go_time(ns: int) -> str:
    """Nanoseconds since 1970 as Go writes a time in JSON: trailing zeros are left out."""
    seconds, part = divmod(ns, 10**9)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{part:09d}".rstrip("0")
    return f"{stamp}.{digits}Z" if digits else f"{stamp}Z"
