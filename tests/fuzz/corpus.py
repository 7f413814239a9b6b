"""The committed inputs of each target, how they are written, and how new ones are made of them.

An input is a line of `corpus/<target>.txt`, with Python's escapes: what changes is seen in a diff. Owns these files.
Kind: owner of files; `mutated` is pure.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).with_name("corpus")
INPUT_BYTES_MAX: Final = 4096
"""Longest input of a run; what grows faster than its input is slow long before."""


def load(name: str) -> list[bytes]:
    """The inputs of a target; none where there is no file."""
    path = FOLDER / f"{name}.txt"
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [line.encode().decode("unicode_escape").encode("latin-1") for line in lines]


def save(name: str, inputs: Iterable[bytes]) -> None:
    """Replaces the inputs of a target: the shortest first, so that a small change is a small diff."""
    FOLDER.mkdir(exist_ok=True)
    lines = [shown(data) for data in sorted(set(inputs), key=lambda data: (len(data), data))]
    (FOLDER / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "ascii")


def shown(data: bytes) -> str:
    """An input as a line of text, and as a literal of Python between b'' if it holds no quote."""
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")


def mutated(chance: random.Random, inputs: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One of `inputs`, changed in a few places: bytes, stretches, words of the grammar, a piece of another input."""
    data = bytearray(chance.choice(inputs))
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        at = chance.randrange(len(data) + 1)
        stop = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 64)))
        match chance.randrange(7):
            case 0:
                data[at:stop] = b""
            case 1:
                data[at:at] = chance.randbytes(chance.choice((1, 2, 4)))
            case 2:
                data[at:stop] = chance.randbytes(stop - at)
            case 3 if words:
                data[at : chance.choice((at, stop))] = chance.choice(words)
            case 4:
                data[at:at] = data[at:stop] * chance.choice((1, 2, 8, 64))
            case 5:
                other = chance.choice(inputs)
                start = chance.randrange(len(other) + 1)
                data[at:stop] = other[start : start + chance.choice((1, 8, 64, 512))]
            case _:
                data[at:at] = chance.choice(
                    (b"0", b"-1", b"9" * 20, b"\0", b"\xff", b"\xed\xa0\x80", "\u212a\u0660".encode())
                )
    return bytes(data[:INPUT_BYTES_MAX])
