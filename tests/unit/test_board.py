"""The recall board, as processes beside the writer see it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from tiering.board import FAILED, LANDING, Board
from tiering.layout import Extent

POSTS = 400_000
NUMBER = (1 << 62) + 12_345
GENERATION = 500
LOW, HIGH = (1 << 24) - 1, 1 << 24
"""They differ in each of their low four bytes."""


def _post(folder: Path) -> None:
    board = Board(folder, 1)
    for _ in range(POSTS // 2):
        board.post(3, NUMBER, LOW, LANDING)
        board.post(3, NUMBER, HIGH, LANDING)
    board.close()


def test_a_slot_that_is_being_written_reads_as_before_or_after(tmp_path: Path) -> None:
    board = Board(tmp_path, 1)
    assert board.claim(3, NUMBER, GENERATION) is None
    board.post(3, NUMBER, LOW, LANDING)
    writer = multiprocessing.get_context("spawn").Process(target=_post, args=(tmp_path,))
    writer.start()
    landed, claims = set(), set()
    while writer.exitcode is None:
        for _ in range(2000):
            landed.add(board.landed(3, NUMBER))
        for _ in range(50):
            claims.add(board.claim(4, 1, GENERATION))
    assert writer.exitcode == 0
    assert landed == {LOW, HIGH}
    assert claims == {(3, NUMBER)}
    board.close()


def test_one_at_most_has_a_claim(tmp_path: Path) -> None:
    board = Board(tmp_path, 4)
    assert board.claim(1, 11, 500) is None
    board.place(1, 11, (Extent(2, 64, 4096, 0),))
    board.post(1, 11, 100, LANDING)
    claimed = board.claim(2, 12, 500)
    assert claimed == (1, 11)
    assert board.landed(1, 11) == 100
    assert board.places(1, 11) == (Extent(2, 64, 4096, 0),)
    assert board.claim(2, 12, 501) is None
    board.post(1, 11, 0, FAILED)
    board.release(1)
    assert board.landed(1, 11) is None
    assert board.claim(3, 13, 500) is None
    board.wipe(3, 1)
    assert board.claim(4, 14, 500) is None
    assert board.landed(1, 99) is None, "another landing's slot"
    board.close()
