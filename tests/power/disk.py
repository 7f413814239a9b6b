"""What a disk may hold after a power loss, made from the log of `recorder.c`.

Promise: `Disk.apply` follows the log; at any point `write_image` makes a folder as it might be found after the power went there.
What a finished sync covers is in it. Everything else may be: unsynced writes whole, in part (torn at sectors of SECTOR bytes), or
not at all, whatever their order was; made, renamed and removed names either way, where their folder was not synced; sizes of
unsynced writes with or without their bytes.

The model is stricter than any one file system: the sync of a file does not make its name durable, only that of its folder does.
A rename is one change, as journals make it. A file that was mapped for writing holds anything, since stores into memory are not
seen; but never the stamp of this boot, for a power loss ends a boot.

Owns the model in memory. Does not know what the files mean, but for the stamp. Kind: pure, but for `write_image` and `adopt`.
Spec of the log: records of RECORD (kind, flags, inode, offset, length of the payload, payload).
"""

from __future__ import annotations

import enum
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

RECORD: Final = struct.Struct("<IIQQQ")
SECTOR: Final = 512
PAGE: Final = 4096
GARBAGE_BYTES_MAX: Final = 256 << 10
"""As far as a mapped file is filled with what nobody wrote: tables of megabytes would make images slow."""


class Kind(enum.IntEnum):
    """The enum of `recorder.c`, and MARK, which programs write themselves."""

    CREATED = 1
    WRITTEN = 2
    SIZED = 3
    GROWN = 4
    SYNC_BEGUN = 5
    SYNC_ENDED = 6
    FOLDER_MADE = 7
    UNLINKED = 8
    RENAMED = 9
    MAPPED = 10
    UNKNOWN = 11
    MARK = 100


class Event(NamedTuple):
    """One record. `flags` of CREATED: it was truncated; of WRITTEN: the write was a synchronous one."""

    kind: Kind
    flags: int
    inode: int
    offset: int
    payload: bytes


def events(stream: BinaryIO) -> Iterator[Event]:
    """The records of a log; one that is cut short at its end is left out."""
    while len(head := stream.read(RECORD.size)) == RECORD.size:
        kind, flags, inode, offset, length = RECORD.unpack(head)
        payload = stream.read(length)
        if len(payload) < length:
            return
        yield Event(Kind(kind), flags, inode, offset, payload)


def mark(log_fd: int, payload: bytes) -> None:
    """Adds what a program has to say to a log that is open for appending."""
    os.write(log_fd, RECORD.pack(Kind.MARK, 0, 0, 0, len(payload)) + payload)


