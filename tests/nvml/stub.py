"""A stand-in for NVIDIA's library behind the real pynvml: `stub.c`, compiled where a test needs it."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

P = ParamSpec("P")
T = TypeVar("T")


def build_stub(folder: Path) -> Path:
    """Compile the stand-in and return the folder to put on LD_LIBRARY_PATH. Skips the test without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (gcc, cc) to build the stand-in for libnvidia-ml.so.1 with")
    library = folder / "libnvidia-ml.so.1"
    strict = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]
    command = [
        compiler,
        *strict,
        "-shared",
        "-fPIC",
        "-Wl,-soname,libnvidia-ml.so.1",
        "-o",
        str(library),
        str(HERE / "stub.c"),
    ]
    subprocess.run(command, check=True)
    return folder


@dataclass(frozen=True)
class Stub:
    """The compiled stand-in, and the file that tells it which cards there are."""

    folder: Path
    state: Path

    def tell(self, text: str) -> None:
        """Say which cards there are from now on; `stub.c` says how. Without a word there are four RTX 2080 Ti."""
        self.state.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with the stand-in in place of the real library."""
        state = {"NVML_STUB_STATE": str(self.state)} if self.state.exists() else {}
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "PYTHONPATH": str(ROOT), **state}

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in a process that sees the stand-in; return what it returns, raise what it raises."""
        call = pickle.dumps((function.__module__, function.__qualname__, args, kwargs))
        command = [sys.executable, "-m", "tests.nvml.child"]
        done = subprocess.run(command, input=call, env=self.environment, stdout=subprocess.PIPE, check=True, timeout=60)
        value, error = pickle.loads(done.stdout)
        if error is not None:
            raise error
        return cast("T", value)


@pytest.fixture(scope="session", name="stub_folder")
def stub_folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, compiled once."""
    return build_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(name="stub")
def stub_fixture(stub_folder: Path, tmp_path: Path) -> Stub:
    """The stand-in with its four RTX 2080 Ti, until the test tells it otherwise."""
    return Stub(stub_folder, tmp_path / "nvml-state")
