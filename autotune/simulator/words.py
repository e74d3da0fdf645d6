"""What the stand-in says: seeded random words, one a token, and how many tokens a prompt has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SYLLABLES = ("ba", "den", "fo", "gil", "ha", "kur", "lem", "mo", "nis", "pra", "quo", "rel", "su", "tav", "vin", "ze")

PIECES = tuple(f" {first}{second}" for first in SYLLABLES for second in SYLLABLES)
"""Each begins with its space, as pieces of a real tokenizer do."""

QUOTED = tuple(json.dumps(piece).encode() for piece in PIECES)
"""The same as JSON strings, so that nothing is serialised while tokens fly."""

CHARS_PER_TOKEN = 4
START_TOKENS = 1


def count_tokens(text: str, num_ctx: int) -> int:
    """Tokens of a prompt. One that does not fit is cut to half the context, as 0.32.15 does (514 of 1024)."""
    tokens = START_TOKENS + -(-len(text) // CHARS_PER_TOKEN)
    return tokens if tokens < num_ctx else num_ctx // 2 + 2


def choices(rng: random.Random) -> Iterator[int]:
    """Indices of pieces without end, never the same twice in a row: Ollama cuts an answer that repeats itself."""
    last = rng.randrange(len(PIECES))
    while True:
        last = (last + 1 + int(rng.random() * (len(PIECES) - 1))) % len(PIECES)
        yield last
