"""Versions over the handlers: what AWS documents of versionId, delete markers, listings and the versioning document."""

from __future__ import annotations

import asyncio
import base64
import hashlib

import pytest

from s3api import xml
from tests.unit.handler_harness import Harness, Reply
from tiering.contract import BucketChange
from tiering.memory import MemoryStore

UNKNOWN = "3HL4kqtJvjVBH40NrjfkdABCDEFGHIJK"


@pytest.fixture
def s3() -> Harness:
    """`ver` keeps versions, `plain` does not."""
    harness = Harness()
    for bucket in ("ver", "plain"):
        assert harness("PUT", f"/{bucket}").status == 200
    assert versioning(harness, "Enabled").status == 200
    return harness


def versioning(s3: Harness, status: str, bucket: str = "ver") -> Reply:
    body = f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>"
    return s3("PUT", f"/{bucket}?versioning", {}, body.encode())


def put(s3: Harness, path: str, data: bytes = b"data", headers: dict[str, str] | None = None) -> str:
    reply = s3("PUT", path, headers or {}, data)
    assert reply.status == 200
    return reply.headers.get("x-amz-version-id", "")


def listed(s3: Harness, query: str = "", bucket: str = "ver") -> xml.Node:
    reply = s3("GET", f"/{bucket}?versions{query}")
    assert reply.status == 200
    return reply.xml("ListVersionsResult")


def entries(root: xml.Node) -> list[tuple[str, str, str, str]]:
    """(element, key, version id, is latest), in order."""
    return [
        (each.name, each.text("Key"), each.text("VersionId"), each.text("IsLatest"))
        for each in root.children
        if each.name in ("Version", "DeleteMarker")
    ]


# -- the versioning document


def test_versioning_is_told(s3: Harness) -> None:
    assert s3("GET", "/plain?versioning").xml("VersioningConfiguration").children == []
    assert s3("GET", "/ver?versioning").xml("VersioningConfiguration").text("Status") == "Enabled"
    assert versioning(s3, "Suspended").status == 200
    assert s3("GET", "/ver?versioning").xml("VersioningConfiguration").text("Status") == "Suspended"
    assert s3("GET", "/none?versioning").code == "NoSuchBucket"
    assert versioning(s3, "Enabled", "none").code == "NoSuchBucket"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "MissingRequestBodyError"),
        ("<x/>", "MalformedXML"),
        ("<VersioningConfiguration/>", "IllegalVersioningConfigurationException"),
        ("<VersioningConfiguration><Status>enabled</Status></VersioningConfiguration>", "MalformedXML"),
        ("<VersioningConfiguration><Status>Disabled</Status></VersioningConfiguration>", "MalformedXML"),
        (
            "<VersioningConfiguration><Status>Enabled</Status><MfaDelete>Enabled</MfaDelete></VersioningConfiguration>",
            "NotImplemented",
        ),
        (
            "<VersioningConfiguration><Status>Enabled</Status><ExcludeFolders>true</ExcludeFolders>"
            "</VersioningConfiguration>",
            "NotImplemented",
        ),
        (
            "<VersioningConfiguration><Status>Enabled</Status>"
            "<ExcludedPrefixes><Prefix>tmp/</Prefix></ExcludedPrefixes></VersioningConfiguration>",
            "NotImplemented",
        ),
        ("<VersioningConfiguration><Status>Enabled</Status><Other/></VersioningConfiguration>", "MalformedXML"),
    ],
)
def test_bad_versioning_documents(s3: Harness, body: str, code: str) -> None:
    assert s3("PUT", "/plain?versioning", {}, body.encode()).code == code
    assert s3("GET", "/plain?versioning").xml("VersioningConfiguration").children == []


def test_what_is_not_served_may_be_said_to_be_off(s3: Harness) -> None:
    body = (
        b"<VersioningConfiguration><Status>Enabled</Status><MfaDelete>Disabled</MfaDelete>"
        b"<ExcludeFolders>false</ExcludeFolders><ExcludedPrefixes/></VersioningConfiguration>"
    )
    assert s3("PUT", "/plain?versioning", {}, body).status == 200


