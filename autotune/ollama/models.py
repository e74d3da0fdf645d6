"""The model store on disk: where it lies, and what is in it.

Source: Ollama's `manifest/paths.go` and `types/model/name.go`.
"""

from __future__ import annotations

import os
from pathlib import Path

from autotune.ollama.api import full_name

SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")
"""Where the service that Ollama's installer makes keeps its models."""
UNREADABLE = "not readable for this user: run as its owner or as root"


def stores() -> list[Path]:
    """Where a store usually is: what OLLAMA_MODELS names, the service's, the user's. It need not be there."""
    named = os.environ.get("OLLAMA_MODELS")
    return [*([Path(named)] if named else []), SERVICE_STORE, Path.home() / ".ollama" / "models"]


def unusable(store: Path) -> str:
    """Why a store cannot be used; empty if it can."""
    try:
        next((store / "manifests").iterdir(), None)
    except PermissionError:
        return UNREADABLE
    except OSError:
        return "not a model store: it has no folder `manifests`"
    return ""


def manifest(store: Path, model: str) -> Path:
    """Where a store keeps a model's manifest."""
    name, _, tag = full_name(model).rpartition(":")
    return store / "manifests" / name / tag


def models(store: Path) -> list[str]:
    """The models in a store, by the names that `ollama list` shows."""
    found = (path.relative_to(store / "manifests") for path in store.glob("manifests/*/*/*/*") if path.is_file())
    return sorted(_shown(f"{path.parent}:{path.name}") for path in found)


def _shown(name: str) -> str:
    return name.removeprefix("registry.ollama.ai/").removeprefix("library/")
