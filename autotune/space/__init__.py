"""The search space: layouts up to symmetry × the other parameters, less what cannot be."""

from autotune.space.build import build
from autotune.space.choices import ENUMERATED, USUAL, Params, Space, Value, key
from autotune.space.layout import Layout, Part, Shape, canonical, kinds, layouts, moved, orbit, parse_layout
from autotune.space.memory import ModelFacts, fits, needed_bytes, shortage
from autotune.space.pool import simple
from autotune.space.shape import Member, called, classes, instances, letter, own
from autotune.space.why import Dimension

__all__ = [
    "ENUMERATED",
    "USUAL",
    "Dimension",
    "Layout",
    "Member",
    "ModelFacts",
    "Params",
    "Part",
    "Shape",
    "Space",
    "Value",
    "build",
    "called",
    "canonical",
    "classes",
    "fits",
    "instances",
    "key",
    "kinds",
    "layouts",
    "letter",
    "moved",
    "needed_bytes",
    "orbit",
    "own",
    "parse_layout",
    "shortage",
    "simple",
]