def test_a_pool_without_versions_refuses_them(s3: Harness) -> None:
    assert s3("PUT", "/kv-one", {"x-recall-pool": "kv"}).status == 200
    refused = versioning(s3, "Enabled", "kv-one")
    assert (refused.status, refused.code) == (409, "InvalidBucketState")


# -- replies name versions


def test_without_versioning_no_reply_names_a_version(s3: Harness) -> None:
    assert put(s3, "/plain/k") == ""
    for reply in (s3("GET", "/plain/k"), s3("HEAD", "/plain/k"), s3("DELETE", "/plain/k")):
        assert "x-amz-version-id" not in reply.headers and "x-amz-delete-marker" not in reply.headers


def test_put_get_head_name_their_version(s3: Harness) -> None:
    first, second = put(s3, "/ver/k", b"first"), put(s3, "/ver/k", b"second")
    assert first != second
    for method in ("GET", "HEAD"):
        assert s3(method, "/ver/k").headers["x-amz-version-id"] == second
        assert s3(method, f"/ver/k?versionId={first}").headers["x-amz-version-id"] == first
    assert s3("GET", f"/ver/k?versionId={first}").body == b"first"
    assert s3("GET", f"/ver/k?versionId={first}", {"range": "bytes=1-2"}).body == b"ir"
    assert s3("GET", f"/ver/k?versionId={first}&partNumber=1").status == 206
    assert s3("GET", f"/ver/k?versionId={first}", {"range": "bytes=1-2", "if-range": '"other"'}).body == b"first"


def test_suspended_and_older_objects_are_the_null_version(s3: Harness) -> None:
    put(s3, "/plain/k", b"before")
    versioning(s3, "Enabled", "plain")
    assert s3("GET", "/plain/k").headers["x-amz-version-id"] == "null"
    assert s3("GET", "/plain/k?versionId=null").body == b"before"
    put(s3, "/plain/k", b"version")
    versioning(s3, "Suspended", "plain")
    assert put(s3, "/plain/k", b"after") == ""  # S3 names new versions only
    assert [each[2] == "null" for each in entries(listed(s3, bucket="plain"))] == [True, False]


@pytest.mark.parametrize(
    ("version", "status", "code"),
    [
        ("", 400, "InvalidArgument"),
        ("3", 400, "InvalidArgument"),
        (UNKNOWN, 404, "NoSuchVersion"),
        ("null", 404, "NoSuchVersion"),
    ],
)
@pytest.mark.parametrize("sub", ["", "tagging&", "attributes&"])
def test_versions_that_are_not_there(s3: Harness, version: str, status: int, code: str, sub: str) -> None:
    put(s3, "/ver/k")
    reply = s3("GET", f"/ver/k?{sub}versionId={version}", {"x-amz-object-attributes": "ETag"})
    assert (reply.status, reply.code) == (status, code)
    if code == "NoSuchVersion":
        assert reply.fields == {"Key": "k", "VersionId": "" if version == "null" else version}


def test_deleting_a_version_that_is_not_there_succeeds(s3: Harness) -> None:
    put(s3, "/plain/k")
    for bucket in ("ver", "plain"):
        gone = s3("DELETE", f"/{bucket}/k?versionId={UNKNOWN}")
        assert (gone.status, gone.headers.get("x-amz-version-id")) == (204, UNKNOWN)
    assert s3("HEAD", "/plain/k").status == 200
    assert s3("DELETE", "/plain/k?versionId=null").headers["x-amz-version-id"] == "null"
    assert s3("HEAD", "/plain/k").status == 404
    assert s3("DELETE", "/ver/k?versionId=null").status == 204
    assert s3("DELETE", "/ver/k?versionId=").code == "InvalidArgument"
    assert s3("DELETE", "/ver/k?versionId=3").code == "InvalidArgument"
    assert entries(listed(s3)) == []


# -- delete markers


