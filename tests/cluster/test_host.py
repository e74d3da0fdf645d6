"""What /proc tells about processes and ports."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

from autotune.cluster import host
from tests.cluster.programs import listener, running, said
from tests.conftest import free_ports, until

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 2**22 + 1
"""More than the highest pid of Linux."""


def test_a_process_is_known_by_its_pid_and_its_start() -> None:
    mine = host.identity(os.getpid())
    assert mine is not None
    assert host.runs(mine)
    assert not host.runs(host.Identity(mine.pid, mine.started + 1))
    assert host.identity(NOBODY) is None
    assert not host.runs(host.Identity(NOBODY, 0))


async def test_a_process_that_has_ended_does_not_run_though_nobody_has_asked_for_it() -> None:
    with running("sh", "-c", "echo ready; read line") as process:
        found = host.identity(process.pid)
        assert found is not None
        assert host.runs(found)
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: not host.runs(found))
        assert host.session(process.pid) == []
        assert host.identity(process.pid) == found  # still there, as a zombie


def test_a_name_in_parentheses_does_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / "a) Z 1 (b"
    odd.symlink_to("/bin/sh")
    with running(str(odd), "-c", "echo ready; read line") as process:
        found = host.stat(process.pid)
        assert found is not None
        assert (found.parent, found.session) == (os.getpid(), process.pid)


def test_children_and_session_of_a_process() -> None:
    with running("sh", "-c", "sleep 60 & echo $!; wait") as leader:
        child = int(said(leader))
        try:
            assert host.children(leader.pid) == [child]
            assert leader.pid in host.children(os.getpid())
            assert sorted(host.session(leader.pid)) == sorted([leader.pid, child])
        finally:
            host.send(child, signal.SIGKILL)


def test_environment_and_arguments() -> None:
    with running("sh", "-c", "echo ready; read line", ODD="a=b\nc", EMPTY="") as process:
        told = host.environment(process.pid)
        assert (told["ODD"], told["EMPTY"], told["PATH"]) == ("a=b\nc", "", "/usr/bin:/bin")
        assert host.argv(process.pid) == ["sh", "-c", "echo ready; read line"]
        assert host.describe(process.pid).startswith(f"pid {process.pid} of ")
        assert host.describe(process.pid).endswith("(sh -c echo ready; read line)")


def test_nobody_has_no_environment_and_no_arguments() -> None:
    assert host.environment(NOBODY) == {}
    assert host.argv(NOBODY) == []
    assert host.children(NOBODY) == host.session(NOBODY) == []
    assert host.describe(NOBODY) == f"pid {NOBODY} of ? (?)"
    host.send(NOBODY, signal.SIGKILL)


def test_the_holder_of_a_port_is_named() -> None:
    port = free_ports(1)
    assert host.port_free(port)
    with listener(port) as process:
        assert not host.port_free(port)
        assert host.port_holder(port).startswith(f"pid {process.pid} of ")
    assert host.port_free(port)


def test_a_port_that_is_held_on_all_addresses_is_not_free() -> None:
    port = free_ports(1)
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        if family == socket.AF_INET6 and not _has_ipv6():
            continue
        with socket.socket(family, socket.SOCK_STREAM) as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((address, port))
            held.listen()
            assert not host.port_free(port)
            assert host.port_holder(port).startswith(f"pid {os.getpid()} of ")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def test_a_port_that_nobody_holds_has_no_visible_holder() -> None:
    assert host.port_holder(free_ports(1)) == "a process that is not visible to this user"


def test_a_port_just_left_is_free_at_once() -> None:
    """Connections in TIME_WAIT do not count: an instance is restarted on the same port."""
    port = free_ports(1)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first waits
            assert client.recv(1) == b""
    assert host.port_free(port)
