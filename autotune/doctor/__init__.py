"""What a night needs on this host: what was found, whether it will do, and what mends it.

Nothing is changed, and nothing is started but `ollama --version` and `nginx -v`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autotune.doctor import devices, places, programs
from autotune.doctor.check import Check, State, content, count

if TYPE_CHECKING:
    from autotune.spec import StudySpec

__all__ = ["Check", "State", "content", "count", "examine"]


def examine(
    spec: StudySpec | None, folder: Path, *, sysfs: Path = Path("/sys"), procfs: Path = Path("/proc")
) -> list[Check]:
    """Look at this host: for a study, whose results would land in `folder`, or in general."""
    return _for_study(spec, folder, sysfs, procfs) if spec is not None else _in_general(folder, sysfs, procfs)


def _for_study(spec: StudySpec, folder: Path, sysfs: Path, procfs: Path) -> list[Check]:
    seen, found = devices.of_study(spec)
    misfits, instances = places.layouts(spec, found)
    return [
        programs.ollama(spec),
        places.model(spec, folder),
        *places.prompts(spec),
        *places.windows(spec),
        programs.nginx(spec),
        programs.util_linux(found),
        *seen,
        *misfits,
        *([] if found is None or found.simulated else devices.pace(found, sysfs, procfs)),
        *places.nights(spec, found, folder, instances),
        *places.ports(spec, instances),
        places.results(folder, spec),
    ]


def _in_general(folder: Path, sysfs: Path, procfs: Path) -> list[Check]:
    seen, found = devices.of_host(sysfs, procfs)
    gpus = sum(not device.cpus for device in found.devices)
    return [
        programs.ollama(None),
        *places.model_stores(),
        programs.nginx(None),
        programs.util_linux(None),
        *seen,
        *devices.pace(found, sysfs, procfs),
        *places.usual_ports(max(gpus, 1)),
        places.results(folder),
    ]