def test_delete_marker(s3: Harness) -> None:
    first = put(s3, "/ver/k")
    gone = s3("DELETE", "/ver/k")
    marker = gone.headers["x-amz-version-id"]
    assert (gone.status, gone.headers["x-amz-delete-marker"]) == (204, "true") and marker != first
    for method in ("GET", "HEAD"):
        reply = s3(method, "/ver/k")
        assert (reply.status, reply.code) == (404, "NoSuchKey")
    named = s3("GET", f"/ver/k?versionId={marker}")
    assert (named.status, named.code, named.fields["ResourceType"]) == (405, "MethodNotAllowed", "DeleteMarker")
    for sub in ("tagging", "acl"):
        assert s3("GET", f"/ver/k?{sub}&versionId={marker}").status == 405
    assert s3("GET", f"/ver/k?versionId={first}").status == 200
    again = s3("DELETE", f"/ver/k?versionId={marker}")
    assert (again.headers["x-amz-delete-marker"], again.headers["x-amz-version-id"]) == ("true", marker)
    assert s3("GET", "/ver/k").status == 200
    last = s3("DELETE", f"/ver/k?versionId={first}")
    assert "x-amz-delete-marker" not in last.headers and last.headers["x-amz-version-id"] == first
    assert s3("GET", "/ver/k").code == "NoSuchKey"
    assert s3("DELETE", "/ver").status == 204


def test_replies_about_a_marker_say_so(s3: Harness) -> None:
    put(s3, "/ver/k")
    marker = s3("DELETE", "/ver/k").headers["x-amz-version-id"]
    for method in ("GET", "HEAD"):
        lines = raw_error(s3, method, "/ver/k")
        assert b"x-amz-delete-marker: true\r\n" in lines and f"x-amz-version-id: {marker}\r\n".encode() in lines
        lines = raw_error(s3, method, f"/ver/k?versionId={marker}")
        for line in ("allow: DELETE", "x-amz-delete-marker: true", f"x-amz-version-id: {marker}", "last-modified: "):
            assert line.encode() in lines


def raw_error(s3: Harness, method: str, path: str) -> bytes:
    reply = s3(method, path)
    assert isinstance(reply.lines, bytes)
    return reply.lines


def test_a_deletion_while_suspended_replaces_the_null_version(s3: Harness) -> None:
    put(s3, "/ver/k", b"kept")
    versioning(s3, "Suspended")
    assert put(s3, "/ver/k", b"null") == ""
    gone = s3("DELETE", "/ver/k")
    assert (gone.headers["x-amz-delete-marker"], gone.headers["x-amz-version-id"]) == ("true", "null")
    assert next(each[:1] + each[2:3] for each in entries(listed(s3))) == ("DeleteMarker", "null")
    assert len(entries(listed(s3))) == 2


# -- deletes of many


def delete(s3: Harness, body: str, headers: dict[str, str] | None = None) -> xml.Node:
    data = f"<Delete>{body}</Delete>".encode()
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    reply = s3("POST", "/ver?delete", {"content-md5": md5, **(headers or {})}, data)
    assert reply.status == 200
    return reply.xml("DeleteResult")


def test_delete_objects_names_markers_and_versions(s3: Harness) -> None:
    first = put(s3, "/ver/k")
    marker = s3("DELETE", "/ver/k").headers["x-amz-version-id"]
    root = delete(
        s3,
        "<Object><Key>new</Key></Object>"
        f"<Object><Key>k</Key><VersionId>{marker}</VersionId></Object>"
        f"<Object><Key>k</Key><VersionId>{first}</VersionId></Object>"
        f"<Object><Key>k</Key><VersionId>{UNKNOWN}</VersionId></Object>"
        "<Object><Key>k</Key><VersionId>bogus</VersionId></Object>",
    )
    made, unmarked, gone, unknown = root.all("Deleted")
    assert (made.text("Key"), made.text("DeleteMarker"), made.find("VersionId")) == ("new", "true", None)
    assert len(made.text("DeleteMarkerVersionId")) == 32
    assert (unmarked.text("VersionId"), unmarked.text("DeleteMarker")) == (marker, "true")
    assert unmarked.text("DeleteMarkerVersionId") == marker
    assert (gone.text("VersionId"), gone.find("DeleteMarker")) == (first, None)
    assert (unknown.text("VersionId"), unknown.find("DeleteMarker")) == (UNKNOWN, None)
    (error,) = root.all("Error")
    assert (error.text("Code"), error.text("VersionId")) == ("NoSuchVersion", "bogus")
    assert [each[:2] for each in entries(listed(s3))] == [("DeleteMarker", "new")]


