"""Metrics: TABLE of what is counted, and counters that all processes of one start share without a lock.

Each process slot (a worker, the keeper) owns one mapped file of 64-bit cells and is its only writer; whoever is scraped
reads all files and adds them up. A cell is one aligned 8-byte store, so a reader sees the old number or the new one. A child
that is restarted in its slot goes on counting where the last one stopped; the supervisor empties the folder at its own start,
as a restart of the gateway is a reset for Prometheus.

Owns this process's metrics file. Does not know who counts, nor HTTP (`gateway.admin`).
Kind: table and owner (one writer a file: the process of that slot). Invariants: a cell's meaning depends on the layout alone;
files of another layout are not read. Spec: docs/OPERATIONS.md, "Metrics"; Prometheus text format 0.0.4.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from s3api.errors import ERRORS
from tiering.device import allocate
from tiering.events import FATES, SIDES

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
LATENCY_BOUNDS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 5.0)
"""Upper bounds: fine where a hot read lies, coarse where a recall does."""
STATUS_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
UNKNOWN: Final = "Unknown"
"""The operation of a request that resolved to none."""

Kind = Literal["counter", "gauge", "histogram", "shared"]


class MetricRow(msgspec.Struct, frozen=True):
    """One metric. `labels` name value lists given to `Metrics`.

    counter: only grows. gauge: a number each process sets, shown as the sum. histogram: of seconds, with LATENCY_BOUNDS_S.
    shared: a gauge of state that all processes see, asked for when scraped. `scale`: cells hold whole numbers, the metric is
    cell x scale.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    scale: float = 1.0


