"""What each KV-cache client of an S3 store puts on the wire, sent as it sends it, and the server mistakes that break one.

Each section is one client; its library need not be installed. Where a client needs a header in a reply, the test asks for
that header, since a general S3 client would not miss it.
"""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from awscrt.checksums import crc32, crc32c, crc64nvme

from tests.s3.conftest import BOUND_HOST, DOMAIN, HOST_BUCKET, LISTENER_BUCKET
from tests.s3.rawclient import (
    SIGNED_CHUNKS,
    SIGNED_CHUNKS_TRAILER,
    UNSIGNED_TRAILER,
    RawClient,
    Reply,
    Signer,
    aws_chunks,
    coded_path,
    http_chunks,
)
from tests.support.gateway import Gateway

MIB: Final = 1 << 20
PART: Final = 8 * MIB
MODEL: Final = "meta-llama_Llama-3.1-8B-Instruct"
SEED: Final = 20_261_124


def block(size: int, name: str = "") -> bytes:
    """Bytes of a KV block: as good as random, the same at each run."""
    return random.Random(f"{SEED} {name} {size}").randbytes(size)


def number_text(value: int, size: int) -> str:
    return base64.b64encode(value.to_bytes(size, "big")).decode()


CHECKSUMS: Final[dict[str, Callable[[bytes], str]]] = {
    "crc32": lambda data: number_text(crc32(data), 4),
    "crc32c": lambda data: number_text(crc32c(data), 4),
    "crc64nvme": lambda data: number_text(crc64nvme(data), 8),
    "sha1": lambda data: base64.b64encode(hashlib.sha1(data).digest()).decode(),
    "sha256": lambda data: base64.b64encode(hashlib.sha256(data).digest()).decode(),
}


# --- LMCache: S3Connector and L2 adapter (awscrt) -----------------------------------------------------------------------
# Only the key is in the path, the bucket is in Host; every request is UNSIGNED-PAYLOAD and signs three headers.


@pytest.fixture(params=["virtual-host", "bound-host", "bound-listener"])
def lmcache(
    request: pytest.FixtureRequest, gateway: Gateway, signer: Signer, s3: Any
) -> Iterator[tuple[RawClient, str]]:
    """A connection on which `/<key>` is a key of one bucket, in each of the three ways; and that bucket."""
    port = gateway.port
    if request.param == "virtual-host":
        bucket = "kv-lmcache"
        host = f"{bucket}.{DOMAIN}:{port}"
    elif request.param == "bound-host":
        bucket, host = HOST_BUCKET, BOUND_HOST
    else:
        bucket, host = LISTENER_BUCKET, ""
        endpoint = (gateway.data_dir / "run" / f"{bucket}.endpoint").read_text().strip()
        port = int(endpoint.rpartition(":")[2])
    s3.create_bucket(Bucket=bucket)
    with RawClient(port, signer, host) as client:
        yield client, bucket


def crt_upload(client: RawClient, path: str, data: bytes, part_bytes: int = PART, **how: Any) -> Reply:
    """A multipart upload as awscrt does it: parts, then the completion that states the object's size."""
    begun = client.request("POST", path, query=(("uploads", ""),), length=True, **how)
    assert begun.status == 200, begun
    upload = begun.texts("UploadId")[0]
    document = "<CompleteMultipartUpload>"
    for number, at in enumerate(range(0, max(len(data), 1), part_bytes), start=1):
        query = (("partNumber", str(number)), ("uploadId", upload))
        part = client.request("PUT", path, query=query, body=data[at : at + part_bytes], length=True, **how)
        assert part.status == 200, part
        document += f"<Part><ETag>{part.etag}</ETag><PartNumber>{number}</PartNumber></Part>"
    return client.request(
        "POST",
        path,
        query=(("uploadId", upload),),
        headers={"x-amz-mp-object-size": str(len(data)), "content-type": "application/xml"},
        body=(document + "</CompleteMultipartUpload>").encode(),
        **how,
    )


def crt_download(client: RawClient, path: str, size: int, **how: Any) -> bytes:
    """Ranges of 8 MiB: the first one blind, those after it bound to its ETag."""
    first = client.request("GET", path, headers={"range": f"bytes=0-{PART - 1}"}, **how)
    assert first.status == 206
    assert first.headers["content-range"] == f"bytes 0-{min(size, PART) - 1}/{size}"
    assert first.etag.startswith('"') and first.etag.endswith('"')
    body = first.body
    for at in range(PART, size, PART):
        stop = min(at + PART, size)
        asked = {"range": f"bytes={at}-{stop - 1}", "if-match": first.etag}
        part = client.request("GET", path, headers=asked, **how)
        assert part.status == 206
        assert part.headers["content-range"] == f"bytes {at}-{stop - 1}/{size}"
        assert part.etag == first.etag
        body += part.body
    return body


def test_lmcache_block_of_one_part_is_stored_and_loaded(lmcache: tuple[RawClient, str], s3: Any) -> None:
    client, bucket = lmcache
    key = f"{MODEL}@1@0@{'5f' * 16}@bfloat16"
    data = block(2 * MIB, bucket)
    s3.delete_object(Bucket=bucket, Key=key)

    miss = client.request("HEAD", f"/{key}")
    assert miss.status == 404
    put = client.request("PUT", f"/{key}", headers={"content-type": "application/octet-stream"}, body=data)
    assert put.status == 200
    head = client.request("HEAD", f"/{key}")
    assert (head.status, head.headers["content-length"], head.etag) == (200, str(len(data)), put.etag)
    assert crt_download(client, f"/{key}", len(data)) == data
    assert key in {row["Key"] for row in s3.list_objects_v2(Bucket=bucket)["Contents"]}