def test_delete_objects_judges_conditions_of_versions(s3: Harness) -> None:
    first = put(s3, "/ver/k", b"first")
    put(s3, "/ver/k", b"second")
    etag = hashlib.md5(b"first").hexdigest()
    named = f"<Key>k</Key><VersionId>{first}</VersionId>"
    root = delete(s3, f"<Object>{named}<ETag>other</ETag></Object><Object><Key>k</Key><ETag>{etag}</ETag></Object>")
    assert [each.text("Code") for each in root.all("Error")] == ["PreconditionFailed"] * 2
    root = delete(s3, f"<Object>{named}<Size>6</Size></Object>")
    assert [each.text("Code") for each in root.all("Error")] == ["PreconditionFailed"]
    root = delete(s3, f"<Object>{named}<ETag>{etag}</ETag><Size>5</Size></Object>")
    assert [each.text("VersionId") for each in root.all("Deleted")] == [first]


def test_delete_of_a_version_obeys_its_conditions(s3: Harness) -> None:
    first = put(s3, "/ver/k", b"first")
    put(s3, "/ver/k", b"second")
    path = f"/ver/k?versionId={first}"
    assert s3("DELETE", path, {"if-match": '"other"'}).status == 412
    assert s3("DELETE", path, {"x-amz-if-match-size": "6"}).status == 412
    assert s3("DELETE", "/ver/k", {"if-match": hashlib.md5(b"first").hexdigest()}).status == 412
    assert s3("DELETE", path, {"if-match": hashlib.md5(b"first").hexdigest(), "x-amz-if-match-size": "5"}).status == 204


# -- copies


def test_copies_of_versions(s3: Harness) -> None:
    first = put(s3, "/ver/k", b"first")
    second = put(s3, "/ver/k", b"second")
    copied = s3("PUT", "/ver/to", {"x-amz-copy-source": f"/ver/k?versionId={first}"})
    assert copied.headers["x-amz-copy-source-version-id"] == first
    assert copied.headers["x-amz-version-id"] not in (first, second)
    assert s3("GET", "/ver/to").body == b"first"
    assert s3("PUT", "/plain/to", {"x-amz-copy-source": "ver/k"}).headers["x-amz-copy-source-version-id"] == second
    restored = s3(
        "PUT", "/ver/k", {"x-amz-copy-source": f"ver/k?versionId={first}"}
    )  # onto itself: the older one returns
    assert restored.status == 200 and s3("GET", "/ver/k").body == b"first"
    marker = s3("DELETE", "/ver/k").headers["x-amz-version-id"]
    for source, code in (
        (f"ver/k?versionId={marker}", "InvalidRequest"),
        ("ver/k", "NoSuchKey"),
        (f"ver/k?versionId={UNKNOWN}", "NoSuchVersion"),
        ("ver/k?versionId=", "InvalidArgument"),
    ):
        assert s3("PUT", "/ver/to", {"x-amz-copy-source": source}).code == code
    put(s3, "/plain/k")
    assert "x-amz-copy-source-version-id" not in s3("PUT", "/ver/to", {"x-amz-copy-source": "plain/k"}).headers


def test_parts_of_versions_and_completed_uploads(s3: Harness) -> None:
    first = put(s3, "/ver/k", b"first")
    put(s3, "/ver/k", b"second")
    upload = s3("POST", "/ver/whole?uploads").xml("InitiateMultipartUploadResult").text("UploadId")
    source = {"x-amz-copy-source": f"ver/k?versionId={first}"}
    part = s3("PUT", f"/ver/whole?partNumber=1&uploadId={upload}", source)
    assert part.headers["x-amz-copy-source-version-id"] == first
    etag = part.xml("CopyPartResult").text("ETag")
    body = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    )
    done = s3("POST", f"/ver/whole?uploadId={upload}", {}, body.encode())
    version = done.headers["x-amz-version-id"]
    assert s3("GET", f"/ver/whole?versionId={version}").body == b"first"
    again = s3("POST", f"/ver/whole?uploadId={upload}", {}, body.encode())
    assert again.headers["x-amz-version-id"] == version and len(entries(listed(s3))) == 3