# A table: the formatter would spread each row over five lines.
# fmt: off
TABLE: Final[tuple[MetricRow, ...]] = (
    MetricRow("recall_requests_total", "counter", "Requests answered.", ("operation", "status")),
    MetricRow("recall_request_seconds", "histogram", "From the parsed head to the last byte handed to the kernel.", ("operation",)),
    MetricRow("recall_received_bytes_total", "counter", "Body bytes received.", ("operation",)),
    MetricRow("recall_sent_bytes_total", "counter", "Body bytes sent.", ("operation",)),
    MetricRow("recall_requests_aborted_total", "counter", "Requests whose connection was lost before the last byte.", ("operation",)),
    MetricRow("recall_errors_total", "counter", "Of the answered requests those that were refused, or failed, by S3's code for it.", ("code",)),
    MetricRow("recall_overload_refusals_total", "counter", "Requests and connections above a limit that were answered 503 unread; they are in no other metric."),
    MetricRow("recall_slow_peers_total", "counter", "Connections that were cut off, since a body moved slower than `http.body_rate_bytes_min`."),
    MetricRow("recall_reads_total", "counter", "Reads by where the bytes were: hot, cold, or miss.", ("pool", "result")),
    MetricRow("recall_demotions_total", "counter", "Objects copied to the backing store.", ("pool",)),
    MetricRow("recall_demoted_bytes_total", "counter", "Bytes of those objects.", ("pool",)),
    MetricRow("recall_evictions_total", "counter", "Hot copies dropped.", ("pool",)),
    MetricRow("recall_evicted_bytes_total", "counter", "Bytes of those copies.", ("pool",)),
    MetricRow("recall_survivors_total", "counter", "Objects moved to a survivor region instead.", ("pool",)),
    MetricRow("recall_survivor_bytes_total", "counter", "Bytes of those objects.", ("pool",)),
    MetricRow("recall_recalls_total", "counter", "Objects brought back from the backing store.", ("pool",)),
    MetricRow("recall_recalled_bytes_total", "counter", "Bytes of those objects.", ("pool",)),
    MetricRow("recall_expired_total", "counter", "Objects removed because their TTL ended.", ("pool",)),
    MetricRow("recall_writes_held_seconds_total", "counter", "Time in which writes of a worker waited: for the drive to take what is written, for a free region, or since too much waits for demotion.", ("pool", "by"), 1e-6),
    MetricRow("recall_scrubbed_bytes_total", "counter", "Bytes compared with their checksums by the scrubs.", ("pool", "side")),
    MetricRow("recall_scrub_damage_total", "counter", "What scrubs and reads found damaged, and what became of it; what cannot be repaired counts once a scrub and at each read.", ("pool", "side", "damage")),
    MetricRow("recall_lifecycle_actions_total", "counter", "What lifecycle rules did to objects, versions and uploads.", ("action",)),
    MetricRow("recall_notifications_total", "counter", "Event messages to webhooks: delivered, failed and to be tried again, dropped because a queue was full, refused by the webhook for good.", ("fate",)),
    MetricRow("recall_notifications_waiting_bytes", "gauge", "Event messages that wait for their webhook."),
    MetricRow("recall_backing_calls_total", "counter", "Calls to the backing store, each try counted.", ("call", "outcome")),
    MetricRow("recall_backing_seconds_total", "counter", "Time those calls took.", ("call",), 1e-6),
    MetricRow("recall_tls_handshakes_failed_total", "counter", "TLS handshakes that came to nothing: refused, broken off or too slow."),
    MetricRow("recall_restarts_total", "counter", "Processes that were started again, since they had ended by themselves.", ("process",)),
    MetricRow("recall_connections", "gauge", "Open client connections."),
    MetricRow("recall_requests_in_flight", "gauge", "Requests begun and not answered."),
    MetricRow("recall_requests_waiting", "gauge", "Requests and connections above a limit that wait for their turn."),
    MetricRow("recall_disk_free_bytes", "shared", "Room on the disk of the data directory, which the indices grow into."),
    MetricRow("recall_tls_certificate_end_timestamp_seconds", "shared", "When the certificate in force ends, in Unix time."),
    MetricRow("recall_pool_capacity_bytes", "shared", "Flash the pool has.", ("pool",)),
    MetricRow("recall_pool_free_bytes", "shared", "Flash in free regions.", ("pool",)),
    MetricRow("recall_pool_hot_bytes", "shared", "Bytes of objects with a hot copy.", ("pool",)),
    MetricRow("recall_pool_pinned_bytes", "shared", "Bytes held by pins.", ("pool",)),
    MetricRow("recall_pool_dirty_bytes", "shared", "Bytes that wait for demotion.", ("pool",)),
    MetricRow("recall_pool_dirty_age_seconds", "shared", "Age of the oldest object that waits for demotion; 0 when none does.", ("pool",)),
    MetricRow("recall_pool_writable", "shared", "1 while the pool takes writes; 0 while its device fails, the disk is full or too much waits for demotion.", ("pool",)),
    MetricRow("recall_pool_objects", "shared", "Objects, hot and cold.", ("pool",)),
    MetricRow("recall_pool_index_bytes", "shared", "File of its index, which never shrinks.", ("pool",)),
    MetricRow("recall_pool_index_used_bytes", "shared", "What rows take of that; the rest waits to be written again.", ("pool",)),
    MetricRow("recall_pool_damaged", "shared", "Objects and parts that a scrub found damaged and could not mend, and that are still there.", ("pool",)),
    MetricRow("recall_pool_flash_scrubbed_timestamp_seconds", "shared", "When the last pass over its flash was complete, in Unix time; 0 never.", ("pool",)),
    MetricRow("recall_pool_cold_scrubbed_timestamp_seconds", "shared", "When the last pass over its copies in the backing store was complete, in Unix time; 0 never.", ("pool",)),
)
# fmt: on

_FIXED_LABELS: Final[Mapping[str, Sequence[str]]] = {
    "status": STATUS_CLASSES,
    "code": tuple(ERRORS),
    "by": ("drive", "regions", "demotion"),
    "process": ("keeper", "worker"),
    "result": ("hot", "cold", "miss"),
    "fate": ("delivered", "failed", "dropped", "refused"),
    "side": SIDES,
    "damage": FATES,
    "action": (
        "expired",
        "marker_added",
        "marker_removed",
        "version_expired",
        "transitioned",
        "upload_aborted",
        "failed",
    ),
    "call": ("put", "get", "delete", "list", "stat"),
    "outcome": ("ok", "not_found", "unavailable", "corrupt", "abandoned", "error"),
}
_MANY: Final = frozenset({"operation", "code"})
"""Labels with so many values that series at zero are left out; those of other labels are there from the start, or the first event
of a kind would be no increase."""
_ROWS: Final = {row.name: row for row in TABLE}
_FASTEST_S: Final = LATENCY_BOUNDS_S[0]
_HISTOGRAM_CELLS: Final = len(LATENCY_BOUNDS_S) + 2  # buckets, the unbounded one, and the sum as a double
_SUM: Final = _HISTOGRAM_CELLS - 1
_MAGIC_BYTES: Final = 32