def test_lmcache_block_of_three_parts_is_stored_and_loaded(lmcache: tuple[RawClient, str]) -> None:
    client, bucket = lmcache
    path = f"/{MODEL}@1@0@{'32' * 16}@bfloat16"
    data = block(20 * MIB, bucket)
    done = crt_upload(client, path, data)
    assert done.status == 200
    head = client.request("HEAD", path)
    assert head.headers["content-length"] == str(len(data))
    assert head.etag in (text if text.startswith('"') else f'"{text}"' for text in done.texts("ETag"))
    assert crt_download(client, path, len(data)) == data


def test_lmcache_part_bound_to_another_etag_is_412(lmcache: tuple[RawClient, str]) -> None:
    client, _ = lmcache
    client.request("PUT", "/etag-bound", body=b"x" * 100)
    stale = client.request("GET", "/etag-bound", headers={"range": "bytes=0-9", "if-match": '"00000000"'})
    assert (stale.status, stale.code) == (412, "PreconditionFailed")


def test_lmcache_wrong_object_size_at_completion_stores_nothing(lmcache: tuple[RawClient, str]) -> None:
    client, _ = lmcache
    upload = client.request("POST", "/wrong-size", query=(("uploads", ""),), length=True).texts("UploadId")[0]
    query = (("partNumber", "1"), ("uploadId", upload))
    part = client.request("PUT", "/wrong-size", query=query, body=b"twelve bytes")
    document = f"<CompleteMultipartUpload><Part><ETag>{part.etag}</ETag><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>"
    headers = {"x-amz-mp-object-size": "13"}
    done = client.request("POST", "/wrong-size", query=(("uploadId", upload),), headers=headers, body=document.encode())
    assert (done.status, done.code) == (400, "InvalidRequest")
    assert client.request("HEAD", "/wrong-size").status == 404


def test_lmcache_key_tag_pins_without_any_header(lmcache: tuple[RawClient, str]) -> None:
    """It can send no headers of its own: `lmcache.tag.pin` becomes `@pin%1` in the key and a key rule reads it."""
    client, _ = lmcache
    path = f"/{MODEL}@1@0@{'aa' * 16}@bfloat16@pin%1"
    assert client.request("PUT", path, body=b"pinned").status == 200
    assert client.request("HEAD", path).headers["x-recall-pinned-until"] == "forever"
    plain = client.request("PUT", f"/{MODEL}@1@0@{'bb' * 16}@bfloat16@user%a b", body=b"plain")
    assert "x-recall-pinned-until" not in plain.headers
    client.request("DELETE", path)


def test_lmcache_key_tag_gives_a_sliding_ttl(lmcache: tuple[RawClient, str]) -> None:
    client, _ = lmcache
    path = f"/{MODEL}@1@0@{'cc' * 16}@bfloat16@ttl%hour"
    assert client.request("PUT", path, body=b"short-lived").status == 200
    assert "x-recall-expires" in client.request("HEAD", path).headers


def test_lmcache_l2_adapter_lists_by_model_and_deletes(lmcache: tuple[RawClient, str]) -> None:
    """Slashes are kept, the salt may hold spaces, `prefix=<model>@` finds a model's blocks over pages."""
    client, _ = lmcache
    model = "meta-llama/Llama-3.1-8B"
    keys = [f"{model}@{rank:08x}@0@{'ef' * 8}@tenant one" for rank in range(5)]
    for key in keys:
        assert client.request("PUT", f"/{key}", body=b"block").status == 200
    found: list[str] = []
    token = ""
    for _ in range(10):
        query = [("list-type", "2"), ("max-keys", "2"), ("prefix", f"{model}@")]
        page = client.request("GET", "/", query=(*query, ("continuation-token", token)) if token else tuple(query))
        assert page.status == 200
        found += page.texts("Key")
        assert set(page.texts("Size")) == {"5"}
        token = next(iter(page.texts("NextContinuationToken")), "")
        if not token:
            break
    assert found == keys
    for key in keys:
        assert client.request("DELETE", f"/{key}").status == 204
        assert client.request("DELETE", f"/{key}").status == 204


def test_lmcache_block_gone_after_the_head_is_a_clean_404(lmcache: tuple[RawClient, str]) -> None:
    """Sizes are cached for ever in the client: it GETs what has expired since, and recomputes after a 404."""
    client, _ = lmcache
    client.request("PUT", "/gone", body=b"x")
    assert client.request("HEAD", "/gone").status == 200
    client.request("DELETE", "/gone")
    gone = client.request("GET", "/gone", headers={"range": f"bytes=0-{PART - 1}"})
    assert (gone.status, gone.code) == (404, "NoSuchKey")
    assert client.request("HEAD", "/gone").status == 404, "and the connection goes on"


def test_lmcache_keeps_its_connection(lmcache: tuple[RawClient, str]) -> None:
    client, _ = lmcache
    for number in range(50):
        assert client.request("HEAD", f"/nothing-{number}").status == 404
        assert client.request("PUT", f"/kept-{number % 3}", body=b"x" * (number + 1)).status == 200


