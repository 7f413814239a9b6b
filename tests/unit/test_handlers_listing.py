"""ListObjects, ListObjectsV2 and ListMultipartUploads through the handlers."""

from __future__ import annotations

import asyncio
from urllib.parse import quote, unquote, unquote_plus

import pytest

from s3api import xml
from tests.unit.handler_harness import Harness
from tiering.contract import ObjectChange, PutOptions

KEYS = ("a/1", "a/2", "b", "c/x/1", "d e+f", "ü")


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    harness("PUT", "/bucket")
    for key in KEYS:
        harness("PUT", f"/bucket/{quote(key)}", {}, b"x")
    return harness


def listed(s3: Harness, query: str, version: int = 2) -> tuple[list[str], list[str], xml.Node]:
    path = f"/bucket?list-type=2&{query}" if version == 2 else f"/bucket?{query}"
    reply = s3("GET", path)
    assert reply.status == 200, reply.body
    root = reply.xml("ListBucketResult")
    keys = [node.text("Key") for node in root.all("Contents")]
    return keys, [node.text("Prefix") for node in root.all("CommonPrefixes")], root


def test_whole_bucket(s3: Harness) -> None:
    for version in (1, 2):
        keys, prefixes, root = listed(s3, "", version)
        assert (keys, prefixes, root.text("IsTruncated")) == (list(KEYS), [], "false")
        assert (root.text("Name"), root.text("Prefix"), root.text("MaxKeys")) == ("bucket", "", "1000")
        assert root.find("Delimiter") is None
    entry = root.all("Contents")[0]
    assert entry.text("LastModified") == "2026-01-01T00:00:00.000Z"
    assert entry.text("ETag") == '"9dd4e461268c8034f5c8564e155c67a6"'
    assert (entry.text("Size"), entry.text("StorageClass")) == ("1", "STANDARD")
    assert (entry.text("ChecksumAlgorithm"), entry.text("ChecksumType")) == ("CRC64NVME", "FULL_OBJECT")


def test_delimiter_and_prefix(s3: Harness) -> None:
    for version in (1, 2):
        keys, prefixes, root = listed(s3, "delimiter=/", version)
        assert (keys, prefixes) == (["b", "d e+f", "ü"], ["a/", "c/"])
        assert root.text("Delimiter") == "/"
        assert listed(s3, "prefix=a/&delimiter=/", version)[:2] == (["a/1", "a/2"], [])
        assert listed(s3, "prefix=c/&delimiter=/", version)[:2] == ([], ["c/x/"])
        assert listed(s3, "delimiter=", version)[:2] == (list(KEYS), [])
    assert root.text("KeyCount") == "5"


def test_v2_pages_by_token(s3: Harness) -> None:
    seen: list[str] = []
    query = "max-keys=2&delimiter=/"
    for _ in range(10):
        keys, prefixes, root = listed(s3, query)
        assert int(root.text("KeyCount")) == len(keys) + len(prefixes) <= 2
        seen += keys + prefixes
        if root.text("IsTruncated") == "false":
            assert root.find("NextContinuationToken") is None
            break
        token = root.text("NextContinuationToken")
        query = f"max-keys=2&delimiter=/&continuation-token={quote(token)}"
    assert sorted(seen) == ["a/", "b", "c/", "d e+f", "ü"]
    assert root.text("ContinuationToken") == token


def test_v2_token_outranks_start_after(s3: Harness) -> None:
    assert listed(s3, "start-after=b")[0] == ["c/x/1", "d e+f", "ü"]
    token = listed(s3, "max-keys=1")[2].text("NextContinuationToken")
    keys, _, root = listed(s3, f"start-after=c&continuation-token={quote(token)}")
    assert keys == list(KEYS[1:])
    assert root.text("StartAfter") == "c"
    assert listed(s3, "continuation-token=")[0] == list(KEYS)
    assert s3("GET", "/bucket?list-type=2&continuation-token=bad").code == "InvalidArgument"


