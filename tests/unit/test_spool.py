"""The durable queue of one receiver: order, restarts, torn ends, and its bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway import spool as module
from gateway.spool import Spool
from tests.support.descriptors import descriptors

ROOM = 1 << 20


def drained(spool: Spool, limit: int = 10_000) -> list[bytes]:
    found = []
    while len(found) < limit and (message := spool.peek()) is not None:
        assert spool.peek() == message
        found.append(message)
        spool.advance()
    return found


def test_messages_come_in_order_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "hook", ROOM)
    assert spool.peek() is None
    assert spool.append([b"1", b"", b"3"]) == 3
    assert drained(spool) == [b"1", b"", b"3"]
    assert spool.append([b"4"]) == 1
    assert drained(spool) == [b"4"]
    assert spool.waiting_bytes() == 0
    spool.close()


def test_restarts_go_on_where_delivery_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOM)
    spool.append([b"1", b"2", b"3"])
    assert drained(spool, 1) == [b"1"]
    assert spool.peek() == b"2"
    spool.close()
    spool = Spool(tmp_path, ROOM)
    spool.append([b"4"])
    assert drained(spool) == [b"2", b"3", b"4"]
    spool.close()
    spool = Spool(tmp_path, ROOM)
    assert spool.peek() is None
    spool.append([b"5"])
    assert drained(spool) == [b"5"]
    spool.close()


def test_segments_that_were_read_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 50)
    spool = Spool(tmp_path, ROOM)
    sent, got = [], []
    for number in range(60):
        message = b"%030d" % number
        sent.append(message)
        spool.append([message])
        if number % 3:
            got += drained(spool, 1)
        if number % 17 == 16:
            spool.close()
            spool = Spool(tmp_path, ROOM)
    got += drained(spool)
    assert got == sent
    assert len(list(tmp_path.glob("*.log"))) == 1
    spool.close()


def test_torn_last_message_is_cut_off(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOM)
    spool.append([b"whole", b"torn!"])
    spool.close()
    (log,) = tmp_path.glob("*.log")
    log.write_bytes(log.read_bytes()[:-1])
    spool = Spool(tmp_path, ROOM)
    spool.append([b"next"])
    assert drained(spool) == [b"whole", b"next"]
    spool.close()


def test_lost_cursor_repeats_and_skips_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOM)
    spool.append([b"1", b"2"])
    drained(spool, 1)
    spool.close()
    (tmp_path / "cursor").write_bytes(b"")
    spool = Spool(tmp_path, ROOM)
    assert drained(spool) == [b"1", b"2"]
    spool.close()


def full(fd: int, *rest: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("refused", [("fdatasync",), ("fdatasync", "ftruncate")], ids="+".join)
def test_append_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...]
) -> None:
    """Nor does one on a disk that does not even let go of what it has taken."""
    spool = Spool(tmp_path, ROOM)
    spool.append([b"1"])
    with monkeypatch.context() as patch:
        for call in refused:
            patch.setattr(module.os, call, full)
        with pytest.raises(OSError, match="No space"):
            spool.append([b"lost", b"lost too"])
    spool.append([b"2"])
    assert drained(spool) == [b"1", b"2"]
    spool.close()


def test_cursor_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, ROOM)
    spool.append([b"1", b"2", b"3"])
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", full)
        assert drained(spool, 2) == [b"1", b"2"]
    spool.close()
    spool = Spool(tmp_path, ROOM)
    assert drained(spool) == [b"1", b"2", b"3"]  # again rather than never
    spool.close()


def test_full_queue_keeps_the_oldest(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    assert spool.append([b"x" * 40] * 3) == 2
    assert spool.append([b"y" * 40]) == 0
    assert drained(spool, 1) == [b"x" * 40]
    assert spool.append([b"z" * 40]) == 1
    assert drained(spool) == [b"x" * 40, b"z" * 40]
    spool.close()


def test_segment_that_cannot_be_opened_leaves_the_queue_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that was closed too early would be another file's by the next write."""
    monkeypatch.setattr(module, "SEGMENT_BYTES", 10)
    spool = Spool(tmp_path, ROOM)
    spool.append([b"first message"])
    with descriptors(0), pytest.raises(OSError):
        spool.append([b"refused"])
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    assert spool.append([b"second message"]) == 1
    assert drained(spool, 1) == [b"first message"]
    with descriptors(0), pytest.raises(OSError):
        spool.peek()
    assert drained(spool) == [b"second message"]
    assert os.fstat(other).st_size == 0
    os.close(other)
    spool.close()