def test_lmcache_signature_of_another_bucket_host_is_refused(gateway: Gateway, signer: Signer) -> None:
    """Host is signed: it must reach the check as it was sent."""
    with RawClient(gateway.port, signer, f"kv-lmcache.{DOMAIN}:{gateway.port}") as client:
        headers = signer.sign("GET", "/any", (), {"host": f"kv-other.{DOMAIN}:{gateway.port}"}, "UNSIGNED-PAYLOAD")
        refused = client.send("GET", "/any", headers={**headers, "host": client.host})
        assert (refused.status, refused.code) == (403, "SignatureDoesNotMatch")


# --- NIXL OBJ, standard client (aws-sdk-cpp): vLLM's object tier, LMCache nixl_store, SGLang nixl -----------------------

CPP: Final = {
    "amz-sdk-invocation-id": "D7B1E2F0-5B1B-4C9E-9F39-5C6C0C3E7A11",
    "amz-sdk-request": "attempt=1",
    "content-type": "application/xml",
}
"""What aws-sdk-cpp sends, and signs, also on GET and HEAD."""


def nixl_put(
    client: RawClient,
    path: str,
    data: bytes,
    *,
    chunk: int = 65_536,
    http_chunk: int = 0xFFF4,
    trailer: str | None = None,
    headers: dict[str, str] | None = None,
    **how: Any,
) -> Reply:
    """The default PUT: no Content-Length, aws-chunked frames in HTTP chunks that do not line up, a trailer, Expect."""
    said = {
        **CPP,
        "content-type": "binary/octet-stream",
        "content-encoding": "aws-chunked",
        "transfer-encoding": "chunked",
        "x-amz-decoded-content-length": str(len(data)),
        "x-amz-trailer": "x-amz-checksum-crc64nvme",
        **(headers or {}),
    }
    value = CHECKSUMS["crc64nvme"](data) if trailer is None else trailer
    framed = aws_chunks(
        (data[at : at + chunk] for at in range(0, len(data), chunk)), ("x-amz-checksum-crc64nvme", value)
    )
    body = http_chunks(framed, http_chunk)
    return client.request(
        "PUT", path, headers=said, body=body, payload=UNSIGNED_TRAILER, length=False, expect=True, **how
    )


@pytest.mark.parametrize("http_chunk", [1, 0xFFF4, 1 << 20], ids=["a byte each", "as curl cuts", "all in one"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 300_001], ids=str)
def test_nixl_chunks_in_chunks_are_stored_exactly(raw: RawClient, kv_bucket: str, size: int, http_chunk: int) -> None:
    if http_chunk == 1 and size > 65_536:
        size = 20_000  # 300,000 chunks of a byte show nothing more
    data = block(size)
    put = nixl_put(raw, f"/{kv_bucket}/block", data, http_chunk=http_chunk)
    assert (put.status, put.continued) == (200, True)
    assert put.headers["x-amz-checksum-crc64nvme"] == CHECKSUMS["crc64nvme"](data)
    got = raw.request("GET", f"/{kv_bucket}/block", headers=CPP)
    assert got.body == data
    assert "content-encoding" not in got.headers, "aws-chunked named the transfer, not the object"


def test_nixl_block_of_eight_mib(raw: RawClient, kv_bucket: str) -> None:
    data = block(8 * MIB)
    assert nixl_put(raw, f"/{kv_bucket}/large", data).status == 200
    got = raw.request("GET", f"/{kv_bucket}/large", headers={**CPP, "range": f"bytes=0-{len(data) - 1}"})
    assert got.status == 206 and got.body == data


def test_nixl_wrong_trailer_stores_nothing(raw: RawClient, kv_bucket: str) -> None:
    put = nixl_put(raw, f"/{kv_bucket}/damaged", block(70_000), trailer=CHECKSUMS["crc64nvme"](b"other"))
    assert (put.status, put.code) == (400, "BadDigest")
    assert raw.request("HEAD", f"/{kv_bucket}/damaged").status == 404


def test_nixl_body_shorter_than_its_decoded_length_stores_nothing(raw: RawClient, kv_bucket: str) -> None:
    data = block(1000)
    put = nixl_put(raw, f"/{kv_bucket}/short", data, headers={"x-amz-decoded-content-length": "1001"})
    assert put.status == 400
    with RawClient(int(raw.host.rpartition(":")[2]), raw.signer) as other:
        assert other.request("HEAD", f"/{kv_bucket}/short").status == 404


@pytest.mark.parametrize(
    ("wrong", "status", "code"),
    [
        ({"bucket": "no-such-bucket"}, 404, "NoSuchBucket"),
        ({"headers": {"if-none-match": "*"}}, 412, "PreconditionFailed"),
        ({"headers": {"if-match": '"0123"'}}, 412, "PreconditionFailed"),
        ({"headers": {"x-recall-pin": "perhaps"}}, 400, "InvalidArgument"),
        ({"headers": {"x-amz-decoded-content-length": str((5 << 30) + 1)}}, 400, "EntityTooLarge"),
    ],
    ids=["no bucket", "present already", "another version", "bad header", "too large"],
)
def test_nixl_refused_put_sends_no_body(
    raw: RawClient, kv_bucket: str, wrong: dict[str, Any], status: int, code: str
) -> None:
    """Expect is answered only when everything but the bytes is known to be right."""
    raw.request("PUT", f"/{kv_bucket}/present", body=b"old")
    bucket = wrong.get("bucket", kv_bucket)
    put = nixl_put(raw, f"/{bucket}/present", block(2 * MIB), headers=wrong.get("headers"))
    assert (put.status, put.code, put.continued) == (status, code, False)
    with RawClient(int(raw.host.rpartition(":")[2]), raw.signer) as other:
        assert other.request("GET", f"/{kv_bucket}/present").body == b"old"


