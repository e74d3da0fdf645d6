"""The event log: what happened when, also after a crash, and what a night was spent on."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune.errors import LoadFailed, StorageError
from autotune.events import Events, read
from autotune.night import spent
from autotune.simulator.clock import run_virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FULL = Path("/dev/full")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def logged(path: Path, story: Callable[[Events], Awaitable[None]]) -> list[dict[str, Any]]:
    """What the log says, and the listener heard, of a story in virtual time."""

    async def told() -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        await story(Events(path, heard.append))
        return heard

    return run_virtual(told())


def test_a_fact_has_its_time_and_its_fields(path: Path) -> None:
    async def story(events: Events) -> None:
        await asyncio.sleep(2.5)
        events.note("trial", number=3, reason="")

    heard = logged(path, story)
    (event,) = read(path)
    assert heard == [event]
    assert {**event, "at": ""} == {"at": "", "t": 2.5, "what": "trial", "number": 3, "reason": ""}
    assert abs(datetime.now(UTC) - datetime.fromisoformat(event["at"])).total_seconds() < 60


def test_a_span_is_noted_at_both_ends(path: Path) -> None:
    async def story(events: Events) -> None:
        with events.span("load", number=1):
            await asyncio.sleep(60)

    heard = logged(path, story)
    begins, ends = read(path)
    assert heard == [begins, ends]
    assert (begins["what"], begins["t"], begins["number"]) == ("load begins", 0.0, 1)
    assert (ends["what"], ends["t"], ends["number"], ends["seconds"]) == ("load", 60.0, 1, 60.0)
    assert "error" not in ends


@pytest.mark.parametrize("error", [LoadFailed("no room"), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_span_that_breaks_says_how_and_lets_the_error_through(path: Path, error: BaseException) -> None:
    async def story(events: Events) -> None:
        with events.span("preload"):
            await asyncio.sleep(3)
            raise error

    with pytest.raises(type(error)):
        logged(path, story)
    assert (read(path)[-1]["error"], read(path)[-1]["seconds"]) == (type(error).__name__, 3.0)


def test_what_is_only_shown_is_not_written(path: Path) -> None:
    async def story(events: Events) -> None:
        events.show({"what": "progress"})

    assert logged(path, story) == [{"what": "progress"}]
    assert read(path) == []
    run_virtual(_nobody_listens(path))


async def _nobody_listens(path: Path) -> None:
    Events(path).show({"what": "progress"})


def test_a_last_line_that_was_cut_off_is_ignored(path: Path) -> None:
    async def story(events: Events) -> None:
        for number in range(3):
            events.note("trial", number=number)

    logged(path, story)
    whole = path.read_bytes()
    for length in range(len(whole) - 2, len(whole) // 2, -7):
        path.write_bytes(whole[:length])
        assert [event["number"] for event in read(path)] in ([0, 1], [0])
    path.write_bytes(whole[:-1])
    assert len(read(path)) == 3  # only the end of the line is missing


def test_the_night_after_a_crash_begins_on_a_line_of_its_own(path: Path) -> None:
    path.write_bytes(b'{"t": 1.0, "what": "trial", "number": 1}\n{"at": "2026-01-01", "t": 3.0, "what": "lo')

    async def story(events: Events) -> None:
        events.note("night begins")
        events.note("night")

    logged(path, story)
    assert [event["what"] for event in read(path)] == ["trial", "night begins", "night"]


def test_lines_that_are_no_events_are_ignored(path: Path) -> None:
    path.write_bytes(
        b'\xff\xfe\n[]\n3\n{}\n\n{"what": "of no time"}\n{"t": "1", "what": "x"}\n{"t": 1, "what": "trial"}\n'
        b'{"t": 1, "what": 3}\n{"t": 1, "what": "preload", "seconds": "x"}\n{"t": 1, "what": "x", "number": null}\n'
    )
    assert read(path) == [{"t": 1, "what": "trial"}]


def test_a_log_that_cannot_be_read_is_a_storage_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match=r"events\.jsonl: Is a directory"):
        read(path)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this machine")
def test_a_full_disk_is_a_storage_error_but_never_hides_what_went_wrong_before(path: Path) -> None:
    path.symlink_to(FULL)

    async def story(events: Events) -> None:
        with pytest.raises(StorageError, match=r"events\.jsonl: No space left on device"):
            events.note("trial")
        with pytest.raises(StorageError), events.span("load"):
            raise AssertionError("the span did not begin")

    assert logged(path, story) == []


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this machine")
def test_ctrl_c_gets_through_although_it_cannot_be_noted(path: Path) -> None:
    def fill() -> None:
        path.unlink()
        path.symlink_to(FULL)

    async def story(events: Events) -> None:
        with events.span("load"):
            fill()
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        logged(path, story)


async def a_trial(events: Events, number: int, own_s: float) -> None:
    """Thirty seconds to start, sixty of window, and what autotune takes for itself after it."""
    with events.span("start", number=number):
        await asyncio.sleep(30)
    with events.span("load", number=number, label="5 users"):
        await asyncio.sleep(80)
    events.note("window", number=number, label="5 users", seconds=60.0)
    events.note("loaded", number=number)
    await asyncio.sleep(own_s)
    events.note("trial", number=number)


def test_what_a_night_was_spent_on(path: Path) -> None:
    async def story(events: Events) -> None:
        with events.span("night"):
            for number, own_s in enumerate((0.25, 2.0, 0.5, 9.0)):  # after the last one no trial follows
                await a_trial(events, number, own_s)

    logged(path, story)
    assert spent(path) == {"night": 4 * 110 + 11.75, "measured": 240.0, "own": 2.0}


def test_only_the_last_night_counts(path: Path) -> None:
    async def story(events: Events) -> None:
        for trials in (3, 1):
            with events.span("night"):
                for number in range(trials):
                    await a_trial(events, number, 1.0)

    logged(path, story)
    assert spent(path) == {"night": 111.0, "measured": 60.0, "own": 0.0}


def test_a_night_that_never_began_took_no_time(path: Path) -> None:
    assert spent(path) == {"night": 0.0, "measured": 0.0, "own": 0.0}
    path.write_text(json.dumps({"what": "trial", "t": 1.0}) + "\n")
    assert spent(path)["night"] == 0.0


def test_a_night_that_was_killed_is_as_long_as_its_log(path: Path) -> None:
    async def story(events: Events) -> None:
        events.note("night begins")
        await a_trial(events, 0, 1.0)

    logged(path, story)
    assert spent(path) == {"night": 111.0, "measured": 60.0, "own": 0.0}
