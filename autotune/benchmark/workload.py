"""What is asked. Equal (seed, index) give equal bodies in every trial: trials differ in nothing but the cluster.

Only the nonce in front is fresh, for each request and trial: a body that the server has seen before would be answered
from its prompt cache, and be measured too fast. The nonce comes first because a cache keeps the longest common start.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from autotune.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COMMON = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work number night point home water room mother area money "
    "story fact month lot right study book eye job word business issue side kind head house service friend father "
    "power hour game line end member law car city name team minute idea body back parent face level office door "
    "health person art war history party result change morning reason research girl guy moment air teacher force "
    "education foot boy age policy music market sense nation plan college interest death course street image blue "
    "green river table winter summer paper garden small large early late young open white black full clear sure free "
    "whole cold"
)

WORDS = tuple(COMMON.split())
"""Nearly every tokenizer has each of them, with the space before it, as one token."""

CHARS_PER_TOKEN = sum(len(word) + 1 for word in WORDS) / len(WORDS)
"""How long a token is where nothing is calibrated yet."""

ASK = "Write a very long story, many pages, that uses these words in this order:"
"""Ollama cannot be told to ignore the end token; a model that is asked for much seldom stops early."""

CORPUS_CHARS = 1 << 18


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's text, and the most tokens its answer may have."""

    index: int
    text: str
    num_predict: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths in tokens, drawn by `draw` and then held between `least` and `most`."""

    kind: Literal["fixed", "uniform", "normal", "lognormal"]
    mean: float
    spread: float = 0.3
    """Relative: half the range of `uniform`, the standard deviation of the others, in parts of the mean."""
    least: int = 1
    most: int | None = None

    def draw(self, rng: random.Random) -> int:
        """One length."""
        length = max(self.least, round(self._value(rng)))
        return length if self.most is None else min(length, self.most)

    def _value(self, rng: random.Random) -> float:
        match self.kind:
            case "fixed":
                return self.mean
            case "uniform":
                return rng.uniform(self.mean * (1 - self.spread), self.mean * (1 + self.spread))
            case "normal":
                return rng.gauss(self.mean, self.mean * self.spread)
            case "lognormal":
                # with these two parameters the mean is `mean` and the standard deviation `mean × spread`
                variance = math.log1p(self.spread**2)
                return rng.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance))


def mark(nonce: str, index: int) -> str:
    """Sixteen hexadecimal digits, unique to this request of this trial: the start of its text."""
    return hashlib.blake2b(f"{nonce}/{index}".encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class SeededWorkload:
    """Random common words, in lengths that are drawn; everything follows from `seed`."""

    seed: int
    input_tokens: Lengths
    num_predict: Lengths
    chars_per_token: float = CHARS_PER_TOKEN
    """How long a token is taken to be; see `calibrate`."""

    def prompt(self, index: int, nonce: str) -> Prompt:
        """A text of about `input_tokens`, the nonce counted in; it has never fewer characters than the nonce."""
        rng = random.Random(f"{self.seed}/{index}")
        tokens, num_predict = self.input_tokens.draw(rng), self.num_predict.draw(rng)
        start = f"{mark(nonce, index)} "
        chars = round(tokens * self.chars_per_token) - len(start)
        return Prompt(index, start + self._body(chars, rng.random()), num_predict)

    def _body(self, chars: int, where: float) -> str:
        """A slice of the corpus: it costs nothing while requests are timed, however long the prompt is."""
        wanted = max(0, chars - len(ASK))
        begin = self._corpus.index(" ", int(where * CORPUS_CHARS))
        words = self._corpus[begin : begin + wanted]
        while len(words) < wanted:
            words += self._corpus[: wanted - len(words)]
        return f"{ASK}{words}"[: max(0, chars)]

    @cached_property
    def _corpus(self) -> str:
        rng = random.Random(f"{self.seed}/corpus")
        return " " + " ".join(rng.choices(WORDS, k=CORPUS_CHARS // 4))


class JsonlWorkload:
    """The prompts of a file of JSON lines, in its order, from the start again when it is at its end.

    A line is an object with `prompt`, a text, and perhaps `num_predict`, a whole number above 0 that then stands in
    place of the drawn one. SpecError names the file, the line and what is allowed.
    """

    def __init__(self, path: Path, num_predict: Lengths, seed: int = 0) -> None:
        self._entries = tuple(_entries(path))
        self._num_predict = num_predict
        self._seed = seed

    def __len__(self) -> int:
        return len(self._entries)

    def prompt(self, index: int, nonce: str) -> Prompt:
        """The line at `index`, behind the nonce."""
        text, told = self._entries[index % len(self._entries)]
        drawn = self._num_predict.draw(random.Random(f"{self._seed}/{index}"))
        return Prompt(index, f"{mark(nonce, index)} {text}", drawn if told is None else told)


Workload = SeededWorkload | JsonlWorkload
"""An endless, repeatable sequence of prompts: `prompt(index, nonce)`, where the nonce is unique to the trial."""


def _entries(path: Path) -> list[tuple[str, int | None]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: the file of prompts cannot be read: {error}") from error
    entries = [_entry(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise SpecError(f'{path}: no prompts; a line is an object such as {{"prompt": "Why is the sky blue?"}}')
    return entries


def _entry(where: str, line: str) -> tuple[str, int | None]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SpecError(f'{where}: not JSON ({error}); allowed is {{"prompt": "…", "num_predict": 100}}') from error
    if not isinstance(entry, dict):
        raise SpecError(f'{where}: not an object; allowed is {{"prompt": "…", "num_predict": 100}}')
    if unknown := sorted(set(entry) - {"prompt", "num_predict"}):
        raise SpecError(f"{where}: unknown key {unknown[0]!r}; allowed are prompt and num_predict")
    text, num_predict = entry.get("prompt"), entry.get("num_predict")
    if not isinstance(text, str) or not text:
        raise SpecError(f"{where}: prompt is {text!r}; allowed is a text that is not empty")
    if num_predict is not None and (type(num_predict) is not int or num_predict < 1):
        raise SpecError(f"{where}: num_predict is {num_predict!r}; allowed is a whole number above 0")
    return text, num_predict


def calibrate(chars_per_token: float, asked: Sequence[int], counted: Sequence[int]) -> float:
    """The length of a token that would have given what was asked.

    `asked` are the tokens that the prompts should have had, `counted` what the server says they had
    (`prompt_eval_count`, which counts the model's template too: so does production). Without counts, or where
    a token would have to be longer than 20 characters or shorter than half of one, the old length stays.
    """
    if not asked or len(asked) != len(counted) or sum(counted) <= 0:
        return chars_per_token
    better = chars_per_token * sum(asked) / sum(counted)
    return better if 0.5 <= better <= 20 else chars_per_token
