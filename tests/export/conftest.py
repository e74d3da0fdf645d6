"""Studies with a proved winner, made once, and their exports: of the stand-in, and of a real Ollama."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from autotune import export
from autotune.confirm import Kind
from autotune.report import read
from autotune.store import Store
from tests.night.harness import Folder
from tests.night.test_real import on_cores

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RealOllama


@dataclass(frozen=True)
class Exported:
    """A study with a winner, and what was exported of it."""

    study: Folder
    folder: Path

    def read(self, name: str) -> str:
        """One file of it."""
        return (self.folder / name).read_text()

    @property
    def plan(self) -> str:
        """The name of its units, without @."""
        return "ollama-night"


def exported(study: Folder, folder: Path) -> Exported:
    """Run the study, with its proof, and export its winner."""
    done = study.run(timeout_s=280)
    assert done.code == 0, done.output
    found = read(Store(study.study))
    assert found.proof is not None
    assert found.proof.kind is Kind.WINNER, done.output
    export.write(Store(study.study), folder)
    return Exported(study, folder)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Of the stand-in: two instances with four slots beat one with one."""
    path = tmp_path_factory.mktemp("simulated")
    values = {"num_parallel": "[4]", "trials": 2, "finalists": 1, "warmup_s": 0.5, "window_s": 1.5}
    return exported(Folder(path, values), path / "bundle")


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory, real_ollama: RealOllama) -> Exported:
    """Of a real Ollama on this host's cores."""
    path = tmp_path_factory.mktemp("real")
    values = {"num_parallel": "[4]", "trials": 2, "finalists": 1, "warmup_s": 1, "window_s": 6}
    folder = on_cores(path, real_ollama, values)
    # Ollama logs each request: with a hundred of them a second the journal alone takes a core, which no file does
    folder.file.write_text(folder.file.read_text().replace("mean = 24", "mean = 200"))
    return exported(folder, path / "bundle")
