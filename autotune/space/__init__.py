"""The search space: layouts up to symmetry × the other parameters, less what cannot be."""

from autotune.space.build import build
from autotune.space.choices import USUAL, LayoutChoice, Space, Value, key
from autotune.space.layout import Layout, Part, canonical, layouts, orbit, parse_layout
from autotune.space.memory import ModelFacts, fits, needed_bytes, shortage

__all__ = [
    "USUAL",
    "Layout",
    "LayoutChoice",
    "ModelFacts",
    "Part",
    "Space",
    "Value",
    "build",
    "canonical",
    "fits",
    "key",
    "layouts",
    "needed_bytes",
    "orbit",
    "parse_layout",
    "shortage",
]
