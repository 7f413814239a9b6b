"""Metrics: counting over processes, the text format, who may read it, and the paths beside S3."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.admin import token
from gateway.admin.routes import HEALTH_PATHS, METRICS_PATHS, AdminRoutes, Health
from gateway.credentials import Credentials
from gateway.metrics import LATENCY_BOUNDS_S, STATUS_CLASSES, TABLE, UNKNOWN, Layout, Metrics
from s3api.message import Request, Response

OPERATIONS = ("GetObject", "PutObject")
POOLS = ("standard", "kv")
ROOT = Credentials("recalltest", "recalltest-secret")
NOW_S = 1_800_000_000.0


def opened(tmp_path: Path, slot: str = "worker-0", operations: tuple[str, ...] = OPERATIONS) -> Metrics:
    return Metrics(tmp_path, slot, operations, POOLS)


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Name and label values, in the order of their names, to the value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_request_counts_everything_of_one_request(tmp_path: Path) -> None:
    metrics = opened(tmp_path)
    metrics.request("GetObject", 206, 0.0003, 0, 4096, True)
    metrics.request("GetObject", 404, 0.02, 0, 300, False)
    found = samples(metrics.text())
    assert found["recall_requests_total", "GetObject", "2xx"] == 1
    assert found["recall_requests_total", "GetObject", "4xx"] == 1
    assert found["recall_sent_bytes_total", "GetObject"] == 4396
    assert found["recall_requests_aborted_total", "GetObject"] == 1
    assert found["recall_request_seconds_count", "GetObject"] == 2
    assert found["recall_request_seconds_sum", "GetObject"] == pytest.approx(0.0203)
    buckets = [found["recall_request_seconds_bucket", str(bound), "GetObject"] for bound in LATENCY_BOUNDS_S]
    assert buckets == [sum(seconds <= bound for seconds in (0.0003, 0.02)) for bound in LATENCY_BOUNDS_S]
    assert ("recall_requests_total", "PutObject", "2xx") not in found


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.0001, 0), (0.00011, 1), (5.0, 9), (5.01, 10), (900.0, 10)]
)
def test_request_puts_a_time_in_the_bucket_that_holds_it(tmp_path: Path, seconds: float, bucket: int) -> None:
    metrics = opened(tmp_path)
    metrics.request("GetObject", 200, seconds, 0, 0, True)
    first = metrics.layout.cell("recall_request_seconds", "GetObject")
    assert list(metrics.cells[first : first + len(LATENCY_BOUNDS_S) + 1]).index(1) == bucket


def test_request_of_no_known_operation_counts_as_unknown(tmp_path: Path) -> None:
    metrics = opened(tmp_path)
    metrics.request("", 400, 0.001, 0, 0, True)
    assert samples(metrics.text())["recall_requests_total", UNKNOWN, "4xx"] == 1


def test_text_adds_up_all_processes(tmp_path: Path) -> None:
    slots = [opened(tmp_path, slot) for slot in ("worker-0", "worker-1", "keeper")]
    for number, metrics in enumerate(slots, start=1):
        metrics.request("GetObject", 200, 0.25, 0, 0, True)
        metrics.cells[metrics.cell("recall_demotions_total", "kv")] += number
        metrics.cells[metrics.cell("recall_connections")] = number
    for metrics in slots:
        found = samples(metrics.text())
        assert found["recall_demotions_total", "kv"] == 6
        assert found["recall_connections",] == 6
        assert found["recall_request_seconds_sum", "GetObject"] == pytest.approx(0.75)


def test_a_restarted_process_goes_on_counting_but_not_its_gauges(tmp_path: Path) -> None:
    before = opened(tmp_path)
    before.cells[before.cell("recall_evictions_total", "kv")] += 7
    before.cells[before.cell("recall_connections")] += 7
    before.close()
    after = opened(tmp_path)
    after.cells[after.cell("recall_evictions_total", "kv")] += 1
    found = samples(after.text())
    assert (found["recall_evictions_total", "kv"], found["recall_connections",]) == (8, 0)


def test_files_of_another_layout_or_length_are_not_read(tmp_path: Path) -> None:
    other = opened(tmp_path, "worker-1", ("GetObject",))
    other.request("GetObject", 200, 0.1, 0, 0, True)
    metrics = opened(tmp_path)
    (tmp_path / "metrics-worker-2").write_bytes(metrics.layout.magic + b"\0" * 8)
    (tmp_path / "metrics-worker-3").write_bytes(b"")
    assert ("recall_requests_total", "GetObject", "2xx") not in samples(metrics.text())
    again = opened(tmp_path, "worker-1")
    assert set(again.cells) == {0}


def test_shared_gauges_are_asked_for_at_the_scrape(tmp_path: Path) -> None:
    found = samples(opened(tmp_path).text(lambda: [("recall_pool_free_bytes", "kv", 12.0)]))
    assert found["recall_pool_free_bytes", "kv"] == 12
    assert ("recall_pool_free_bytes", "standard") not in found


def test_cells_of_series_do_not_overlap() -> None:
    layout = Layout(OPERATIONS, POOLS)
    starts = [cell for _, _, cell in layout.series()]
    lengths = [b - a for a, b in itertools.pairwise([*starts, layout.cells])]
    for (row, _, _), length in zip(layout.series(), lengths, strict=True):
        assert length == (len(LATENCY_BOUNDS_S) + 2 if row.kind == "histogram" else 1)


def test_cell_refuses_what_the_table_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        opened(tmp_path).cell("recall_demotions_total", "no-such-pool")


def test_errors_are_counted_by_their_code(tmp_path: Path) -> None:
    metrics = opened(tmp_path)
    metrics.request("GetObject", 404, 0.001, 0, 0, True, "NoSuchKey")
    metrics.request("GetObject", 200, 0.001, 0, 9, True)
    found = samples(metrics.text())
    assert [labels for name, *labels in found if name == "recall_errors_total"] == [["NoSuchKey"]]


def test_the_first_event_is_an_increase(tmp_path: Path) -> None:
    """A series that appears with its first event shows none: those of few labels are there from the start."""
    metrics = opened(tmp_path)
    assert samples(metrics.text())["recall_backing_calls_total", "put", "unavailable"] == 0
    for row in TABLE:
        if row.kind == "counter" and not {"operation", "code"} & set(row.labels):
            assert [name for name, *_ in samples(metrics.text()) if name == row.name], row.name


def test_rows_follow_prometheus_names() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert row.name.startswith("recall_")
        assert row.name.endswith("_total") == (row.kind == "counter"), row.name
        assert ("Unix time" in row.help) == row.name.endswith("_timestamp_seconds"), row.name
        assert row.help.endswith(".")
    assert all(f"{number}xx" in STATUS_CLASSES for number in range(1, 6))


# the paths beside S3


class Behind:
    """The application behind: says that it was asked."""

    def __init__(self) -> None:
        self.ended: list[bytes] = []

    def handle(self, request: Request) -> Response:
        return Response(418, body=request.path)

    def refusal(self, status: int) -> Response:
        return Response(status, b"x-behind: 1\r\n")

    def finished(self, request: Request, response: Response, sent_bytes: int, complete: bool) -> None:
        self.ended.append(request.path)


class NoBody:
    length: int | None = 0

    async def read(self) -> memoryview:
        return memoryview(b"")

    def done(self) -> None: ...

    def whole(self) -> memoryview | None:
        return None


def request(path: bytes, method: str = "GET", query: bytes = b"", peer: str = "127.0.0.1", **headers: str) -> Request:
    given = {name.encode(): value.encode() for name, value in headers.items()}
    return Request(method, path, query, given, NoBody(), peer=peer)


def routes(tmp_path: Path, metrics_auth: Any = "auto", health: Health = Health()) -> AdminRoutes:  # noqa: B008
    return AdminRoutes(
        Behind(), opened(tmp_path), ROOT, metrics_auth=metrics_auth, health=lambda: health, now_s=lambda: NOW_S
    )


def status(response: object) -> int:
    assert isinstance(response, Response)
    return response.status


@pytest.mark.parametrize("path", sorted(HEALTH_PATHS))
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_answers_get_and_head(tmp_path: Path, path: bytes, method: str) -> None:
    assert status(routes(tmp_path).handle(request(path, method))) == 200


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (Health(), (200, 200, 200, 200)),
        (Health(writable=False), (200, 200, 503, 200)),
        (Health(readable=False), (200, 503, 503, 503)),
    ],
)
def test_health_tells_states_apart(tmp_path: Path, health: Health, expected: tuple[int, ...]) -> None:
    admin = routes(tmp_path, health=health)
    paths = ("/live", "/ready", "/cluster", "/cluster/read")
    assert tuple(status(admin.handle(request(b"/minio/health" + path.encode()))) for path in paths) == expected


@pytest.mark.parametrize(
    "passed",
    [
        request(b"/minio/health"),
        request(b"/minio/health/live/"),
        request(b"/minio/health/live", "PUT"),
        request(b"/minio/health/live", "DELETE"),
        request(b"/minio"),
        request(b"/recall"),
        request(b"/recall/metrics2"),
        request(b"/recall/metrics", "PUT"),
        request(b"/recall/metrics", authorization="AWS4-HMAC-SHA256 Credential=x"),
        request(b"/recall/metrics", query=b"X-Amz-Signature=1"),
        request(b"/bucket/recall/metrics"),
    ],
    ids=lambda passed: f"{passed.method} {passed.path.decode()}",
)
def test_everything_else_goes_on_to_the_application(tmp_path: Path, passed: Request) -> None:
    behind = Behind()
    admin = AdminRoutes(behind, opened(tmp_path), ROOT, metrics_auth="auto")
    response = admin.handle(passed)
    assert isinstance(response, Response)
    assert response.status == 418
    admin.finished(passed, response, 0, True)
    assert behind.ended == [passed.path]


def test_finished_of_our_own_paths_is_not_passed_on(tmp_path: Path) -> None:
    behind = Behind()
    admin = AdminRoutes(behind, opened(tmp_path), ROOT, metrics_auth="auto")
    admin.finished(request(b"/recall/metrics"), Response(200), 0, True)
    assert behind.ended == []


def test_head_of_the_metrics_states_the_length(tmp_path: Path) -> None:
    response = routes(tmp_path).handle(request(b"/recall/metrics", "HEAD"))
    assert isinstance(response, Response)
    assert response.body == b""
    assert response.length


@pytest.mark.parametrize("path", sorted(METRICS_PATHS))
@pytest.mark.parametrize(
    ("auth", "peer", "bearer", "expected"),
    [
        ("auto", "127.0.0.1", False, 200),
        ("auto", "::1", False, 200),
        ("auto", "::ffff:127.0.0.1", False, 200),
        ("auto", "10.0.0.7", False, 401),
        ("auto", "::ffff:10.0.0.7", False, 401),
        ("auto", "", False, 401),
        ("auto", "10.0.0.7", True, 200),
        ("jwt", "127.0.0.1", False, 401),
        ("jwt", "127.0.0.1", True, 200),
        ("public", "10.0.0.7", False, 200),
    ],
)
def test_metrics_are_shown_to(tmp_path: Path, path: bytes, auth: str, peer: str, bearer: bool, expected: int) -> None:
    headers = {"authorization": f"Bearer {token.make(ROOT, NOW_S)}"} if bearer else {}
    assert status(routes(tmp_path, auth).handle(request(path, peer=peer, **headers))) == expected


def test_token_ends_and_belongs_to_one_root() -> None:
    made = token.make(ROOT, NOW_S)
    assert token.accepts(ROOT, made, NOW_S + token.LIFE_S - 1)
    assert not token.accepts(ROOT, made, NOW_S + token.LIFE_S + 1)
    assert not token.accepts(Credentials("recalltest", "another-secret"), made, NOW_S)
    assert not token.accepts(Credentials("somebody", ROOT.secret_key), made, NOW_S)


def test_token_accepts_what_mc_makes() -> None:
    """Claims and header in another order and with another issuer's fields: what counts is what is said."""
    signed = ".".join(
        token._encoded(part)
        for part in (b'{"typ":"JWT","alg":"HS512"}', b'{"iss":"prometheus","sub":"recalltest","exp":4948323552}')
    )
    assert token.accepts(ROOT, f"{signed}.{token._encoded(token._signature(ROOT, signed))}", NOW_S)


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        (b'{"alg":"none"}', b'{"iss":"prometheus","sub":"recalltest","exp":4948323552}'),
        (b'{"alg":"HS256"}', b'{"iss":"prometheus","sub":"recalltest","exp":4948323552}'),
        (b'{"alg":"HS512"}', b'{"iss":"someone","sub":"recalltest","exp":4948323552}'),
        (b'{"alg":"HS512"}', b'{"iss":"prometheus","sub":"recalltest"}'),
        (b'{"alg":"HS512"}', b"[]"),
        (b"\xff", b"{}"),
    ],
)
def test_token_refuses_other_claims_though_signed(header: bytes, claims: bytes) -> None:
    signed = f"{token._encoded(header)}.{token._encoded(claims)}"
    assert not token.accepts(ROOT, f"{signed}.{token._encoded(token._signature(ROOT, signed))}", NOW_S)


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "a.b", "é.é.é", "a" * 5000, "!!.!!.!!"])
def test_token_refuses_what_is_no_token(text: str) -> None:
    assert not token.accepts(ROOT, text, NOW_S)
