"""`python -m autotune.simulator serve`: one simulated Ollama; its environment says which (see `environment`)."""

from __future__ import annotations

import os
import sys

from autotune.errors import AutotuneError
from autotune.simulator.server import run

USAGE = "usage: python -m autotune.simulator serve"


def main(arguments: list[str]) -> int:
    """The exit status."""
    if arguments != ["serve"]:
        sys.stderr.write(f"{USAGE}\n")
        return 2
    try:
        return run(os.environ)
    except AutotuneError as error:
        sys.stderr.write(f"Error: {error.message}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