def test_nixl_bad_signature_sends_no_body(raw: RawClient, kv_bucket: str) -> None:
    headers = raw.signer.sign("PUT", f"/{kv_bucket}/other", (), {"host": raw.host}, "UNSIGNED-PAYLOAD")
    put = raw.send("PUT", f"/{kv_bucket}/key", headers=headers, body=block(2 * MIB), expect=True)
    assert (put.status, put.code, put.continued) == (403, "SignatureDoesNotMatch", False)


def test_nixl_required_checksum_is_a_hashed_payload_with_expect(raw: RawClient, kv_bucket: str) -> None:
    data = block(3 * MIB)
    payload = hashlib.sha256(data).hexdigest()
    put = raw.request("PUT", f"/{kv_bucket}/hashed", headers=CPP, body=data, payload=payload, expect=True)
    assert (put.status, put.continued) == (200, True)
    assert raw.request("GET", f"/{kv_bucket}/hashed").body == data


def test_nixl_hashed_payload_that_is_another_stores_nothing(raw: RawClient, kv_bucket: str) -> None:
    payload = hashlib.sha256(b"what was signed").hexdigest()
    put = raw.request("PUT", f"/{kv_bucket}/hashed", body=b"what was sent  ", payload=payload, expect=True)
    assert (put.status, put.code) == (400, "XAmzContentSHA256Mismatch")
    assert raw.request("HEAD", f"/{kv_bucket}/hashed").status == 404


def test_nixl_raw_path_is_verified_as_it_was_signed(raw: RawClient, kv_bucket: str, s3: Any) -> None:
    """`@:=&` go out raw and are signed percent-encoded."""
    key = "model@tp0@layer:3=k&v/abc+de"
    wire = f"/{kv_bucket}/model@tp0@layer:3=k&v/abc+de"
    assert nixl_put(raw, f"/{kv_bucket}/{key}", b"raw path", raw_path=wire).status == 200
    assert raw.request("HEAD", f"/{kv_bucket}/{key}", headers=CPP, raw_path=wire).status == 200
    assert s3.get_object(Bucket=kv_bucket, Key=key)["Body"].read() == b"raw path"


def test_nixl_read_asks_for_a_range_and_checksums(raw: RawClient, kv_bucket: str) -> None:
    """It checks a reply against whatever checksum it carries: a part must not carry that of the whole."""
    data = block(100_000)
    path = f"/{kv_bucket}/block"
    assert nixl_put(raw, path, data).status == 200
    mode = {**CPP, "x-amz-checksum-mode": "enabled"}
    for start, stop in ((0, 50_000), (50_000, 100_000), (1, 100_000), (99_999, 100_000)):
        part = raw.request("GET", path, headers={**mode, "range": f"bytes={start}-{stop - 1}"})
        assert (part.status, part.body, part.checksum_headers()) == (206, data[start:stop], {})
    whole = {"x-amz-checksum-crc64nvme": CHECKSUMS["crc64nvme"](data), "x-amz-checksum-type": "FULL_OBJECT"}
    for asked in ({}, {"range": "bytes=0-99999"}, {"range": "bytes=0-8388607"}):
        got = raw.request("GET", path, headers={**mode, **asked})
        assert (got.status, got.body, got.checksum_headers()) == (206 if asked else 200, data, whole)
    assert raw.request("GET", path, headers=CPP).checksum_headers() == {}, "nobody asked"


def test_nixl_miss_is_an_empty_404_never_403(raw: RawClient, kv_bucket: str) -> None:
    """vLLM's object tier probes a name at its start and gives up on anything but 404."""
    probe = raw.request("HEAD", f"/{kv_bucket}/__nixl_probe__/connectivity_test", headers=CPP)
    assert (probe.status, probe.body) == (404, b"")
    gone = raw.request("HEAD", "/no-such-bucket/__nixl_probe__/connectivity_test", headers=CPP)
    assert (gone.status, gone.body) == (404, b"")


@pytest.mark.parametrize("header", ["x-rdma-info", "x-amz-rdma-token"])
def test_nixl_accelerated_is_told_that_no_bytes_come_by_rdma(raw: RawClient, kv_bucket: str, header: str) -> None:
    """Its PUT has no body: taken for what it looks like, the block would be gone, and a read would leave what was in memory."""
    raw.request("PUT", f"/{kv_bucket}/block", body=b"block")
    token = {header: "0102:7f0000000000:200000"}
    for method, more in (("PUT", {}), ("GET", {"range": "bytes=0-4"})):
        reply = raw.request(method, f"/{kv_bucket}/block", headers=token | more, length=method == "PUT")
        assert (reply.status, reply.code, reply.texts("Header")) == (501, "NotImplemented", [header])
    assert (
        raw.request("PUT", f"/{kv_bucket}/block", query=(("partNumber", "1"), ("uploadId", "x")), headers=token).status
        == 501
    )
    assert raw.request("GET", f"/{kv_bucket}/block").body == b"block"