def test_v1_next_marker_only_with_a_delimiter(s3: Harness) -> None:
    _, _, root = listed(s3, "max-keys=1", 1)
    assert (root.text("IsTruncated"), root.find("NextMarker")) == ("true", None)
    assert listed(s3, "max-keys=1&marker=a/1", 1)[0] == ["a/2"]
    _, prefixes, root = listed(s3, "max-keys=1&delimiter=/", 1)
    assert (prefixes, root.text("NextMarker")) == (["a/"], "a/")
    keys, prefixes, root = listed(s3, "delimiter=/&marker=a/", 1)
    assert (keys, prefixes, root.text("Marker")) == (["b", "d e+f", "ü"], ["c/"], "a/")


def test_a_marker_inside_a_common_prefix_is_behind_it(s3: Harness) -> None:
    assert listed(s3, "delimiter=/&marker=a/1", 1)[:2] == (["b", "d e+f", "ü"], ["c/"])
    assert listed(s3, "delimiter=/&start-after=a/1")[:2] == (["b", "d e+f", "ü"], ["c/"])
    assert listed(s3, "start-after=a/1")[0][0] == "a/2"


@pytest.mark.parametrize("delimiter", ["x/", "a", "%25", "%0A", "+f", "ü", "no such"])
def test_any_text_is_a_delimiter(s3: Harness, delimiter: str) -> None:
    plain = unquote_plus(delimiter)
    keys, prefixes, root = listed(s3, f"delimiter={delimiter}")
    assert root.text("Delimiter") == plain
    assert keys == [key for key in KEYS if plain not in key]
    assert prefixes == sorted({key[: key.index(plain) + len(plain)] for key in KEYS if plain in key})


ODD = ("\n", " ", "%", "%41", "+", "a&b", "<x>", '"', "~", "*", "\x7f", "\u2028", "\U0001f600")


def test_odd_keys_come_back_in_either_encoding(s3: Harness) -> None:
    s3("PUT", "/odd")
    for key in ODD:
        assert s3("PUT", f"/odd/{quote(key)}", {}, b"").status == 200
    wanted = sorted(ODD, key=lambda key: key.encode())
    for version in ("", "list-type=2&"):
        root = s3("GET", f"/odd?{version}encoding-type=url").xml("ListBucketResult")
        assert [unquote(node.text("Key")) for node in root.all("Contents")] == wanted
        root = s3("GET", f"/odd?{version}").xml("ListBucketResult")
        assert [node.text("Key") for node in root.all("Contents")] == wanted
        for at, key in enumerate(wanted):  # each is a marker and a prefix too
            after = "marker" if not version else "start-after"
            root = s3("GET", f"/odd?{version}{after}={quote(key, safe='')}").xml("ListBucketResult")
            assert [node.text("Key") for node in root.all("Contents")] == wanted[at + 1 :]
            root = s3("GET", f"/odd?{version}prefix={quote(key, safe='')}").xml("ListBucketResult")
            assert (root.text("Prefix"), len(root.all("Contents"))) == (key, sum(each.startswith(key) for each in ODD))


def test_max_keys(s3: Harness) -> None:
    for version in (1, 2):
        keys, prefixes, root = listed(s3, "max-keys=0", version)
        assert (keys, prefixes, root.text("IsTruncated"), root.text("MaxKeys")) == ([], [], "false", "0")
        assert listed(s3, "max-keys=5000", version)[2].text("MaxKeys") == "1000"
        assert listed(s3, "max-keys=", version)[2].text("MaxKeys") == "1000"
        assert listed(s3, "max-keys=2147483647", version)[2].text("MaxKeys") == "1000"
    for bad in ("-1", "x", "1.0", "2147483648", "9" * 19):
        reply = s3("GET", f"/bucket?max-keys={bad}")
        assert (reply.code, reply.fields["ArgumentName"]) == ("InvalidArgument", "max-keys")
    for path in ("/none", "/none?max-keys=0", "/none?list-type=2"):
        assert s3("GET", path).code == "NoSuchBucket"


def test_encoding_type_url(s3: Harness) -> None:
    keys, prefixes, root = listed(s3, "encoding-type=url&delimiter=/&start-after=a%2B")
    assert keys == ["b", "d%20e%2Bf", "%C3%BC"]
    assert prefixes == ["a/", "c/"]
    assert (root.text("EncodingType"), root.text("StartAfter")) == ("url", "a%2B")
    assert s3("GET", "/bucket?encoding-type=base64").code == "InvalidArgument"