SharedGauges = Callable[[], Iterable[tuple[str, str, float]]]
"""Asked at a scrape: (metric name, pool or "", value) of the rows of kind `shared`."""


class Layout:
    """Which cell is which: a pure function of the table and the label values, so equal in all processes of one start."""

    def __init__(self, operations: Sequence[str], pools: Sequence[str]) -> None:
        values = {**_FIXED_LABELS, "operation": (*operations, UNKNOWN), "pool": tuple(pools)}
        self._first: dict[tuple[str, ...], int] = {}
        self.cells = 0
        for row in TABLE:
            if row.kind == "shared":
                continue
            for labels in itertools.product(*(values[label] for label in row.labels)):
                self._first[(row.name, *labels)] = self.cells
                self.cells += _HISTOGRAM_CELLS if row.kind == "histogram" else 1
        self.magic = hashlib.sha256(repr((tuple(self._first.items()), LATENCY_BOUNDS_S)).encode()).digest()

    def cell(self, name: str, *labels: str) -> int:
        """The first cell of a series. Raises KeyError when there is no such series."""
        return self._first[(name, *labels)]

    def series(self) -> Iterator[tuple[MetricRow, tuple[str, ...], int]]:
        """Every series: row, label values, first cell; series of one row are together."""
        for (name, *labels), cell in self._first.items():
            yield _ROWS[name], tuple(labels), cell


