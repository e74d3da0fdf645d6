from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from autotune.analysis import Study, load
from tests.analysis.studies import Written, spec, whole

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole study, to be read only."""
    return whole(tmp_path_factory.mktemp("master") / "test").path


@pytest.fixture
def written(master: Path, tmp_path: Path) -> Written:
    """A copy of it, to go on with or to damage."""
    return Written(shutil.copytree(master, tmp_path / "test"), spec())


@pytest.fixture(scope="session")
def opened(master: Path) -> Study:
    """It, opened."""
    return load(master)