def test_keys_xml_cannot_carry_need_encoding_type(s3: Harness) -> None:
    s3("PUT", "/bucket/%01", {}, b"")
    assert listed(s3, "encoding-type=url")[0][0] == "%01"
    assert b"<Key>&#x1;</Key>" in s3("GET", "/bucket?list-type=2").body


def test_owner_always_in_v1_and_on_request_in_v2(s3: Harness) -> None:
    def owners(query: str, version: int) -> int:
        return sum(node.find("Owner") is not None for node in listed(s3, query, version)[2].all("Contents"))

    assert owners("", 1) == owners("fetch-owner=true", 2) == len(KEYS)
    assert owners("", 2) == 0


def test_restore_status_and_class_of_cold_objects(s3: Harness) -> None:
    asyncio.run(s3.store.change("bucket", "b", ObjectChange(tier="cold")))
    asyncio.run(s3.store.change("bucket", "a/1", ObjectChange(restore_ms=86_400_000)))
    reply = s3("GET", "/bucket?list-type=2", {"x-amz-optional-object-attributes": "RestoreStatus"})
    entries = {node.text("Key"): node for node in reply.xml("ListBucketResult").all("Contents")}
    assert entries["b"].text("StorageClass") == "GLACIER_IR"
    status = entries["a/1"].find("RestoreStatus")
    assert status is not None
    assert status.text("RestoreExpiryDate") == "2026-01-02T00:00:00.000Z"
    assert entries["b"].find("RestoreStatus") is None


# -- uploads


def test_list_multipart_uploads(s3: Harness) -> None:
    async def begin() -> list[tuple[str, str]]:
        keys = ("k", "k", "p/1", "p/2 x")
        infos = [await s3.store.begin_upload("bucket", key, PutOptions(), "CRC32", "COMPOSITE") for key in keys]
        return [(info.key, info.upload_id) for info in infos]

    begun = asyncio.run(begin())

    def uploads(query: str) -> tuple[list[tuple[str, str]], xml.Node]:
        root = s3("GET", f"/bucket?uploads&{query}").xml("ListMultipartUploadsResult")
        return [(node.text("Key"), node.text("UploadId")) for node in root.all("Upload")], root

    found, root = uploads("")
    assert (found, root.text("IsTruncated"), root.text("MaxUploads")) == (begun, "false", "1000")
    first = root.all("Upload")[0]
    assert (first.text("Initiated"), first.text("StorageClass")) == ("2026-01-01T00:00:00.000Z", "STANDARD")
    assert (first.text("ChecksumAlgorithm"), first.text("ChecksumType")) == ("CRC32", "COMPOSITE")
    assert first.find("Owner") is not None
    assert first.find("Initiator") is not None

    found, root = uploads("max-uploads=1")
    assert found == begun[:1]
    markers = f"key-marker={root.text('NextKeyMarker')}&upload-id-marker={root.text('NextUploadIdMarker')}"
    assert uploads(markers)[0] == begun[1:]
    assert uploads("key-marker=k")[0] == begun[2:]
    found, root = uploads("key-marker=k")
    assert (root.text("NextKeyMarker"), root.text("NextUploadIdMarker")) == begun[-1]  # named although nothing follows
    assert uploads("upload-id-marker=zzz")[0] == begun
    for marker in ("not_an_id", "b4cb4c9c-3fd8-4ff6-8a5c-d5b5f0d4a4d6"):
        assert s3("GET", f"/bucket?uploads&key-marker=k&upload-id-marker={marker}").code == "InvalidArgument"
    found, root = uploads("delimiter=/")
    assert (found, [node.text("Prefix") for node in root.all("CommonPrefixes")]) == (begun[:2], ["p/"])
    assert uploads("prefix=p/&encoding-type=url")[0][1][0] == "p/2%20x"
    assert uploads("max-uploads=0")[0] == []
    assert s3("GET", "/none?uploads").code == s3("GET", "/none?uploads&max-uploads=0").code == "NoSuchBucket"
