"""One night at a time: the lock names its holder and goes with it, however it ends."""

from __future__ import annotations

import os
import uuid

import pytest

from autotune.cluster.lock import Lock
from autotune.errors import DeviceBusy
from tests.cluster.programs import python, said

HOLD = (
    "import sys; from autotune.cluster.lock import Lock\n"
    "with Lock(sys.argv[1:]): print('ready', flush=True); sys.stdin.read()"
)


@pytest.fixture
def name() -> str:
    return f"device {uuid.uuid4()}"


def test_what_another_process_holds_is_refused_and_the_holder_named(name: str) -> None:
    with python(HOLD, name) as holder:
        assert said(holder) == "ready"
        with pytest.raises(DeviceBusy, match=rf"{name} is in use by .*: pid {holder.pid} of "), Lock([name]):
            pass


def test_a_lock_goes_with_a_holder_that_is_killed(name: str) -> None:
    with python(HOLD, name) as holder:
        holder.kill()
        holder.wait()
        with Lock([name]):
            pass


def test_a_lock_goes_at_the_end_of_the_block(name: str) -> None:
    for _ in range(2):
        with Lock([name]):
            pass
    with pytest.raises(KeyError), Lock([name]):
        raise KeyError
    with Lock([name]):
        pass


def test_the_same_process_does_not_get_it_twice(name: str) -> None:
    with Lock([name]), pytest.raises(DeviceBusy, match=f"pid {os.getpid()} of "), Lock([name]):
        pass


def test_all_names_or_none(name: str) -> None:
    with Lock([f"{name} 2"]):
        with pytest.raises(DeviceBusy, match=f"{name} 2 is in use"), Lock([f"{name} 1", f"{name} 2", f"{name} 3"]):
            pass
        with Lock([f"{name} 1", f"{name} 3"]):
            pass


def test_a_child_of_the_holder_does_not_hold_it(name: str) -> None:
    with python("print('ready', flush=True); input()") as child:
        with Lock([name]), python("print('ready', flush=True); input()") as later:
            assert said(child) == said(later) == "ready"
        with Lock([name]):
            assert later.poll() is not None


def test_names_of_any_length_are_told_apart() -> None:
    long = f"{uuid.uuid4()} " + "x" * 500
    with Lock([long + "1"]), Lock([long + "2"]):
        pass


def test_a_path_that_is_no_text_is_a_name_too(name: str) -> None:
    odd = os.fsdecode(f"study {name}".encode() + b"/w\xfcx")
    with Lock([odd]), pytest.raises(DeviceBusy, match=f"pid {os.getpid()} of "), Lock([odd]):
        pass
