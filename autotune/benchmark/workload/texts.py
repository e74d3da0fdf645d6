"""Prompts whose text stands in a file."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import islice, starmap
from typing import TYPE_CHECKING, Any, Self

from autotune.benchmark.workload.prompt import Prompt, Workload, mark
from autotune.benchmark.workload.reading import MOST, members, needed, objects
from autotune.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from autotune.benchmark.workload.lengths import Lengths

CHARS_PER_TOKEN = 4.0
"""Of English text, about, where nothing is calibrated yet."""

LINE = '{"prompt": "…", "num_predict": 100}'
TALK = '[{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}]'

HUMAN, NEITHER = {"human", "user"}, {"system", "tool", "function"}
"""Roles in such files; every other one is the model."""


class JsonlWorkload(Workload):
    """The prompts of a file of JSON lines, in its order, from the start again when it is at its end.

    A line is an object with `prompt`, a text, and perhaps `num_predict`, a whole number above 0 that then stands in
    place of the drawn one. SpecError names the file, the line and what is allowed.
    """

    def __init__(self, path: Path, num_predict: Lengths, seed: int = 0) -> None:
        # no comprehension: where a line is wrong, its frame would keep the file open
        self._entries = tuple(starmap(_entry, islice(objects(path, LINE), MOST)))
        if not self._entries:
            raise SpecError(f'{path}: no prompts; a line is an object such as {{"prompt": "Why is the sky blue?"}}')
        self._num_predict = num_predict
        self._seed = seed

    def __len__(self) -> int:
        return len(self._entries)

    def prompt(self, index: int, nonce: str) -> Prompt:
        """The line at `index`, behind the nonce."""
        text, told = self._entries[index % len(self._entries)]
        drawn = self._num_predict.draw(random.Random(f"{self._seed}/{index}"))
        return Prompt(index, f"{mark(nonce, index)} {text}", drawn if told is None else told)

    def recalibrated(self, chars_per_token: float) -> Self:  # noqa: ARG002 - no length depends on it
        """The very same: texts and lengths are the file's."""
        return self


def _entry(where: str, entry: dict[str, Any]) -> tuple[str, int | None]:
    if unknown := sorted(set(entry) - {"prompt", "num_predict"}):
        raise SpecError(f"{where}: unknown key {unknown[0]!r}; allowed are prompt and num_predict")
    text, num_predict = entry.get("prompt"), entry.get("num_predict")
    if not isinstance(text, str) or not text:
        raise SpecError(f"{where}: prompt is {text!r}; allowed is a text that is not empty")
    if num_predict is not None and (type(num_predict) is not int or num_predict < 1):
        raise SpecError(f"{where}: num_predict is {num_predict!r}; allowed is a whole number above 0")
    return text, num_predict


@dataclass(frozen=True)
class ShareGptWorkload(Workload):
    """What people asked first in the conversations of a ShareGPT file, for answers as long as those that they got.

    The answers' lengths are known in characters; `chars_per_token` makes tokens of them.
    """

    entries: tuple[tuple[str, int], ...]
    """Each question, and the characters of its answer."""
    longest: int | None = None
    """The most tokens of an answer."""
    chars_per_token: float = CHARS_PER_TOKEN
    left_out: int = 0
    """Conversations of the file that had no answer, or were too long."""

    @classmethod
    def read(cls, path: Path, context: int | None = None, longest: int | None = None) -> Self:
        """The file's, but for those that would not fit into a context of so many tokens. Raises `SpecError`."""
        found = list(islice(_asked(path), MOST))
        fitting = [one for one in found if one is not None and _fits(*one, context, longest)]
        if not fitting:
            raise SpecError(
                f"{path}: none of its {len(found)} conversations has a human's text with an answer"
                + ("" if context is None else f" that together fit into {context} tokens")
            )
        return cls(tuple(fitting), longest, left_out=len(found) - len(fitting))

    def prompt(self, index: int, nonce: str) -> Prompt:
        """The question at `index`, behind the nonce."""
        text, chars = self.entries[index % len(self.entries)]
        return Prompt(index, f"{mark(nonce, index)} {text}", _tokens(chars, self.chars_per_token, self.longest))

    def recalibrated(self, chars_per_token: float) -> Self:
        """The same with another length of a token."""
        return replace(self, chars_per_token=chars_per_token)


def _tokens(chars: int, chars_per_token: float, longest: int | None) -> int:
    tokens = max(1, round(chars / chars_per_token))
    return tokens if longest is None else min(tokens, longest)


def _fits(text: str, chars: int, context: int | None, longest: int | None) -> bool:
    tokens = len(text) / CHARS_PER_TOKEN + _tokens(chars, CHARS_PER_TOKEN, longest)
    return context is None or tokens <= context


def _asked(path: Path) -> Iterator[tuple[str, int] | None]:
    """Of each conversation the first text of a human, and the length of the answer; None where there is none."""
    for where, entry in members(path, TALK):
        turns = [turn for turn in _turns(where, entry) if turn[0] not in NEITHER]
        at = next((number for number, (role, text) in enumerate(turns) if role in HUMAN and text.strip()), None)
        answer = turns[at + 1] if at is not None and at + 1 < len(turns) else ("human", "")
        yield (turns[at][1], len(answer[1])) if at is not None and answer[0] not in HUMAN and answer[1] else None


def _turns(where: str, entry: object) -> Iterator[tuple[str, str]]:
    if not isinstance(entry, dict):
        raise SpecError(f"{where}: not an object; allowed is {TALK}")
    needed(where, entry, ["conversations"])
    turns = entry["conversations"]
    if not isinstance(turns, list):
        raise SpecError(f"{where}: conversations is no list; allowed is {TALK}")
    for turn in turns:
        if not isinstance(turn, dict):
            raise SpecError(f"{where}: conversations: {str(turn)[:40]!r} is no object; allowed is {TALK}")
        needed(where, turn, ["from", "value"])
        for key in ("from", "value"):
            if not isinstance(turn[key], str):
                raise SpecError(f"{where}: conversations: {key} is {turn[key]!r}; allowed is a text")
        yield turn["from"], turn["value"]
