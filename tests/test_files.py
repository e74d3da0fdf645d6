"""Files that are there or not, never half."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from autotune.errors import DiskFull, StorageError
from autotune.files import check, create, sweep, write

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_written_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    write(path, "before")
    write(path, b"after")
    assert path.read_text() == "after"
    assert [*path.parent.iterdir()] == [path]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write(tmp_path / "link", "figures")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "figures"


def test_what_passes_on_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    check(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write(pipe, "figures")
    reader.join(10)
    assert got == ["figures"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_output_that_is_a_file_is_not_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "from pathlib import Path\nfrom autotune.errors import StorageError\nfrom autotune.files import check, write\n"
        "for doing in (check, lambda path: write(path, 'figures')):\n"
        "    try:\n        doing(Path('/dev/stdout'))\n"
        "    except StorageError as error:\n        print(error.message)\n"
    )
    with log.open("w") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert log.read_text() == 2 * f"/dev/stdout: leads to a file that is open; write {log}, or another name\n"


def test_what_a_link_leads_to_has_to_be_writable(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/sys/nothing")
    with pytest.raises(StorageError, match="link: "):
        check(tmp_path / "link")
    (tmp_path / "round").symlink_to("round")
    check(tmp_path / "round")
    write(tmp_path / "round", "figures")
    assert (tmp_path / "round").read_text() == "figures"


def test_whether_a_file_can_be_written_is_known_without_a_trace(tmp_path: Path) -> None:
    check(tmp_path / "file")
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(StorageError, match="No such file or directory"):
        check(tmp_path / "missing" / "file")
    with pytest.raises(StorageError, match="File name too long"):
        check(tmp_path / ("n" * 255))


def test_what_is_created_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match=r"file: No space left on device$"):
            create(path, b"part")
    assert [*tmp_path.iterdir()] == []
    assert create(path, b"whole") is True
    assert create(path, b"other") is False
    assert path.read_text() == "whole"
    (tmp_path / "link").symlink_to("nowhere")
    assert create(tmp_path / "link", b"other") is False
    assert [*tmp_path.glob("nowhere")] == []


def test_what_was_killed_in_the_midst_of_writing_is_swept_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (".plan.json-original", ".plan.json-short", "plan.json-abcdefgh", ".-abcdefgh", ".app-password")
    kept = [tmp_path / name for name in names]
    for path in kept:
        path.write_text("mine")
        path.chmod(0o644 if path is kept[0] else 0o600)
    (tmp_path / ".link.json-abcdefgh").symlink_to(kept[0])
    (tmp_path / ".folder.json-abcdefgh").mkdir()
    before = {*tmp_path.iterdir()}
    with monkeypatch.context() as killed:
        killed.setattr("pathlib.Path.replace", _stopped)
        killed.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        for path in (tmp_path / "plan.json", tmp_path / "trials" / "records-0.jsonl.gz"):
            with pytest.raises(KeyboardInterrupt):
                write(path, "whole")
    assert len([*tmp_path.rglob(".*-*")]) == len(before) + 1
    sweep([tmp_path / "gone", *tmp_path.rglob("*")], r".+\.json|records-\d+\.jsonl\.gz")
    assert {*tmp_path.rglob("*")} == {*before, tmp_path / "trials"}


def _stopped(*_: object) -> None:
    raise KeyboardInterrupt
