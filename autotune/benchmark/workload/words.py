"""Text of any length, made of common words; slices of one long seeded text, so that it costs nothing under load."""

from __future__ import annotations

import random
from functools import lru_cache

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


def asking(seed: int, chars: int, where: float) -> str:
    """So many characters that ask for a long answer, cut off where they are too few."""
    return f"{ASK}{words(seed, chars - len(ASK), where)}"[: max(0, chars)]


def words(seed: int, chars: int, where: float) -> str:
    """So many characters of words, each behind its space, from a place in the corpus on: `where` is in [0, 1)."""
    if chars <= 0:
        return ""
    corpus = _corpus(seed)
    begin = corpus.index(" ", int(where * CORPUS_CHARS))
    found = corpus[begin : begin + chars]
    while len(found) < chars:
        found += corpus[: chars - len(found)]
    return found


@lru_cache(maxsize=4)
def _corpus(seed: int) -> str:
    rng = random.Random(f"{seed}/corpus")
    return " " + " ".join(rng.choices(WORDS, k=CORPUS_CHARS // 4))
