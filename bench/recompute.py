"""`python -m bench.recompute`: the recompute tax. A context's KV blocks computed again on the GPU, beside the same blocks read back into it.

A decoder of a real model's shape, with random weights, prefills a context; its keys and values are stored as blocks in a
gateway of the bench's own. Then, in interleaved rounds: the prefill again, and each way by which the blocks come back into GPU
memory, from request to the last byte there. After the rounds each way's bytes are compared with what the prefill computed.

Owns the model, the gateway and the ways. Does not know how a gateway stores blocks. Needs PyTorch, which nothing else
here does, and a CUDA device (`--device cpu --shape tiny` shows that the command works, and says nothing).
Kind: shell. Spec: bench/README.md, "The recompute tax".
"""

from __future__ import annotations

import argparse
import functools
import http.client
import itertools
import mmap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recall_client import RecallClient
from recall_client.local import Lease, LocalReader
from recall_client.signing import Credentials

from bench.compare import circumstances, progress, say, write
from bench.process import end_orderly
from bench.quantity import Spread, parse_size, size_text
from bench.server import Gateway

BUCKET = "kv-recompute"
PREFILL = "prefill"
PORTION_BYTES = 32 << 20
"""Asked for in one batch call, and copied on together."""
SMALLEST_POOL = 256 << 20
HOST_REGISTER_READ_ONLY = 8
ROPE_BASE = 500_000.0


@dataclass(frozen=True)
class Shape:
    """Of a decoder: grouped-query attention, gated feed-forward, bfloat16. Embedding and vocabulary are left out."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    inner: int

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return self.layers * 2 * self.kv_heads * self.head * 2

    def flops(self, tokens: int) -> float:
        """Of a prefill: two a weight and token, and causal attention."""
        weights = self.hidden * ((2 * self.heads + 2 * self.kv_heads) * self.head + 3 * self.inner)
        return self.layers * 2.0 * tokens * (weights + tokens * self.heads * self.head)


SHAPES = {
    "8b": Shape(32, 4096, 32, 8, 128, 14336),
    "70b/8": Shape(80, 8192, 8, 1, 128, 3584),
    "tiny": Shape(2, 256, 4, 2, 64, 512),
}
"""`8b`: that of Llama 3.1 8B, 128 KiB a token. `70b/8`: what one of eight GPUs has of Llama 3.1 70B, 40 KiB a token; the exchange
between them is left out, so a real prefill takes longer."""


class Decoder:
    """The model. `prefill` gives keys and values as blocks of `block` tokens: [blocks, layers, 2, block, kv_heads, head]."""

    def __init__(self, torch: Any, shape: Shape, device: str) -> None:
        self.torch, self.shape, self.device = torch, shape, device
        make = torch.Generator(device=device).manual_seed(1)

        def weight(rows: int, columns: int) -> Any:
            drawn = torch.randn(rows, columns, generator=make, device=device, dtype=torch.bfloat16)
            return drawn.mul_(columns**-0.5)

        own, kv = shape.heads * shape.head, shape.kv_heads * shape.head
        self.layers = [
            {
                "qkv": weight(own + 2 * kv, shape.hidden),
                "out": weight(shape.hidden, own),
                "gate_up": weight(2 * shape.inner, shape.hidden),
                "down": weight(shape.hidden, shape.inner),
            }
            for _ in range(shape.layers)
        ]
        self.norm = torch.ones(shape.hidden, device=device, dtype=torch.bfloat16)

    def context(self, tokens: int) -> Any:
        """Embedded tokens, at random."""
        make = self.torch.Generator(device=self.device).manual_seed(tokens)
        return self.torch.randn(
            tokens, self.shape.hidden, generator=make, device=self.device, dtype=self.torch.bfloat16
        )

    def prefill(self, context: Any, into: Any) -> None:
        """Fills `into` with the context's keys and values; the device may still be at it."""
        nn, shape = self.torch.nn.functional, self.shape
        tokens = context.shape[0]
        blocks, _, _, block = into.shape[:4]
        own, kv = shape.heads * shape.head, shape.kv_heads * shape.head
        cos, sin = self._rope(tokens)
        x = context
        for number, layer in enumerate(self.layers):
            joined = nn.linear(nn.rms_norm(x, (shape.hidden,), self.norm), layer["qkv"])
            q, k, v = joined.split((own, kv, kv), dim=-1)
            q = self._turned(q.view(tokens, shape.heads, shape.head), cos, sin)
            k = self._turned(k.view(tokens, shape.kv_heads, shape.head), cos, sin)
            v = v.view(tokens, shape.kv_heads, shape.head)
            into[:, number, 0] = k.view(blocks, block, shape.kv_heads, shape.head)
            into[:, number, 1] = v.reshape(blocks, block, shape.kv_heads, shape.head)
            seen = nn.scaled_dot_product_attention(
                q.transpose(0, 1)[None],
                k.transpose(0, 1)[None],
                v.transpose(0, 1)[None],
                is_causal=True,
                enable_gqa=True,
            )
            x = x + nn.linear(seen[0].transpose(0, 1).reshape(tokens, own), layer["out"])
            gate, up = nn.linear(nn.rms_norm(x, (shape.hidden,), self.norm), layer["gate_up"]).chunk(2, dim=-1)
            x = x + nn.linear(nn.silu(gate) * up, layer["down"])

    def _rope(self, tokens: int) -> tuple[Any, Any]:
        torch, half = self.torch, self.shape.head // 2
        rates = ROPE_BASE ** (-torch.arange(half, device=self.device, dtype=torch.float32) / half)
        turns = torch.arange(tokens, device=self.device, dtype=torch.float32)[:, None] * rates
        return turns.cos().to(torch.bfloat16)[:, None], turns.sin().to(torch.bfloat16)[:, None]

    def _turned(self, x: Any, cos: Any, sin: Any) -> Any:
        a, b = x.chunk(2, dim=-1)
        return self.torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Device:
    """What the ways need of the GPU: pinned staging, copies in streams, and an end to wait for."""

    def __init__(self, torch: Any, name: str, streams: int) -> None:
        self.torch, self.cuda = torch, name != "cpu"
        self._streams = [torch.cuda.Stream() for _ in range(streams)] if self.cuda else []
        self._registered: list[Any] = []

    def close(self) -> None:
        for whole in self._registered:
            self.torch.cuda.cudart().cudaHostUnregister(whole.data_ptr())

    def staging(self, rows: int, size: int) -> Any:
        return self.torch.empty(rows, size, dtype=self.torch.uint8, pin_memory=self.cuda)

    def stream(self, number: int) -> AbstractContextManager[Any]:
        """Copies of this thread go to that stream: begun, and done when `wait` returns, if the driver knows where the source is."""
        return self.torch.cuda.stream(self._streams[number]) if self.cuda else nullcontext()  # type: ignore[no-any-return]

    def wait(self, stream: int | None = None) -> None:
        """For the copies of a stream, or for all the device was told."""
        if not self.cuda:
            return
        if stream is None:
            self.torch.cuda.synchronize()
        else:
            self._streams[stream].synchronize()

    def registered(self, path: Path) -> Any:
        """The bytes of a file, mapped and known to the driver, so that the device fetches from there; None where it cannot be."""
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        whole = self.torch.frombuffer(mapped, dtype=self.torch.uint8)
        begun = time.perf_counter()
        said = self.torch.cuda.cudart().cudaHostRegister(whole.data_ptr(), len(whole), HOST_REGISTER_READ_ONLY)
        if int(said):
            say(f"the driver does not take the mapping: {said}")
            return None
        say(f"{size_text(len(whole))} of flash registered in {time.perf_counter() - begun:.2f} s")
        self._registered.append(whole)
        return whole