class Metrics:
    """This process's cells. `cells[i] += n` is the whole of an increment; find `i` once with `cell`.

    One thread writes: an increment from another may be lost, so threads hand their counts to the loop.
    """

    def __init__(self, run_dir: Path, slot: str, operations: Sequence[str], pools: Sequence[str]) -> None:
        """Opens `<run_dir>/metrics-<slot>`, going on from what is there. Raises OSError."""
        self.layout = Layout(operations, pools)
        self._run_dir = run_dir
        self._map = _open(run_dir / f"metrics-{slot}", self.layout)
        self.cells = memoryview(self._map)[_MAGIC_BYTES:].cast("Q")
        self._doubles = memoryview(self._map)[_MAGIC_BYTES:].cast("d")
        for row, _, cell in self.layout.series():
            if row.kind == "gauge":
                self.cells[cell] = 0  # what the process before us had open is closed
        self._errors = {code: self.cell("recall_errors_total", code) for code in ERRORS}
        self._requests = {name: self._request_cells(name) for name in (*operations, UNKNOWN)}

    def cell(self, name: str, *labels: str) -> int:
        """The cell to add to, of a counter or gauge. Raises KeyError for a series the table does not have."""
        assert _ROWS[name].kind in ("counter", "gauge"), name
        return self.layout.cell(name, *labels)

    def _request_cells(self, operation: str) -> tuple[int, int, int, int, int]:
        cell = self.layout.cell
        return (
            cell("recall_requests_total", operation, STATUS_CLASSES[0]) - 1,
            cell("recall_request_seconds", operation),
            cell("recall_received_bytes_total", operation),
            cell("recall_sent_bytes_total", operation),
            cell("recall_requests_aborted_total", operation),
        )

    def request(
        self,
        operation: str,
        status: int,
        seconds: float,
        received_bytes: int,
        sent_bytes: int,
        complete: bool,
        error: str = "",
    ) -> None:
        """Counts one finished request; an operation that is not in the layout counts as Unknown. `error`: S3's code, if any."""
        requests, latency, received, sent, aborted = self._requests.get(operation) or self._requests[UNKNOWN]
        cells = self.cells
        cells[requests + status // 100] += 1
        cells[latency if seconds <= _FASTEST_S else latency + bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self._doubles[latency + _SUM] += seconds
        if received_bytes:
            cells[received] += received_bytes
        if sent_bytes:
            cells[sent] += sent_bytes
        if not complete:
            cells[aborted] += 1
        if error:
            cells[self._errors[error]] += 1

    def totals(self) -> Sequence[float]:
        """Every cell, added up over all slots."""
        sums = {cell + _SUM for row, _, cell in self.layout.series() if row.kind == "histogram"}
        totals: list[float] = [0] * self.layout.cells
        for path in sorted(self._run_dir.glob("metrics-*")):
            content = path.read_bytes()
            if content[:_MAGIC_BYTES] == self.layout.magic and len(content) == _file_bytes(self.layout):
                whole, doubles = (memoryview(content)[_MAGIC_BYTES:].cast(form) for form in ("Q", "d"))
                for cell in range(self.layout.cells):
                    totals[cell] += doubles[cell] if cell in sums else whole[cell]
        return totals

    def text(self, shared_gauges: SharedGauges = lambda: ()) -> bytes:
        """All metrics of the gateway in Prometheus's text format. Costs about a millisecond a slot."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Scrape(self.layout, self.totals(), tuple(shared_gauges())))
        return exposition.generate_latest(registry)

    def close(self) -> None:
        """Unmaps the file; nothing may be counted afterwards."""
        self.cells.release()
        self._doubles.release()
        self._map.close()


def _file_bytes(layout: Layout) -> int:
    return _MAGIC_BYTES + 8 * layout.cells


def _open(path: Path, layout: Layout) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.pread(descriptor, _MAGIC_BYTES, 0) != layout.magic or os.fstat(descriptor).st_size != _file_bytes(layout):
            os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, _file_bytes(layout))
            os.pwrite(descriptor, layout.magic, 0)
        allocate(descriptor, _file_bytes(layout), str(path))  # else a full disk would be a signal at the next count
        return mmap.mmap(descriptor, _file_bytes(layout))
    finally:
        os.close(descriptor)


class _Scrape(Collector):
    """The totals of one moment, as prometheus_client wants them."""

    def __init__(
        self, layout: Layout, totals: Sequence[float], shared_gauges: Sequence[tuple[str, str, float]]
    ) -> None:
        self._layout = layout
        self._totals = totals
        self._shared_gauges = shared_gauges

    def collect(self) -> Iterator[Metric]:
        """One family a row."""
        for row, group in itertools.groupby(self._layout.series(), key=lambda series: series[0]):
            family = _FAMILIES[row.kind](row.name.removesuffix("_total"), row.help, labels=row.labels)
            for _, labels, cell in group:
                if row.kind == "histogram":
                    self._add_histogram(family, labels, cell)
                elif self._totals[cell] or _MANY.isdisjoint(row.labels):
                    family.add_metric(labels, self._totals[cell] * row.scale)
            yield family
        for row in TABLE:
            if row.kind == "shared":
                gauge = GaugeMetricFamily(row.name, row.help, labels=row.labels)
                for name, pool, value in self._shared_gauges:
                    if name == row.name:
                        gauge.add_metric((pool,) if row.labels else (), value)
                yield gauge

    def _add_histogram(self, family: HistogramMetricFamily, labels: Sequence[str], cell: int) -> None:
        counts = list(itertools.accumulate(self._totals[cell : cell + _HISTOGRAM_CELLS - 1]))
        if counts[-1]:
            bounds = [*(str(bound) for bound in LATENCY_BOUNDS_S), "+Inf"]
            buckets = list(zip(bounds, counts, strict=True))
            family.add_metric(labels, buckets, sum_value=self._totals[cell + _SUM])


_FAMILIES: Final = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


def markdown() -> str:
    """The table of docs/OPERATIONS.md."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for row in TABLE:
        kind = "gauge" if row.kind == "shared" else row.kind
        labels = ", ".join(f"`{label}`" for label in row.labels) or "none"
        lines.append(f"| `{row.name}` | {kind} | {labels} | {row.help} |")
    return "\n".join(lines)