# -- what belongs to a version


def test_tags_belong_to_a_version(s3: Harness) -> None:
    first = put(s3, "/ver/k", headers={"x-amz-tagging": "a=1"})
    second = put(s3, "/ver/k")
    body = b"<Tagging><TagSet><Tag><Key>c</Key><Value>3</Value></Tag></TagSet></Tagging>"
    reply = s3("PUT", f"/ver/k?tagging&versionId={first}", {}, body)
    assert reply.headers["x-amz-version-id"] == first
    assert s3("GET", "/ver/k?tagging").headers["x-amz-version-id"] == second
    assert b"<Key>c</Key>" in s3("GET", f"/ver/k?tagging&versionId={first}").body
    assert b"<Tag>" not in s3("GET", f"/ver/k?tagging&versionId={second}").body
    gone = s3("DELETE", f"/ver/k?tagging&versionId={first}")
    assert (gone.status, gone.headers["x-amz-version-id"]) == (204, first)
    assert b"<Tag>" not in s3("GET", f"/ver/k?tagging&versionId={first}").body
    marker = s3("DELETE", "/ver/k").headers["x-amz-version-id"]
    for method in ("GET", "PUT", "DELETE"):
        assert s3(method, f"/ver/k?tagging&versionId={marker}", {}, body if method == "PUT" else b"").status == 405
        unnamed = s3(method, "/ver/k?tagging", {}, body if method == "PUT" else b"")
        assert (unnamed.status, unnamed.headers["x-amz-version-id"]) == (405, marker)


def test_attributes_and_pins_of_a_version(s3: Harness) -> None:
    first = put(s3, "/ver/k", b"first")
    put(s3, "/ver/k", b"second!")
    reply = s3("GET", f"/ver/k?attributes&versionId={first}", {"x-amz-object-attributes": "ObjectSize"})
    assert reply.headers["x-amz-version-id"] == first
    assert reply.xml("GetObjectAttributesResponse").text("ObjectSize") == "5"
    assert s3("POST", f"/ver/k?recall&versionId={first}", {"x-recall-pin": "true"}).status == 200
    assert "x-recall-pinned-until" in s3("HEAD", f"/ver/k?versionId={first}").headers
    assert "x-recall-pinned-until" not in s3("HEAD", "/ver/k").headers
    body = b"<RestoreRequest><Days>1</Days></RestoreRequest>"
    assert s3("POST", f"/ver/k?restore&versionId={first}", {}, body).status == 200
    assert "x-amz-restore" in s3("HEAD", f"/ver/k?versionId={first}").headers
    assert "x-amz-restore" not in s3("HEAD", "/ver/k").headers


# -- listing


def test_list_object_versions(s3: Harness) -> None:
    first, second = put(s3, "/ver/k", b"1"), put(s3, "/ver/k", b"22")
    marker = s3("DELETE", "/ver/k").headers["x-amz-version-id"]
    other = put(s3, "/ver/z")
    root = listed(s3)
    assert entries(root) == [
        ("DeleteMarker", "k", marker, "true"),
        ("Version", "k", second, "false"),
        ("Version", "k", first, "false"),
        ("Version", "z", other, "true"),
    ]
    assert (root.text("Name"), root.text("MaxKeys"), root.text("IsTruncated")) == ("ver", "1000", "false")
    version = root.all("Version")[0]
    assert (version.text("Size"), version.text("StorageClass")) == ("2", "STANDARD")
    assert version.text("ETag") == f'"{hashlib.md5(b"22").hexdigest()}"'
    assert version.find("Owner") is not None
    names = {child.name for child in root.all("DeleteMarker")[0].children}
    assert names == {"Key", "VersionId", "IsLatest", "LastModified", "Owner"}
    assert b"<Key>k</Key>" not in s3("GET", "/ver?list-type=2").body


