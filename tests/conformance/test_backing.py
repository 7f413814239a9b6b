"""Every backing is a backing: one suite over memory, directory and bucket, bare and behind each wrapper."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.s3server import S3Server, s3_server
from tiering.backing import open_store, wrap_backing
from tiering.backing.keys import cold_key
from tiering.backing.streams import BytesSource, closing
from tiering.backing.wrappers import Faulty, Guarded, Limited, Metered, Retrying, Tally, TimeLimited
from tiering.contract import Buffer
from tiering.ports import Backing, BackingCorrupt, BackingUnavailable, NotFound

WRAPPERS: dict[str, Callable[[Backing], Backing]] = {
    "retrying": Retrying,
    "time-limited": TimeLimited,
    "limited": Limited,
    "guarded": Guarded,
    "faulty": Faulty,
    "metered": lambda inner: Metered(inner, Tally()),
    "stack": lambda inner: wrap_backing(inner, record=Tally()),
}
KINDS = ["memory", "directory", "bucket", "bucket-prefix", "bucket-stack", *(f"memory-{name}" for name in WRAPPERS)]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Backing]:
    """Makes a backing; two made by one fixture are over the same place (but for memory)."""
    kind: str = request.param
    if kind == "memory":
        return lambda: open_store("memory:", {})
    if kind == "directory":
        return lambda: open_store(f"file://{tmp_path}/cold?create=true", {})
    if kind.startswith("bucket"):
        running: S3Server = request.getfixturevalue("server")
        url = running.url(running.new_bucket(), "pre fix/é" if kind == "bucket-prefix" else "")
        bare = lambda: open_store(url, running.env())  # noqa: E731
        return (lambda: wrap_backing(bare())) if kind == "bucket-stack" else bare
    wrapper = WRAPPERS[kind.removeprefix("memory-")]
    return lambda: wrapper(open_store("memory:", {}))


def run(make: Callable[[], Backing], test: Callable[[Backing], Awaitable[None]]) -> None:
    async def main() -> None:
        backing = make()
        try:
            await asyncio.wait_for(test(backing), 60)
        finally:
            await backing.close()

    asyncio.run(main())


async def read(backing: Backing, key: str, start: int = 0, stop: int | None = None) -> bytes:
    async with closing(backing.get(key, start, stop)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def keys(backing: Backing, prefix: str = "") -> list[str]:
    return [stat.key async for stat in backing.list(prefix)]


class Chunked:
    """A source that reuses one buffer, as a real one does, and counts how often it is read."""

    def __init__(self, data: bytes, chunk_bytes: int) -> None:
        self.size = len(data)
        self._data = data
        self._chunk_bytes = chunk_bytes
        self.passes = 0

    async def chunks(self) -> AsyncIterator[Buffer]:
        self.passes += 1
        buffer = bytearray(self._chunk_bytes)
        for at in range(0, self.size, self._chunk_bytes):
            piece = self._data[at : at + self._chunk_bytes]
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]
            buffer[:] = bytes(len(buffer))


class Failing:
    """A source that ends in its own error, or short of what it announced."""

    def __init__(self, size: int, error: Exception | None) -> None:
        self.size = size
        self._error = error

    async def chunks(self) -> AsyncIterator[Buffer]:
        yield b"x" * (self.size // 2)
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000, 3 << 20])
def test_put_then_get_gives_the_bytes(make: Callable[[], Backing], size: int) -> None:
    async def check(backing: Backing) -> None:
        data = random.Random(size).randbytes(size)
        stat = await backing.put("bucket/key", Chunked(data, 70_000))
        assert (stat.key, stat.size) == ("bucket/key", size)
        assert await read(backing, "bucket/key") == data
        found = await backing.stat("bucket/key")
        assert (found.key, found.size, found.etag) == ("bucket/key", size, stat.etag)

    run(make, check)


def test_put_replaces_the_bytes_and_repeating_changes_nothing(make: Callable[[], Backing]) -> None:
    async def check(backing: Backing) -> None:
        for data in (b"first, longer", b"second", b"second"):
            await backing.put("k", BytesSource(data))
        assert await read(backing, "k") == b"second"
        assert await keys(backing) == ["k"]

    run(make, check)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 5000), (1, 4999), (4999, 5000), (2500, None), (0, None), (7, 7), (5000, None)]
)
def test_get_of_a_range_gives_exactly_it(make: Callable[[], Backing], start: int, stop: int | None) -> None:
    async def check(backing: Backing) -> None:
        data = random.Random(5).randbytes(5000)
        await backing.put("k", BytesSource(data))
        assert await read(backing, "k", start, stop) == data[start:stop]

    run(make, check)


@pytest.mark.parametrize(("start", "stop"), [(0, 5001), (4000, 6000), (5001, None), (6000, 7000)])
def test_get_beyond_the_end_is_corrupt(make: Callable[[], Backing], start: int, stop: int | None) -> None:
    async def check(backing: Backing) -> None:
        await backing.put("k", BytesSource(bytes(5000)))
        with pytest.raises(BackingCorrupt):
            await read(backing, "k", start, stop)

    run(make, check)


def test_a_missing_key_is_not_found_and_deleting_it_succeeds(make: Callable[[], Backing]) -> None:
    async def check(backing: Backing) -> None:
        await backing.put("there", BytesSource(b"x"))
        for key in ("missing", "there/below", "not/at/all"):
            with pytest.raises(NotFound):
                await read(backing, key)
            with pytest.raises(NotFound):
                await read(backing, key, 1, 2)
            with pytest.raises(NotFound):
                await backing.stat(key)
            await backing.delete(key)
        assert await keys(backing) == ["there"]

    run(make, check)


def test_delete_removes_only_that_key(make: Callable[[], Backing]) -> None:
    async def check(backing: Backing) -> None:
        for key in ("a", "a/b", "a/b/c"):
            await backing.put(key, BytesSource(key.encode()))
        await backing.delete("a/b")
        with pytest.raises(NotFound):
            await backing.stat("a/b")
        assert await keys(backing) == ["a", "a/b/c"]
        await backing.delete("a/b/c")
        await backing.put("a/b", BytesSource(b"again"))
        assert await read(backing, "a/b") == b"again"

    run(make, check)


def test_list_gives_every_key_in_order(make: Callable[[], Backing]) -> None:
    names = ["a", "a!", "a-b", "a.obj", "a.obj/x", "a.obj~/x", "a/b", "a/b.obj", "a/b/c", "a0", "b/é", "b/日", "z"]

    async def check(backing: Backing) -> None:
        shuffled = names[:]
        random.Random(3).shuffle(shuffled)
        for name in shuffled:
            await backing.put(name, BytesSource(name.encode()))
        assert await keys(backing) == sorted(names)
        for prefix in ("a", "a/", "a/b", "a.obj", "b/é", "nothing", "a/b/c"):
            assert await keys(backing, prefix) == sorted(name for name in names if name.startswith(prefix))
        assert [(s.key, s.size) async for s in backing.list("b/")] == [("b/é", 4), ("b/日", 5)]

    run(make, check)


def test_list_crosses_its_batches(make: Callable[[], Backing]) -> None:
    async def check(backing: Backing) -> None:
        names = [f"n/{index:04d}" for index in range(300)]
        for name in names:
            await backing.put(name, BytesSource(b""))
        assert await keys(backing, "n/") == names
        async with closing(backing.list("n/")) as stats:
            assert (await anext(stats)).key == names[0]  # and is closed early

    run(make, check)


ODD = [
    "plain.txt",
    "with space",
    "per%cent %41 %2F",
    "plus+and&query?x=1#frag",
    "quote'\"<>",
    "semi;colon:at@=,$!*()[]{}|^`~",
    "a//b",
    "/leading",
    "trailing/",
    "./dot/../dotdot/.",
    "back\\slash",
    "new\nline\ttab\x01",
    "日本語/ключ/é",
    "e\u0301 decomposed",
    "😀" * 100,
    "x" * 1024,
    "%~/" + "y" * 300,
]


def test_odd_object_keys_survive(make: Callable[[], Backing]) -> None:
    async def check(backing: Backing) -> None:
        stored = {cold_key("bucket", key): key.encode() for key in ODD}
        assert len(stored) == len(ODD)
        for name, data in stored.items():
            await backing.put(name, BytesSource(data))
        assert await keys(backing) == sorted(stored)
        for name, data in stored.items():
            assert await read(backing, name) == data
            assert await read(backing, name, 1, 3) == data[1:3]
            assert (await backing.stat(name)).size == len(data)
            await backing.delete(name)
        assert await keys(backing) == []

    run(make, check)


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../../b", ".", "a\0b", "a\\b", "x" * 300])
def test_a_key_that_is_not_one_is_refused(make: Callable[[], Backing], key: str) -> None:
    async def check(backing: Backing) -> None:
        with pytest.raises(ValueError, match="backing key"):
            await backing.put(key, BytesSource(b"x"))
        with pytest.raises(ValueError, match="backing key"):
            await read(backing, key)
        with pytest.raises(ValueError, match="backing key"):
            await backing.stat(key)
        with pytest.raises(ValueError, match="backing key"):
            await backing.delete(key)

    run(make, check)


@pytest.mark.parametrize("size", [100_000, 5_000_000])
@pytest.mark.parametrize("error", [RuntimeError("the source's own"), None], ids=["raises", "short"])
def test_a_failing_source_stores_nothing_and_its_error_comes_through(
    make: Callable[[], Backing], error: Exception | None, size: int
) -> None:
    async def check(backing: Backing) -> None:
        await backing.put("k", BytesSource(b"old"))
        with pytest.raises(RuntimeError if error else ValueError):
            await backing.put("k", Failing(size, error))
        with pytest.raises(RuntimeError if error else ValueError):
            await backing.put("new", Failing(size, error))
        assert await read(backing, "k") == b"old"
        assert await keys(backing) == ["k"]

    run(make, check)


def test_a_source_that_gives_too_much_stores_nothing(make: Callable[[], Backing]) -> None:
    async def check(backing: Backing) -> None:
        long = BytesSource(b"x" * 200)
        long.size = 100
        with pytest.raises(ValueError, match="the source gave"):
            await backing.put("k", long)
        assert await keys(backing) == []

    run(make, check)


@pytest.mark.parametrize("given", [10, 3_000_000])
def test_a_cancelled_put_stores_nothing(make: Callable[[], Backing], given: int) -> None:
    class Stuck:
        size = 4_000_000

        def __init__(self) -> None:
            self.begun = asyncio.Event()

        async def chunks(self) -> AsyncIterator[Buffer]:
            yield b"x" * given
            self.begun.set()
            await asyncio.Event().wait()  # until it is cancelled

    async def check(backing: Backing) -> None:
        stuck = Stuck()
        task = asyncio.ensure_future(backing.put("k", stuck))
        await stuck.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await keys(backing) == []

    run(make, check)


def test_many_calls_at_once_do_not_mix(make: Callable[[], Backing]) -> None:
    async def check(backing: Backing) -> None:
        data = {f"k{index}": random.Random(index).randbytes(50_000 + index) for index in range(12)}
        await asyncio.gather(*(backing.put(key, Chunked(value, 9_999)) for key, value in data.items()))
        values = await asyncio.gather(*(read(backing, key) for key in data))
        assert values == list(data.values())

    run(make, check)


def test_a_stream_closed_early_leaves_the_backing_usable(make: Callable[[], Backing]) -> None:
    async def check(backing: Backing) -> None:
        data = os.urandom(3 << 20)
        await backing.put("k", BytesSource(data))
        for _ in range(4):
            async with closing(backing.get("k")) as chunks:
                first = await anext(chunks)
            assert data.startswith(first)
        assert await read(backing, "k") == data

    run(make, check)


def test_what_is_stored_is_there_after_reopening(make: Callable[[], Backing], request: pytest.FixtureRequest) -> None:
    if "memory" in request.node.callspec.id:
        pytest.skip("memory keeps nothing")
    run(make, lambda backing: _put(backing, b"kept"))

    async def check(backing: Backing) -> None:
        assert await read(backing, "k") == b"kept"

    run(make, check)


async def _put(backing: Backing, data: bytes) -> None:
    await backing.put("k", BytesSource(data))


# Faults of the place itself.


def test_a_missing_bucket_is_unavailable_not_not_found(server: S3Server) -> None:
    run(lambda: open_store(server.url("recall-test-no-such-bucket"), server.env()), _all_unavailable)


def test_a_missing_directory_is_unavailable_not_not_found(tmp_path: Path) -> None:
    run(lambda: open_store(f"file://{tmp_path}/missing", {}), _all_unavailable)


def test_a_refused_connection_is_unavailable() -> None:
    env = {"AWS_ACCESS_KEY_ID": "the-access-key", "AWS_SECRET_ACCESS_KEY": "the-secret"}
    run(lambda: open_store("s3://bucket?endpoint=http://127.0.0.1:1", env), _all_unavailable)


async def _all_unavailable(backing: Backing) -> None:
    async def everything(prefix: str) -> list[str]:
        return await keys(backing, prefix)

    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: backing.put("k", BytesSource(b"x")),
        lambda: read(backing, "k"),
        lambda: read(backing, "k", 1, 2),
        lambda: read(backing, "k", 2, 2),
        lambda: backing.stat("k"),
        lambda: backing.delete("k"),
        lambda: everything(""),
    ]
    for call in calls:
        with pytest.raises(BackingUnavailable) as caught:
            await call()
        assert "secret" not in str(caught.value)
        assert "Signature=" not in str(caught.value)
        assert "://" not in str(caught.value)


def test_wrong_credentials_are_unavailable(server: S3Server) -> None:
    if not server.real:
        pytest.skip("moto checks no signature")
    env = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    bucket = server.new_bucket()
    run(lambda: open_store(server.url(bucket), env), _all_unavailable)


def test_create_makes_a_missing_bucket_once_for_many(server: S3Server) -> None:
    bucket = server.new_bucket() + "-more"

    async def check(backing: Backing) -> None:
        await asyncio.gather(*(backing.put(f"k{index}", BytesSource(b"x")) for index in range(4)))
        assert await keys(backing) == ["k0", "k1", "k2", "k3"]

    run(lambda: open_store(server.url(bucket, create=True), server.env()), check)
    run(lambda: open_store(server.url(bucket), server.env()), check)


def test_a_large_object_goes_up_in_parts(server: S3Server) -> None:
    data = random.Random(9).randbytes(1 << 20) * 33

    async def check(backing: Backing) -> None:
        stat = await backing.put("large", Chunked(data, 5_000_000))
        assert stat.size == len(data)
        assert stat.etag.endswith("-3")
        assert await read(backing, "large") == data
        with pytest.raises(RuntimeError, match="midway"):
            await backing.put("broken", Failing(40 << 20, RuntimeError("midway")))
        assert await keys(backing) == ["large"]

    bucket = server.new_bucket()
    run(lambda: open_store(server.url(bucket), server.env()), check)
    pending = server.client()._list_multipart_uploads(bucket)
    assert not pending.uploads  # a failed upload is aborted, not left to be paid for
