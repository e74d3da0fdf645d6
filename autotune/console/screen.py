"""Where everything here is printed."""

from __future__ import annotations

from rich.console import Console


class Screen(Console):
    """A console that ends no program when the reader of its pipe has gone: `main` decides what that means."""

    def on_broken_pipe(self) -> None:
        """Print nothing more, as rich does, but raise what happened in place of its SystemExit(1)."""
        try:
            super().on_broken_pipe()
        except SystemExit as ended:
            raise BrokenPipeError from ended
