"""Whole nights in virtual time: what a study would find on a played host, many times over, in a minute.

The loop, the sampler, the scores and the proof are those of a night, unchanged. What is played is the host: a start, a
load, where the layers go, a load of requests; and what is kept stays in memory.

- `load`, `questions`: a load in its phases, without a clock; what its requests ask
- `stage`, `bench`: the cluster that Bench sees, and Bench on it
- `light`: a store and a sampler that touch no disk
- `host`: what a study stands on, told by the profile
- `truth`: how fast a configuration really is, in a long load without noise
- `nights`, `worth`, `summary`: one night, many nights, what each is worth in truth, what they say together
- `sightings`, `fit`, `sizes`, `page`, `profile`: a finished study as a hardware profile
"""

from __future__ import annotations

from autotune.rehearsal.host import played
from autotune.rehearsal.nights import simulate
from autotune.rehearsal.profile import make as profile
from autotune.rehearsal.summary import Point, Rehearsed, Told

__all__ = ["Point", "Rehearsed", "Told", "played", "profile", "simulate"]
