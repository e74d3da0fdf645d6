"""`autotune bench` and `autotune capacity`: the figures of any Ollama endpoint, without a study.

- `asked`: what was written behind the command, checked, as a value
- `slo`: limits by name
- `measuring`: the loads; `capacity`: the largest that holds
- `files`: what is kept
"""

from autotune.bench.asked import Job, job, search
from autotune.bench.capacity import Capacity, Step, capacity
from autotune.bench.files import FORMAT, read, save, save_capacity, save_csv, save_parquet
from autotune.bench.measuring import Found, load

__all__ = [
    "FORMAT",
    "Capacity",
    "Found",
    "Job",
    "Step",
    "capacity",
    "job",
    "load",
    "read",
    "save",
    "save_capacity",
    "save_csv",
    "save_parquet",
    "search",
]
