"""What instances need of their devices, and what comes of it where there is less.

It begins with what the model's metadata say (`space.forecast`). Each size is corrected by a parameter, and so is the
room that there is: by what Ollama tells of an instance, by what the driver says is in use, by what had room and what
had none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.belief.design import Array, Design
    from autotune.belief.question import Question

SIZING = ("memory", "cache", "buffer", "context", "spare")
"""The parameters that decide whether an instance fits: factors, as logarithms, of its weights, its cache, its buffers
on further devices, and what the driver takes for it; and the logarithm of what no instance gets of a device, bytes."""
KNOBS = "knob_memory"
"""What knobs add to the first of them, as buffers are counted with the weights."""
WIDTH = 0.01
"""Of the room, over which what fits becomes what does not."""


@dataclass(frozen=True)
class Sizing:
    """The sizes of one question's instances. The shapes are those of `law`."""

    question: Question
    at: Mapping[str, slice]
    """Where each parameter is in a vector."""
    _known: WeakKeyDictionary[Design, Array] = field(default_factory=WeakKeyDictionary, repr=False, compare=False)

    @cached_property
    def places(self) -> list[int]:
        """Of all these parameters in a vector."""
        return [place for name in (*SIZING, KNOBS) for place in range(self.at[name].start, self.at[name].stop)]

    def full(self, theta: Array, design: Design) -> Array:
        """[B, C] how full the fullest device is; 0 where nothing is known."""
        return self.both(theta, design)[0]

    def slower(self, theta: Array, design: Design) -> Array:
        """[B, C, J] by what a part is slower that does not fit; [1, 1, 1] where nothing is known."""
        return self.both(theta, design)[1]

    def sizes(self, theta: Array, design: Design) -> Array:
        """[B, C] bytes of the largest instance, as Ollama tells them; 0 where nothing is known."""
        found: Array = np.where(design.copies > 0, self._size(self._of(theta, design), design), 0.0).max(axis=2)
        return found

    def used(self, theta: Array, design: Design) -> Array:
        """[B, C] bytes of the fullest device that instances take; 0 where nothing is known."""
        found: Array = np.where(design.copies > 0, self._needed(self._of(theta, design), design), 0.0).max(axis=2)
        return found

    def both(self, theta: Array, design: Design) -> tuple[Array, Array]:
        """What `full` and `slower` say."""
        asked = self.question
        if not asked.weights_bytes or not min(asked.memory_bytes):
            return np.zeros((len(theta), len(design))), np.ones((1, 1, 1))
        scalar = self._of(theta, design)
        needed = self._needed(scalar, design)
        room = self._memory(design)
        if not asked.on_cpu:
            room = room - np.exp(scalar["spare"])
        width = WIDTH * room
        beyond = width * np.logaddexp(0.0, np.clip((needed - room) / width, -500, 500))
        full = np.where(design.copies[None] > 0, needed / room, 0.0).max(axis=2)
        return full, 1 + np.exp(scalar["offload"]) * beyond / needed

    def _memory(self, design: Design) -> Array:
        """[C, J] bytes of the smallest device of each part; found once for each design."""
        if design not in self._known:
            most = max(self.question.memory_bytes)
            least = np.where(design.devices > 0, np.array(self.question.memory_bytes), np.inf).min(axis=2)
            self._known[design] = np.where(np.isfinite(least) & (not self.question.on_cpu), least, most)
        return self._known[design]

    def _of(self, theta: Array, design: Design) -> dict[str, Array]:
        """Each parameter as [B, 1, 1]; with what knobs add the first of them is [B, C, 1]."""
        found = {name: theta[:, self.at[name]][:, :, None] for name in (*SIZING, "offload")}
        found["memory"] = found["memory"] + (theta[:, self.at[KNOBS]] @ design.knobs.T)[:, :, None]
        return found

    def _size(self, scalar: Mapping[str, Array], design: Design) -> Array:
        """[B, C, J] bytes of an instance of each part."""
        asked = self.question
        cache: Array = np.exp(scalar["cache"]) * asked.slot_bytes * design.slots * design.cache[:, None]
        more = np.exp(scalar["buffer"]) * asked.buffer_bytes * (design.span - 1)
        return np.exp(scalar["memory"]) * asked.weights_bytes + cache + more

    def _needed(self, scalar: Mapping[str, Array], design: Design) -> Array:
        """[B, C, J] bytes that each part needs of each of its devices; on a CPU, all of them of the host."""
        each = self._size(scalar, design) + np.exp(scalar["context"]) * self.question.context_bytes
        if self.question.on_cpu:
            return np.broadcast_to((design.copies * each).sum(axis=2, keepdims=True), each.shape)
        needed: Array = each * np.maximum(design.copies, 1) / design.span
        return needed