def test_versions_of_a_bucket_without_versioning_are_null(s3: Harness) -> None:
    put(s3, "/plain/a")
    put(s3, "/plain/z")
    assert entries(listed(s3, bucket="plain")) == [("Version", "a", "null", "true"), ("Version", "z", "null", "true")]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_of_versions(s3: Harness, limit: int) -> None:
    for key in ("a", "b/1", "c"):
        for _ in range(2):
            put(s3, f"/ver/{key}")
    wanted, found, query = entries(listed(s3)), list[tuple[str, str, str, str]](), ""
    while True:
        root = listed(s3, f"&max-keys={limit}{query}")
        found += entries(root)
        if root.text("IsTruncated") == "false":
            break
        assert (root.text("NextKeyMarker"), root.text("NextVersionIdMarker")) == found[-1][1:3]
        query = f"&key-marker={root.text('NextKeyMarker')}&version-id-marker={root.text('NextVersionIdMarker')}"
    assert found == wanted


def test_prefixes_and_encoding(s3: Harness) -> None:
    for key in ("a%20b/1", "a%20b/2", "c"):
        put(s3, f"/ver/{key}")
    root = listed(s3, "&delimiter=/&encoding-type=url&max-keys=1")
    assert [each.text("Prefix") for each in root.all("CommonPrefixes")] == ["a%20b/"]
    assert (root.text("NextKeyMarker"), root.find("NextVersionIdMarker")) == ("a%20b/", None)
    rest = listed(s3, "&delimiter=/&key-marker=a%20b/")
    assert ([each[1] for each in entries(rest)], rest.all("CommonPrefixes")) == (["c"], [])
    assert [each[1] for each in entries(listed(s3, "&prefix=a%20b/"))] == ["a b/1", "a b/2"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("&version-id-marker=" + UNKNOWN, "InvalidArgument"),
        ("&key-marker=k&version-id-marker=", "InvalidArgument"),
        ("&key-marker=k&version-id-marker=3", "InvalidArgument"),
        ("&max-keys=-1", "InvalidArgument"),
        ("&encoding-type=base64", "InvalidArgument"),
    ],
)
def test_bad_listings(s3: Harness, query: str, code: str) -> None:
    assert s3("GET", f"/ver?versions{query}").code == code


def test_empty_markers_and_pages(s3: Harness) -> None:
    put(s3, "/ver/k")
    assert len(entries(listed(s3, "&key-marker=&version-id-marker="))) == 1
    root = listed(s3, "&max-keys=0")
    assert (entries(root), root.text("IsTruncated")) == ([], "false")
    assert s3("GET", "/none?versions&max-keys=0").code == "NoSuchBucket"


# -- what is recorded of changes, where a bucket notifies somebody


def test_changes_name_their_event() -> None:
    s3 = Harness()
    asyncio.run(_changes(s3))
    assert isinstance(s3.store, MemoryStore)
    assert [each.event for each in s3.store.events] == EVENTS


EVENTS = [
    "ObjectCreated:Put",
    "ObjectCreated:Copy",
    "ObjectTagging:Put",
    "ObjectTagging:Delete",
    "ObjectRemoved:DeleteMarkerCreated",
    "ObjectRemoved:Delete",
    "ObjectCreated:Put",
    "ObjectRemoved:Delete",
]


async def _changes(s3: Harness) -> None:
    for bucket in ("ver", "plain"):
        await s3.request("PUT", f"/{bucket}")
        await s3.store.change_bucket(bucket, BucketChange({"notification": "<x/>"}))
    body = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    await s3.request("PUT", "/ver?versioning", {}, body)
    version = (await s3.request("PUT", "/ver/k", {}, b"data")).headers["x-amz-version-id"]
    await s3.request("PUT", "/ver/copy", {"x-amz-copy-source": "ver/k"})
    await s3.request("PUT", "/ver/k?tagging", {}, b"<Tagging><TagSet/></Tagging>")
    await s3.request("DELETE", "/ver/k?tagging")
    await s3.request("DELETE", "/ver/k")
    await s3.request("DELETE", f"/ver/k?versionId={version}")
    await s3.request("PUT", "/plain/k", {}, b"data")
    await s3.request("DELETE", "/plain/k")