class Stored:
    """The blocks of one context, in the gateway, and the ways back: each fills `target`, a byte tensor [blocks, bytes]."""

    def __init__(self, device: Device, kv: Any, clients: Sequence[RecallClient], reader: LocalReader) -> None:
        torch = device.torch
        self._device, self._clients, self._reader = device, clients, reader
        self._threads = ThreadPoolExecutor(len(clients))
        self.truth = kv.view(kv.shape[0], -1).view(torch.uint8)
        self.target = torch.empty_like(self.truth)
        count, size = self.truth.shape
        self._keys = [f"{count}x{size}/{number:032x}" for number in range(count)]
        self._staging = device.staging(count, size)
        self._views = [memoryview(row.numpy()) for row in self._staging]
        self._at_once = max(1, PORTION_BYTES // size)

    def close(self) -> None:
        self._threads.shutdown()

    def put(self, streams: int) -> None:
        """From the GPU into the gateway."""

        def part(stream: int, numbers: range) -> None:
            some = slice(numbers.start, numbers.stop)
            self._staging[some].copy_(self.truth[some], non_blocking=True)
            self._device.wait(stream)
            for outcome in self._clients[stream].put(zip(self._keys[some], self._views[some], strict=True)):
                if not outcome.ok:
                    raise SystemExit(f"a block was not stored: {outcome}")

        self._spread(part, streams)

    def over_http(self, streams: int) -> None:
        """By batch calls into pinned memory, and on from there as portions arrive."""

        def part(stream: int, numbers: range) -> None:
            for at in range(numbers.start, numbers.stop, self._at_once):
                some = slice(at, min(at + self._at_once, numbers.stop))
                if None in self._clients[stream].get_into(self._keys[some], self._views[some]):
                    raise SystemExit("a block is missing")
                self.target[some].copy_(self._staging[some], non_blocking=True)

        self._spread(part, streams)

    def over_http_at_once(self, client: RecallClient) -> None:
        """By one call, which takes as many connections as the client has, and on from there."""
        if None in client.get_into(self._keys, self._views):
            raise SystemExit("a block is missing")
        self.target.copy_(self._staging, non_blocking=True)

    def mapped(self, known: Any = None) -> None:
        """From the gateway's flash, mapped, by the driver's own copies; from `known`, the same mapped once more, by the device."""
        torch = self._device.torch
        base = torch.frombuffer(self._reader.flash, dtype=torch.uint8).data_ptr()
        with self._reader.lease() as lease, self._device.stream(0):
            for number in range(len(self._keys)):
                for piece, target in self._pieces(lease, number, self.target):
                    begin = piece.data_ptr() - base
                    source = piece if known is None else known[begin : begin + len(piece)]
                    target.copy_(source, non_blocking=True)
            self._device.wait(0)

    def staged(self, streams: int) -> None:
        """From the gateway's flash into pinned memory by threads of this process, and on from there."""

        def part(stream: int, numbers: range) -> None:
            with self._reader.lease() as lease:
                for number in numbers:
                    for piece, staging in self._pieces(lease, number, self._staging):
                        staging.copy_(piece)
                    self.target[number].copy_(self._staging[number], non_blocking=True)

        self._spread(part, streams)

    def _pieces(self, lease: Lease, number: int, into: Any) -> Iterator[tuple[Any, Any]]:
        """The pieces of a block, each with its part of the block's row of `into`."""
        found = lease.read(self._keys[number])
        if found is None:
            raise SystemExit("a block is missing")
        at = 0
        for view in found:
            yield self._device.torch.frombuffer(view, dtype=self._device.torch.uint8), into[number, at : at + len(view)]
            at += len(view)

    def _spread(self, part: Callable[[int, range], None], streams: int) -> None:
        def within(stream: int, numbers: range) -> None:
            with self._device.stream(stream):
                part(stream, numbers)

        edges = [len(self._keys) * number // streams for number in range(streams + 1)]
        for _ in self._threads.map(within, range(streams), itertools.starmap(range, itertools.pairwise(edges))):
            pass


@dataclass(frozen=True)
class Figure:
    """Seconds of one way with the `bytes` of a context; `saves`: the prefill of the same round over a way back."""

    tokens: int
    way: str
    seconds: Spread
    saves: Spread | None
    bytes: int


def timed(device: Device, work: Callable[[], None]) -> float:
    device.wait()
    begun = time.perf_counter()
    work()
    device.wait()
    return time.perf_counter() - begun


def measure(
    decoder: Decoder,
    device: Device,
    stored: Stored,
    kv: Any,
    context: Any,
    rounds: int,
    streams: Sequence[int],
    ways: Mapping[str, Callable[[], None]],
) -> list[Figure]:
    """Rounds of the prefill and each way back, after one that compares what came back; then of the way there."""
    for name, way in ways.items():
        stored.target.zero_()
        timed(device, way)
        if not device.torch.equal(stored.target, stored.truth):
            raise SystemExit(f"{name}: other bytes than were stored")
    reads = {PREFILL: lambda: decoder.prefill(context, kv), **ways}
    # Apart, as what is written goes on to the drive while others are measured.
    writes = {f"put x{count}": functools.partial(stored.put, count) for count in streams}
    times: dict[str, list[float]] = {name: [] for name in (*reads, *writes)}
    for works in (reads, writes):
        for _ in range(rounds):
            for name, work in works.items():
                times[name].append(timed(device, work))
    return [
        Figure(
            len(context),
            name,
            Spread.of(seconds),
            Spread.of([whole / one for whole, one in zip(times[PREFILL], seconds, strict=True)])
            if name in ways
            else None,
            stored.truth.numel(),
        )
        for name, seconds in times.items()
    ]


def contexts(args: argparse.Namespace, torch: Any, gateway: Gateway) -> Iterator[Figure]:
    """Each length of context in turn."""
    shape = SHAPES[args.shape]
    decoder = Decoder(torch, shape, args.device)
    streams = max(args.streams)
    make_bucket(gateway)
    credentials = Credentials(gateway.access_key, gateway.secret_key)
    with ExitStack() as stack:
        device = Device(torch, args.device, streams)
        stack.callback(device.close)
        clients = [
            stack.enter_context(RecallClient(gateway.endpoint, BUCKET, credentials, connections=1))
            for _ in range(streams)
        ]
        client = stack.enter_context(RecallClient(gateway.endpoint, BUCKET, credentials, connections=streams))
        reader = LocalReader(gateway.data_dir, BUCKET)
        known = device.registered(gateway.data_dir / "pools" / "kv" / "flash") if device.cuda else None
        for tokens in args.tokens:
            progress(f"{tokens} tokens")
            context = decoder.context(tokens)
            blocks = (tokens // args.block, shape.layers, 2, args.block, shape.kv_heads, shape.head)
            kv = torch.empty(blocks, dtype=torch.bfloat16, device=args.device)
            decoder.prefill(context, kv)
            stored = Stored(device, kv.clone(), clients, reader)
            try:
                stored.put(1)
                ways: dict[str, Callable[[], None]] = {}
                for count in args.streams:
                    ways[f"HTTP x{count}"] = functools.partial(stored.over_http, count)
                ways[f"HTTP, one call of {streams}"] = functools.partial(stored.over_http_at_once, client)
                for count in args.streams:
                    ways[f"mapped, copied x{count}"] = functools.partial(stored.staged, count)
                ways["mapped, by the driver"] = stored.mapped
                if known is not None:
                    ways["mapped, by the GPU"] = functools.partial(stored.mapped, known)
                yield from measure(decoder, device, stored, kv, context, args.rounds, args.streams, ways)
            finally:
                stored.close()


def make_bucket(gateway: Gateway) -> None:
    path = f"/{BUCKET}"
    signed = Credentials(gateway.access_key, gateway.secret_key).sign(
        "PUT", path, "", f"{gateway.host}:{gateway.port}", {}
    )
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=30)
    connection.request("PUT", path, headers=signed)
    status = connection.getresponse().status
    connection.close()
    if status != 200:
        raise SystemExit(f"the bucket was not made: {status}")


def report(shape: Shape, figures: Sequence[Figure]) -> str:
    lines = [f"{'tokens':>7}  {'way':<22}{'ms':>26}{'prefill ÷ it':>22}"]
    for figure in figures:
        if figure.way == PREFILL:
            rate = f"{shape.flops(figure.tokens) / figure.seconds.median / 1e12:.0f} TFLOP/s"
        else:
            rate = f"{figure.bytes / figure.seconds.median / 1e9:.1f} GB/s"
        saves = "" if figure.saves is None else figure.saves.text(1)
        lines.append(f"{figure.tokens:>7}  {figure.way:<22}{_ms(figure.seconds):>26}{saves:>22}{rate:>14}")
    return "\n".join(lines)


def _ms(seconds: Spread) -> str:
    return Spread(seconds.median * 1e3, seconds.least * 1e3, seconds.most * 1e3).text(1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.recompute", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", default="2k,8k,32k", help="lengths of contexts (default 2k,8k,32k)")
    parser.add_argument("--shape", choices=SHAPES, default="8b", help="of the model (default that of Llama 3.1 8B)")
    parser.add_argument("--block", type=int, default=16, help="tokens a block (default 16; LMCache has 256)")
    parser.add_argument("--streams", default="1,4", help="threads, each with a connection (default 1,4)")
    parser.add_argument("--workers", type=int, default=4, help="of the gateway (default 4)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda", help="cpu shows that the command works, and measures nothing")
    parser.add_argument("--data-dir", type=Path, help="where the gateway's data goes (default a temporary folder)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    parser.add_argument("--save", action="store_true", help="also write them to the kept results, named by date")
    args = parser.parse_args(argv)
    args.tokens = [parse_size(text) for text in args.tokens.split(",")]
    args.streams = [int(text) for text in args.streams.split(",")]
    if any(tokens % args.block for tokens in args.tokens):
        parser.error("a context is a whole number of blocks")
    try:
        import torch
    except ImportError:
        parser.error("this needs PyTorch")
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device")
    end_orderly()
    shape = SHAPES[args.shape]
    room = max(SMALLEST_POOL, sum(args.tokens) * shape.token_bytes * 2)
    settings = {
        "RECALL_POOLS_KV_CAPACITY_BYTES": str(room),
        "RECALL_POOLS_KV_DEMOTE": "never",
        "RECALL_POOLS_STANDARD_CAPACITY_BYTES": "64MiB",
    }
    with torch.no_grad(), Gateway(settings, args.data_dir, args.workers) as gateway:
        figures = list(contexts(args, torch, gateway))
    progress("")
    print(report(shape, figures))
    device = torch.cuda.get_device_name() if args.device != "cpu" else "cpu"
    document = {
        **circumstances(),
        "device": device,
        "torch": torch.__version__,
        "shape": asdict(shape),
        "block_tokens": args.block,
        "workers": args.workers,
        "figures": [asdict(figure) for figure in figures],
    }
    write(document, [args.json] if args.json else [], "recompute" if args.save else "")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