def test_nixl_query_of_many_keys_at_once(gateway: Gateway, signer: Signer, raw: RawClient, kv_bucket: str) -> None:
    """queryMem launches every HEAD together."""
    present = {f"block-{number}" for number in range(0, 64, 3)}
    for key in present:
        raw.request("PUT", f"/{kv_bucket}/{key}", body=b"x")
    answers: dict[str, int] = {}

    def ask(keys: list[str]) -> None:
        with RawClient(gateway.port, signer) as client:
            for key in keys:
                answers[key] = client.request("HEAD", f"/{kv_bucket}/{key}", headers=CPP).status

    run_all([lambda first=first: ask([f"block-{n}" for n in range(first, 64, 16)]) for first in range(16)])
    assert {key for key, status in answers.items() if status == 200} == present
    assert {status for key, status in answers.items() if key not in present} == {404}
    assert len(answers) == 64


def run_all(calls: list[Callable[[], object]]) -> None:
    """Runs the calls at once, each in a thread, all released together; raises the first failure."""
    gate = threading.Barrier(len(calls))
    failures: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        gate.wait()
        try:
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# --- NIXL OBJ, S3-CRT client: absolute-form targets ---------------------------------------------------------------------


@pytest.fixture
def absolute(raw: RawClient) -> Callable[..., Reply]:
    """Requests whose target is `http://host:port/bucket/key%40…`."""

    def request(method: str, path: str, **how: Any) -> Reply:
        return raw.request(method, path, raw_path=f"http://{raw.host}{coded_path(path)}", **how)

    return request


class AbsoluteClient:
    """A RawClient seen through `absolute`."""

    def __init__(self, request: Callable[..., Reply]) -> None:
        self.request = request


def test_crt_absolute_form_stores_and_loads_in_parts(absolute: Callable[..., Reply], kv_bucket: str, s3: Any) -> None:
    client: Any = AbsoluteClient(absolute)
    data = block(17 * MIB)
    path = f"/{kv_bucket}/model@tp0@large"
    assert crt_upload(client, path, data).status == 200
    assert crt_download(client, path, len(data)) == data
    assert [row["Key"] for row in s3.list_objects_v2(Bucket=kv_bucket)["Contents"]] == ["model@tp0@large"]


def test_crt_single_part_upload_below_the_part_minimum(absolute: Callable[..., Reply], kv_bucket: str) -> None:
    client: Any = AbsoluteClient(absolute)
    assert crt_upload(client, f"/{kv_bucket}/small", b"a" * 4096).status == 200
    assert crt_download(client, f"/{kv_bucket}/small", 4096) == b"a" * 4096


def test_crt_multipart_in_small_parts_but_the_last_is_refused(absolute: Callable[..., Reply], kv_bucket: str) -> None:
    client: Any = AbsoluteClient(absolute)
    done = crt_upload(client, f"/{kv_bucket}/pieces", b"a" * 8192, part_bytes=4096)
    assert (done.status, done.code) == (400, "EntityTooSmall")


def test_absolute_form_names_its_host_not_a_key(raw: RawClient, signer: Signer, gateway: Gateway, s3: Any) -> None:
    """Scheme and authority are no part of the path, also where the host alone names the bucket."""
    s3.create_bucket(Bucket=HOST_BUCKET)
    with RawClient(gateway.port, signer, BOUND_HOST) as client:
        put = client.request("PUT", "/absolute@key", raw_path=f"http://{BOUND_HOST}/absolute%40key", body=b"found")
        assert put.status == 200
    assert s3.get_object(Bucket=HOST_BUCKET, Key="absolute@key")["Body"].read() == b"found"


# --- raw awscrt with a checksum configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", CHECKSUMS)
def test_awscrt_trailer_with_a_content_length(raw: RawClient, bucket: str, algorithm: str) -> None:
    data = block(2 * MIB + 17)
    name, value = f"x-amz-checksum-{algorithm}", CHECKSUMS[algorithm](data)
    body = aws_chunks((data[: 1 << 20], data[1 << 20 :]), (name, value))
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(data)),
        "x-amz-trailer": name,
    }
    put = raw.request("PUT", f"/{bucket}/trailer", headers=headers, body=body, payload=UNSIGNED_TRAILER)
    assert (put.status, put.headers[name]) == (200, value)
    head = raw.request("HEAD", f"/{bucket}/trailer", headers={"x-amz-checksum-mode": "enabled"})
    assert head.headers[name] == value
    got = raw.request("GET", f"/{bucket}/trailer", headers={"if-match": head.etag, "range": f"bytes=0-{len(data) - 1}"})
    assert got.body == data


@pytest.mark.parametrize("algorithm", CHECKSUMS)
def test_awscrt_parts_with_trailers(raw: RawClient, bucket: str, algorithm: str) -> None:
    path, name = f"/{bucket}/parts", f"x-amz-checksum-{algorithm}"
    pieces = [block(5 * MIB), block(1000)]
    begun = raw.request(
        "POST",
        path,
        query=(("uploads", ""),),
        headers={"x-amz-checksum-algorithm": algorithm.upper()},
        length=True,
    )
    upload = begun.texts("UploadId")[0]
    document = "<CompleteMultipartUpload>"
    element = f"Checksum{algorithm.upper()}"
    for number, piece in enumerate(pieces, start=1):
        value = CHECKSUMS[algorithm](piece)
        headers = {
            "content-encoding": "aws-chunked",
            "x-amz-decoded-content-length": str(len(piece)),
            "x-amz-trailer": name,
        }
        part = raw.request(
            "PUT",
            path,
            query=(("partNumber", str(number)), ("uploadId", upload)),
            headers=headers,
            body=aws_chunks((piece,), (name, value)),
            payload=UNSIGNED_TRAILER,
        )
        assert (part.status, part.headers[name]) == (200, value)
        document += (
            f"<Part><PartNumber>{number}</PartNumber><ETag>{part.etag}</ETag><{element}>{value}</{element}></Part>"
        )
    done = raw.request(
        "POST",
        path,
        query=(("uploadId", upload),),
        headers={"x-amz-mp-object-size": str(sum(map(len, pieces)))},
        body=(document + "</CompleteMultipartUpload>").encode(),
    )
    assert done.status == 200
    shown = done.texts(element)[0]
    if algorithm == "crc64nvme":
        assert shown == CHECKSUMS[algorithm](b"".join(pieces))
    else:
        assert shown.endswith("-2")
    assert raw.request("GET", path).body == b"".join(pieces)


