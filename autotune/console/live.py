"""What moves while something runs: a live view on a terminal, log lines elsewhere."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.live import Live

from autotune.console.panel import Panel
from autotune.console.scene import Scene, candidate_name
from autotune.report.answers import proved
from autotune.report.words import configuration, figures, span, verdict, warm
from autotune.simulator import SIMULATED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

    from autotune.earlier import Warmth
    from autotune.result import TrialResult
    from autotune.selftest import SelfTest
    from autotune.spec import StudySpec

REFRESH_S = 0.25
"""The view is drawn at most so often: it shares the event loop with the measurement."""
TICK_S = 1.0
"""And at least so often, so that a long stage is seen to go on."""


class Night:
    """Shows a night as it goes: feed it the events.

    `clock` is the time that a person waits, also where the night's own is virtual.
    """

    def __init__(
        self,
        spec: StudySpec,
        console: Console,
        earlier: Sequence[TrialResult] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._console = console
        self._clock = clock
        self._now_s = clock()
        self._scene = Scene(spec, earlier, self._now_s)
        moves = console.is_terminal and not console.is_dumb_terminal
        live = Live(console=console, auto_refresh=False, get_renderable=self.frame, vertical_overflow="crop")
        self._live = live if moves else None
        self._drawn_s = self._now_s - REFRESH_S
        self._timer: asyncio.TimerHandle | None = None
        self._unsaid: list[str] = []
        self._tell: dict[str, Callable[[dict[str, Any]], None]] = {
            "trial begins": self._on_begin,
            "foretold": self._on_foretold,
            "level": self._on_level,
            "result": self._on_result,
            "fault": self._on_fault,
            "apart": self._on_apart,
            "quarantine": self._on_quarantine,
            "retry": self._on_retry,
            "single": self._on_single,
            "swept": self._on_swept,
            "warm start": self._on_warm,
            "selftest": self._on_selftest,
            "client": self._on_client,
            "proof begins": self._on_proof,
            "run begins": self._on_begin,
            "run": self._on_run,
            "proof look": self._on_look,
        }

    def __enter__(self) -> Night:
        if self._live:
            self._live.start()
        elif self._spec.cluster.simulated:
            self.say(SIMULATED)
        return self

    def __exit__(self, *_: object) -> None:
        self._wake_in(None)
        if self._live:
            with suppress(OSError, SystemExit):  # the terminal may be gone
                self._draw()
                self._live.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        self._now_s = self._clock()
        self._scene.see(event, self._now_s)
        if tell := self._tell.get(str(event["what"])):
            tell(event)
        if self._live:
            self._refresh()

    def frame(self) -> Panel:
        """What the live view shows now."""
        return Panel(self._scene, self._clock())

    # the terminal

    def _refresh(self) -> None:
        """Draw now, or as soon as it may be."""
        wait_s = self._drawn_s + REFRESH_S - self._clock()
        if wait_s <= 0:
            self._draw()
            wait_s = TICK_S
        self._wake_in(wait_s)

    def _draw(self) -> None:
        assert self._live is not None
        self._drawn_s = self._clock()
        with self._console:  # what is said and the view below it reach the terminal in one piece
            if self._unsaid:
                self._print("\n".join(self._unsaid))
                self._unsaid.clear()
            self._live.refresh()

    def _wake_in(self, wait_s: float | None) -> None:
        """Draw again by then, whatever happens; None: never."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wait_s is not None:
            with suppress(RuntimeError):  # without an event loop there is nothing to wait for
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def _tick(self) -> None:
        with suppress(OSError, SystemExit):  # the terminal is gone: the next event finds out, see `Events.show`
            self._draw()
            self._wake_in(TICK_S)

    # what stays

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live:
            self._unsaid.append(text)
        else:
            self._print(f"{datetime.now().astimezone():%H:%M:%S} {text}")

    def _print(self, text: str) -> None:
        encoding = self._console.encoding  # a letter that the terminal cannot show is no reason to end a night
        text = text.encode(encoding, "replace").decode(encoding)
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _on_begin(self, _: dict[str, Any]) -> None:
        proof = self._scene.proof
        if not self._live:
            self.say(f"{proof.title}: {self._scene.subject}" if proof is not None else self._scene.subject)

    def _on_foretold(self, event: dict[str, Any]) -> None:
        if not self._live:
            limits = "".join(f", {name} {_between(found)} s" for name, found in event["limits"].items())
            self.say(
                f"  expected: {_between({**event, 'value': event['tps']})} tokens/s{limits},"
                f" {event['holds']:.0%} likely within the limits; {event['trust']}"
            )

    def _on_level(self, event: dict[str, Any]) -> None:
        self.say(f"  {event['label']}: {figures(event['metrics'])}")

    def _on_result(self, event: dict[str, Any]) -> None:
        self._on_run(event)
        if not self._live:
            self.say(f"  {self._scene.best()}; {self._scene.progress(self._now_s)}")

    def _on_run(self, event: dict[str, Any]) -> None:
        result: TrialResult = event["result"]
        self.say(f"  {verdict(result)} ({span(result.seconds)})")
        for caution in result.cautions:
            self.say(f"  caution: {caution}")

    def _on_fault(self, event: dict[str, Any]) -> None:
        again = "the trial is tried again" if event["left"] else "that was the last try"
        self.say(f"  fault of the machine, not of the configuration: {event['error']}; {again}")

    def _on_apart(self, event: dict[str, Any]) -> None:
        self.say(f"  {event['said']}; the search goes on without Optuna's file: all that it holds is in the trials")

    def _on_quarantine(self, event: dict[str, Any]) -> None:
        self.say(f"  left out from now on, and in later nights of this study: {event['said']}")

    def _on_retry(self, event: dict[str, Any]) -> None:
        self.say(f"  the baseline did not run: {event['result'].message}; it is tried once more")

    def _on_single(self, _: dict[str, Any]) -> None:
        self.say("  Ollama serves this model with one slot whatever it is told: num_parallel is left out of the search")

    def _on_swept(self, event: dict[str, Any]) -> None:
        self.say(f"ended what an earlier run left behind: {event['process']}")

    def _on_warm(self, event: dict[str, Any]) -> None:
        found: Warmth = event["warmth"]
        if found.used:
            self.say(f"warm start: {warm(found)}")
        for one in found.left:
            self.say(f"  earlier study not used: {one}")

    def _on_selftest(self, event: dict[str, Any]) -> None:
        found: SelfTest = event["found"]
        self.say(
            f"the client: TTFT ± {1000 * found.error_p99_s:.1f} ms (99 of 100, with {found.concurrency} streams),"
            f" {found.tokens_per_core:,.0f} tokens/s a process"
        )
        for fault in found.faults:
            self.say(f"  caution: {fault}")

    def _on_client(self, event: dict[str, Any]) -> None:
        self.say(f"  {event['said']}")

    def _on_proof(self, event: dict[str, Any]) -> None:
        for candidate, params in enumerate(event["candidates"]):
            self.say(f"proof: {candidate_name(candidate)}: {configuration(params)}")

    def _on_look(self, event: dict[str, Any]) -> None:
        self.say(f"proof, after {event['blocks']} blocks: {proved(event['verdict'])}")


def _between(found: Mapping[str, float]) -> str:
    return f"{found['value']:.4g} ({found['low']:.4g} to {found['high']:.4g})"