@dataclass(eq=False)
class Change:
    """A change of a file: bytes at an offset; or, with `data` None, a size, which `grows` only."""

    sequence: int
    at: int
    data: bytes | None
    grows: bool = False

    def apply(self, content: bytearray, size: int) -> int:
        """Changes the content, of which everything behind its end is zeros; returns the new size."""
        if self.data is None:
            if self.grows:
                return max(size, self.at)
            del content[self.at :]
            return self.at
        stop = self.at + len(self.data)
        if len(content) < stop:
            content.extend(bytes(stop - len(content)))
        content[self.at : stop] = self.data
        return max(size, stop)

    def torn(self, rng: random.Random) -> Iterator[Change]:
        """The sectors of a write that reached the device: runs of them, so that long writes are not made of thousands."""
        if self.data is None:
            yield self
            return
        unit = rng.choice((SECTOR, PAGE))
        stop = self.at + len(self.data)
        at = self.at
        while at < stop:
            end = min(stop, (at // unit + rng.choice((1, 1, 2, 8, 64))) * unit)
            if rng.random() < 0.5:
                yield Change(self.sequence, at, self.data[at - self.at : end - self.at])
            at = end


@dataclass(eq=False)
class File:
    """`content` and `size`: what is durable. `pending`: what is not, in order."""

    content: bytearray = field(default_factory=bytearray)
    size: int = 0
    pending: list[Change] = field(default_factory=list)
    mapped: bool = False

    def sync(self, sequence: int) -> None:
        """What was changed before `sequence` is durable."""
        rest = []
        for change in self.pending:
            if change.sequence < sequence:
                self.size = change.apply(self.content, self.size)
            else:
                rest.append(change)
        self.pending = rest

    def write_through(self, change: Change) -> None:
        """A synchronous write; what was pending of the same pages goes with it."""
        assert change.data is not None
        first, stop = change.at // PAGE * PAGE, -(-(change.at + len(change.data)) // PAGE) * PAGE
        rest = []
        for old in self.pending:
            if old.data is not None and old.at < stop and old.at + len(old.data) > first:
                self.size = old.apply(self.content, self.size)
            else:
                rest.append(old)
        self.pending = rest
        self.size = change.apply(self.content, self.size)

    def latest(self) -> tuple[bytearray, int]:
        """What a reader sees while the power is on."""
        content, size = bytearray(self.content), self.size
        for change in self.pending:
            size = change.apply(content, size)
        return content, size


@dataclass(eq=False)
class Naming:
    """A change of names, all of it or nothing. `effects`: folder, name, and what is there then."""

    sequence: int
    effects: tuple[tuple[Folder, str, Node | None], ...]


@dataclass(eq=False)
class Folder:
    """`names`: what a reader sees. `durable`: name → since which sequence number, what. `pending`: names not synced."""

    names: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, tuple[int, Node | None]] = field(default_factory=dict)
    pending: list[Naming] = field(default_factory=list)

    def sync(self, sequence: int) -> None:
        for naming in [naming for naming in self.pending if naming.sequence < sequence]:
            for folder, name, node in naming.effects:
                if folder.durable.get(name, (0, None))[0] < naming.sequence:
                    folder.durable[name] = (naming.sequence, node)
                if naming in folder.pending:
                    folder.pending.remove(naming)


Node = File | Folder


class Fate(NamedTuple):
    """What becomes of unsynced changes: all before `before` are kept; of the others a share, and of those some are torn."""

    share: float
    torn: float
    before: int


NOTHING: Final = Fate(0.0, 0.0, 0)


class Disk:
    """The files under one folder. `sequence`: how many records were applied."""

    def __init__(self, root: Path) -> None:
        """Begins with what is there, which counts as durable."""
        self.sequence = 0
        self._root_name = str(root)
        self._inodes: dict[int, Node] = {}
        self._syncs: dict[tuple[int, int], int] = {}
        self.root = self._adopt(root)

    def _adopt(self, path: Path) -> Folder:
        folder = Folder()
        self._inodes[path.stat().st_ino] = folder
        for entry in path.iterdir():
            node: Node
            if entry.is_dir():
                node = self._adopt(entry)
            else:
                data = bytearray(entry.read_bytes())
                node = File(data, len(data))
                self._inodes[entry.stat().st_ino] = node
            folder.names[entry.name] = node
            folder.durable[entry.name] = (0, node)
        return folder

    def _place(self, path: str) -> tuple[Folder, str]:
        folder = self.root
        *above, name = path[len(self._root_name) :].strip("/").split("/")
        for each in above:
            found = folder.names[each]
            assert isinstance(found, Folder), path
            folder = found
        return folder, name

    def _name(self, *effects: tuple[Folder, str, Node | None]) -> None:
        naming = Naming(self.sequence, effects)
        for folder, name, node in effects:
            folder.pending.append(naming)
            if node is None:
                folder.names.pop(name, None)
            else:
                folder.names[name] = node

    def apply(self, event: Event) -> None:
        """Follows one record. Files outside the folder are passed over."""
        self.sequence += 1
        kind, flags, inode, offset, payload = event
        if kind in (Kind.CREATED, Kind.FOLDER_MADE):
            folder, name = self._place(payload.decode())
            node = folder.names.get(name)
            if node is None or node is not self._inodes.get(inode):
                node = File() if kind == Kind.CREATED else Folder()
                self._inodes[inode] = node
                self._name((folder, name, node))
            elif flags and isinstance(node, File):
                node.pending.append(Change(self.sequence, 0, None))
        elif kind == Kind.UNLINKED:
            folder, name = self._place(payload.decode())
            self._name((folder, name, None))
        elif kind == Kind.RENAMED:
            (source, old), (target, new) = map(self._place, payload.decode().split("\0"))
            self._name((source, old, None), (target, new, source.names[old]))
        elif kind == Kind.UNKNOWN:
            raise AssertionError(f"the model does not know {payload.decode()}")
        elif inode in self._inodes and kind != Kind.MARK:
            self._change(kind, flags, inode, offset, payload)

    def _change(self, kind: Kind, flags: int, inode: int, offset: int, payload: bytes) -> None:
        node = self._inodes[inode]
        if kind == Kind.SYNC_BEGUN:
            self._syncs[inode, offset] = self.sequence
        elif kind == Kind.SYNC_ENDED:
            node.sync(self._syncs.pop((inode, offset)))
        elif isinstance(node, Folder):
            raise AssertionError(f"{kind.name} of a folder")
        elif kind == Kind.MAPPED:
            node.mapped = True
        elif kind == Kind.WRITTEN and flags:
            node.write_through(Change(self.sequence, offset, payload))
        elif kind == Kind.WRITTEN:
            node.pending.append(Change(self.sequence, offset, payload))
        else:
            node.pending.append(Change(self.sequence, offset, None, grows=kind == Kind.GROWN))

    def write_least(self, path: Path) -> None:
        """Makes a new folder with what must be there, and nothing else."""
        self._write_folder(self.root, path, random.Random(0), NOTHING, NOTHING, b"")

    def write_image(self, path: Path, rng: random.Random, stamp: bytes = b"") -> str:
        """Makes a new folder as a disk might hold it; says what was done. `stamp`: the stamp of an earlier boot."""
        data = _fate(rng, self.sequence)
        names = data if rng.random() < 0.5 else _fate(rng, self.sequence)
        self._write_folder(self.root, path, rng, data, names, stamp)
        return f"data {data}, names {names}"

    def _write_folder(
        self, folder: Folder, path: Path, rng: random.Random, data: Fate, names: Fate, stamp: bytes
    ) -> None:
        path.mkdir(mode=0o700)
        for name, node in _surviving(folder, rng, names).items():
            if isinstance(node, Folder):
                self._write_folder(node, path / name, rng, data, names, stamp)
            else:
                (_write_mapped if node.mapped else _write_file)(node, path / name, rng, data, stamp)


def _surviving(folder: Folder, rng: random.Random, fate: Fate) -> dict[str, Node]:
    found = dict(folder.durable)
    for naming in folder.pending:
        # The same answer in each folder that a rename touches: chosen by the change, not by the folder.
        chance = random.Random(f"{fate}/{naming.sequence}").random()
        if naming.sequence < fate.before or chance < fate.share:
            for at, name, node in naming.effects:
                if at is folder and found.get(name, (0, None))[0] < naming.sequence:
                    found[name] = (naming.sequence, node)
    return {name: node for name, (_, node) in found.items() if node is not None}


def _fate(rng: random.Random, sequence: int) -> Fate:
    kind = rng.randrange(5)
    if kind == 0:
        return NOTHING
    if kind == 1:
        return Fate(1.0, 0.0, 0)
    if kind == 2:  # a device that keeps the order
        return Fate(0.0, 0.0, sequence - rng.choice((1, 3, 10, 100, 1000)))
    return Fate(rng.choice((0.1, 0.5, 0.9, 0.99)), rng.choice((0.0, 0.2, 1.0)), 0)


def _write_file(file: File, path: Path, rng: random.Random, fate: Fate, stamp: bytes) -> None:
    content, size = file.content, file.size
    if file.pending:
        content, latest = bytearray(content), size
        for change in file.pending:
            latest = max(latest, change.at + len(change.data or b""))
            if change.sequence < fate.before or rng.random() < fate.share:
                for kept in change.torn(rng) if rng.random() < fate.torn else (change,):
                    size = kept.apply(content, size)
        if fate != NOTHING and rng.random() < 0.3:  # its length is known to the device, not all that is in it
            size = max(size, latest)
    _write(path, content, size)


def _write_mapped(file: File, path: Path, rng: random.Random, fate: Fate, stamp: bytes) -> None:
    _, size = file.latest()
    kind = rng.randrange(4)
    if kind == 0:
        _write(path, b"", 0)
    elif kind == 1:
        _write(path, b"", size)
    elif kind == 2:
        _write(path, stamp[:size], size)
    else:
        garbage = bytearray(rng.randbytes(min(size, GARBAGE_BYTES_MAX)))
        if rng.random() < 0.5:
            garbage[: min(size, len(stamp))] = stamp[:size]
        _write(path, garbage, size)


def _write(path: Path, content: bytes | bytearray, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        view = memoryview(content)[:size]
        for at in range(0, len(view), 1 << 16):  # zeros take no room
            piece = view[at : at + (1 << 16)]
            if bytes(piece).count(0) != len(piece):
                os.pwrite(fd, piece, at)
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def differences(folder: Folder, path: Path) -> Iterator[str]:
    """Where the files that were recorded are not those that the model has: a call that the recorder does not know."""
    for name in sorted(folder.names.keys() ^ {entry.name for entry in path.iterdir()}):
        yield f"{path / name}: in one of them only"
    for name, node in folder.names.items():
        below = path / name
        if not below.exists():
            continue
        if isinstance(node, Folder):
            yield from differences(node, below)
        elif not node.mapped:
            content, size = node.latest()
            found = below.read_bytes()
            if len(found) != size or found != bytes(content[:size]).ljust(size, b"\0"):
                yield f"{below}: {len(found)} bytes there, {size} in the model, or other bytes"