# --- Java, Go, minio-go: signed chunks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 65_536, 200_000], ids=str)
def test_signed_chunks_are_stored(raw: RawClient, bucket: str, size: int) -> None:
    data = block(size)
    put = raw.send("PUT", f"/{bucket}/signed", **signed_chunks(raw, f"/{bucket}/signed", data))
    assert put.status == 200
    assert raw.request("GET", f"/{bucket}/signed").body == data


def test_signed_chunks_with_one_byte_changed_are_refused(raw: RawClient, bucket: str) -> None:
    request = signed_chunks(raw, f"/{bucket}/signed", block(100_000))
    body = bytearray(request["body"])
    body[50_000] ^= 1
    put = raw.send("PUT", f"/{bucket}/signed", **{**request, "body": bytes(body)})
    assert (put.status, put.code) == (403, "SignatureDoesNotMatch")
    with RawClient(int(raw.host.rpartition(":")[2]), raw.signer) as other:
        assert other.request("HEAD", f"/{bucket}/signed").status == 404


@pytest.mark.parametrize("algorithm", CHECKSUMS)
def test_signed_chunks_with_a_signed_trailer(raw: RawClient, bucket: str, algorithm: str) -> None:
    data = block(150_000)
    trailer = (f"x-amz-checksum-{algorithm}", CHECKSUMS[algorithm](data))
    put = raw.send("PUT", f"/{bucket}/signed", **signed_chunks(raw, f"/{bucket}/signed", data, trailer))
    assert (put.status, put.headers[trailer[0]]) == (200, trailer[1])
    assert raw.request("GET", f"/{bucket}/signed").body == data


def signed_chunks(
    raw: RawClient, path: str, data: bytes, trailer: tuple[str, str] | None = None, chunk: int = 65_536
) -> dict[str, Any]:
    said = {"host": raw.host, "content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(data))}
    if trailer:
        said["x-amz-trailer"] = trailer[0]
    headers = raw.signer.sign("PUT", path, (), said, SIGNED_CHUNKS_TRAILER if trailer else SIGNED_CHUNKS)
    pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return {"headers": headers, "body": raw.signer.chunks(headers, pieces, trailer)}


# --- boto3, SGLang HiCache, s3fs, obstore, Mountpoint: what is theirs on the wire ---------------------------------------


@pytest.mark.parametrize("key", ["/lead", "a//b", "trailing/", "/", "//", "a/./b", "a/../b", ".", "..", "%41", "a+b c"])
def test_keys_are_never_folded(raw: RawClient, bucket: str, s3: Any, key: str) -> None:
    """boto3 sends `//`, a leading slash and dots as they are: each is a key of its own."""
    assert raw.request("PUT", f"/{bucket}/{key}", body=key.encode()).status == 200
    assert raw.request("GET", f"/{bucket}/{key}").body == key.encode()
    assert [row["Key"] for row in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()


def test_obstore_copy_is_a_put_without_content_length(raw: RawClient, bucket: str) -> None:
    raw.request("PUT", f"/{bucket}/from", body=b"copied")
    copy = raw.request("PUT", f"/{bucket}/to", headers={"x-amz-copy-source": f"{bucket}/from"}, length=False)
    assert copy.status == 200 and copy.texts("ETag")
    assert raw.request("GET", f"/{bucket}/to").body == b"copied"


def test_put_without_any_length_is_411(raw: RawClient, bucket: str) -> None:
    refused = raw.request("PUT", f"/{bucket}/lengthless", length=False)
    assert (refused.status, refused.code) == (411, "MissingContentLength")


def test_obstore_list_without_a_trailing_slash(raw: RawClient, bucket: str) -> None:
    raw.request("PUT", f"/{bucket}/only", body=b"x")
    listed = raw.request("GET", f"/{bucket}", query=(("list-type", "2"),))
    assert listed.texts("Key") == ["only"]


def test_obstore_suffix_range(raw: RawClient, bucket: str) -> None:
    raw.request("PUT", f"/{bucket}/object", body=b"0123456789")
    tail = raw.request("GET", f"/{bucket}/object", headers={"range": "bytes=-7"})
    assert (tail.status, tail.body, tail.headers["content-range"]) == (206, b"3456789", "bytes 3-9/10")


def test_mountpoint_writes_in_parts_however_small(raw: RawClient, bucket: str) -> None:
    assert crt_upload(raw, f"/{bucket}/checkpoint", b"w" * 4096).status == 200
    head = raw.request("HEAD", f"/{bucket}/checkpoint", headers={"x-amz-checksum-mode": "ENABLED"})
    assert head.headers["last-modified"].endswith(" GMT")
    assert head.etag.endswith('-1"')
    assert crt_download(raw, f"/{bucket}/checkpoint", 4096) == b"w" * 4096


def test_mountpoint_list_signs_its_optional_attributes(raw: RawClient, bucket: str) -> None:
    raw.request("PUT", f"/{bucket}/a/b", body=b"x")
    listed = raw.request(
        "GET",
        f"/{bucket}",
        query=(("delimiter", ""), ("list-type", "2"), ("max-keys", "1000"), ("prefix", "a/")),
        headers={"x-amz-optional-object-attributes": "RestoreStatus"},
    )
    assert (listed.status, listed.texts("Key")) == (200, ["a/b"])


def test_sglang_pages_keep_one_head_each_in_flight(gateway: Gateway, kv_bucket: str, s3: Any) -> None:
    """16 threads write pages, look all of them up, and clear() lists and deletes them."""
    pages = [f"hicache/meta-llama-3/tp0of2/{hashlib.sha256(bytes([n])).hexdigest()}" for n in range(48)]
    data = {page: block(4096, page) for page in pages}

    def some(first: int) -> None:
        for page in pages[first::16]:
            s3.put_object(Bucket=kv_bucket, Key=page, Body=data[page])
        for page in pages[first::16]:
            assert s3.head_object(Bucket=kv_bucket, Key=page)["ContentLength"] == 4096
            assert s3.get_object(Bucket=kv_bucket, Key=page)["Body"].read() == data[page]

    run_all([lambda first=first: some(first) for first in range(16)])
    listed = s3.list_objects_v2(Bucket=kv_bucket, Prefix="hicache/")["Contents"]
    assert sorted(row["Key"] for row in listed) == sorted(pages)
    s3.delete_objects(Bucket=kv_bucket, Delete={"Objects": [{"Key": row["Key"]} for row in listed], "Quiet": True})
    assert s3.list_objects_v2(Bucket=kv_bucket)["KeyCount"] == 0


# --- Dynamo KVBM G4 (aws-sdk-rust) --------------------------------------------------------------------------------------


def test_kvbm_keys_have_colons_and_marks_have_no_bytes(raw: RawClient, kv_bucket: str, s3: Any) -> None:
    key = "0/12:3mJr7AoUXx2Wqd:9BwQ"
    assert raw.request("PUT", f"/{kv_bucket}/{key}", raw_path=f"/{kv_bucket}/{key}", body=b"block").status == 200
    assert raw.request("PUT", f"/{kv_bucket}/{key}.meta", length=True).status == 200
    mark = raw.request("HEAD", f"/{kv_bucket}/{key}.meta")
    assert (mark.status, mark.headers["content-length"]) == (200, "0")
    assert raw.request("GET", f"/{kv_bucket}/{key}.meta").body == b""
    assert [row["Size"] for row in s3.list_objects_v2(Bucket=kv_bucket)["Contents"]] == [5, 0]
    missing = raw.request("GET", f"/{kv_bucket}/0/13:none")
    assert (missing.status, missing.code) == (404, "NoSuchKey")
    assert raw.request("DELETE", f"/{kv_bucket}/0/13:none").status == 204


def test_kvbm_lock_has_one_holder_and_one_who_takes_it_over(
    gateway: Gateway, signer: Signer, raw: RawClient, kv_bucket: str
) -> None:
    """`If-None-Match: *` creates the lock, `If-Match` takes an expired one over; 16 try each, over both workers."""
    path = f"/{kv_bucket}/3mJr7AoUXx2Wqd.lock"

    def winners(headers: dict[str, str], who: str) -> list[str]:
        won: list[str] = []
        lost: list[tuple[int, str]] = []

        def attempt(name: str) -> None:
            with RawClient(gateway.port, signer) as client:
                reply = client.request("PUT", path, headers=headers, body=name.encode())
                if reply.status == 200:
                    won.append(name)
                else:
                    lost.append((reply.status, reply.code))

        run_all([lambda number=number: attempt(f"{who}-{number}") for number in range(16)])
        assert set(lost) == {(412, "PreconditionFailed")}
        assert len(won) + len(lost) == 16
        return won

    for turn in range(5):
        raw.request("DELETE", path)
        holder = winners({"if-none-match": "*"}, f"holder-{turn}")
        held = raw.request("GET", path)
        assert [held.body.decode()] == holder
        heir = winners({"if-match": held.etag}, f"heir-{turn}")
        assert [raw.request("GET", path).body.decode()] == heir


def test_kvbm_missing_bucket_is_404_then_created(raw: RawClient, s3: Any) -> None:
    assert raw.request("HEAD", "/kvbm-blocks").status == 404
    created = raw.request("PUT", "/kvbm-blocks", length=True)
    assert created.status == 200
    assert raw.request("HEAD", "/kvbm-blocks").status == 200
    assert raw.request("DELETE", "/kvbm-blocks").status == 204


# --- the table of server mistakes, row by row ---------------------------------------------------------------------------


@pytest.fixture
def stored(raw: RawClient, kv_bucket: str) -> tuple[str, bytes]:
    """The path and bytes of one stored block."""
    data = block(3 * MIB)
    assert raw.request("PUT", f"/{kv_bucket}/block", body=data).status == 200
    return f"/{kv_bucket}/block", data


def test_mistake_range_ignored(raw: RawClient, stored: tuple[str, bytes]) -> None:
    path, data = stored
    part = raw.request("GET", path, headers={"range": "bytes=1000-1999"})
    assert (part.status, part.body) == (206, data[1000:2000])
    assert part.headers["content-length"] == "1000"
    assert part.headers["accept-ranges"] == "bytes"


def test_mistake_206_without_content_range_or_etag(raw: RawClient, stored: tuple[str, bytes]) -> None:
    path, data = stored
    for asked, shown in (("0-0", "0-0"), ("5-", f"5-{len(data) - 1}"), ("-1", f"{len(data) - 1}-{len(data) - 1}")):
        for method in ("GET", "HEAD"):
            part = raw.request(method, path, headers={"range": f"bytes={asked}"})
            assert part.status == 206
            assert part.headers["content-range"] == f"bytes {shown}/{len(data)}"
            assert part.etag == raw.request("HEAD", path).etag


def test_mistake_etag_missing_or_unquoted(raw: RawClient, stored: tuple[str, bytes]) -> None:
    path, _ = stored
    for method in ("GET", "HEAD", "PUT"):
        etag = raw.request(method, path, body=b"x" if method == "PUT" else b"").etag
        assert etag[0] == etag[-1] == '"' and len(etag) > 2


def test_mistake_get_miss_is_not_404(raw: RawClient, kv_bucket: str) -> None:
    for headers in ({}, {"range": f"bytes=0-{PART - 1}"}, {"if-match": '"any"'}):
        miss = raw.request("GET", f"/{kv_bucket}/never", headers=headers)
        assert (miss.status, miss.code) == (404, "NoSuchKey")


def test_mistake_head_says_no_length(raw: RawClient, stored: tuple[str, bytes]) -> None:
    path, data = stored
    head = raw.request("HEAD", path)
    assert head.headers["content-length"] == str(len(data))
    assert head.headers["last-modified"].endswith(" GMT")


def test_mistake_no_multipart(raw: RawClient, kv_bucket: str) -> None:
    assert raw.request("POST", f"/{kv_bucket}/any", query=(("uploads", ""),), length=True).status == 200


def test_mistake_range_beyond_the_end_is_416_with_the_size(raw: RawClient, stored: tuple[str, bytes]) -> None:
    path, data = stored
    beyond = raw.request("GET", path, headers={"range": f"bytes={len(data)}-"})
    assert (beyond.status, beyond.code) == (416, "InvalidRange")
    assert beyond.headers["content-range"] == f"bytes */{len(data)}"


def test_mistake_connection_lost_between_requests(raw: RawClient, stored: tuple[str, bytes]) -> None:
    """Errors of every kind leave the connection usable: a client that loses three switches S3 off for good."""
    path, data = stored
    port = int(raw.host.rpartition(":")[2])
    for _ in range(3):
        assert raw.request("GET", path + "-none").status == 404
        assert raw.request("GET", path, headers={"range": "bytes=99999999-"}).status == 416
        assert raw.request("GET", path, headers={"if-match": '"other"'}).status == 412
        assert raw.request("GET", path, headers={"if-none-match": "*"}).status == 304
        headers = raw.signer.sign("GET", "/other", (), {"host": raw.host}, "UNSIGNED-PAYLOAD")
        assert raw.send("GET", path, headers=headers).status == 403
        assert raw.request("GET", "/no-such-bucket/key").status == 404
        assert raw.request("PATCH", path).status == 405
        assert raw.request("GET", path, query=(("torrent", ""),)).status == 501
        assert raw.request("GET", path).body == data
    assert port == raw._socket.getpeername()[1]


def test_mistake_overload_is_503_with_an_empty_body(tmp_path: Any) -> None:
    """Over its limit the gateway answers, so that the client retries; a dropped connection counts towards its breaker."""
    settings = {"http.connections_max": "1", "http.peer_fraction_max": "1", "http.queue_s": "200ms"}
    with Gateway(data_dir=tmp_path / "data", settings=settings) as gateway:
        signer = Signer(gateway.access_key, gateway.secret_key)
        with RawClient(gateway.port, signer) as holder:
            assert holder.request("PUT", "/busy", length=True).status == 200
            assert holder.request("PUT", "/busy/block", body=b"block").status == 200
            headers = signer.sign("PUT", "/busy/held", (), {"host": holder.host}, "UNSIGNED-PAYLOAD")
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"PUT /busy/held HTTP/1.1\r\n{lines}content-length: 5\r\nexpect: 100-continue\r\n\r\n"
            holder._socket.sendall(head.encode())
            assert holder._read("PUT").status == 100  # under way now, and stays so until its body comes
            with RawClient(gateway.port, signer) as client:
                refused = client.request("GET", "/busy/block")
            assert (refused.status, refused.body) == (503, b"")
            assert int(refused.headers["retry-after"]) >= 1
            holder._socket.sendall(b"12345")
            assert holder._read("PUT").status == 200
        with RawClient(gateway.port, signer) as client:
            assert client.request("GET", "/busy/block").body == b"block"


def test_health_and_metrics_answer_beside_s3(gateway: Gateway) -> None:
    """A probe without a signature, as an orchestrator sends it."""
    for path in ("/minio/health/live", "/minio/health/ready", "/recall/metrics"):
        with urllib.request.urlopen(gateway.endpoint + path, timeout=10) as reply:
            assert reply.status == 200
