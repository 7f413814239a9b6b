"""The operation table: what answers what, and that nothing half-said is ever taken for something simpler."""

from __future__ import annotations

import itertools
from typing import Any, Final
from urllib.parse import parse_qsl

import pytest
from botocore.session import Session
from hypothesis import given, settings
from hypothesis import strategies as st

from s3api import operations
from s3api.errors import ERRORS, S3Error
from s3api.operations import COPY_SOURCE, DISCRIMINATORS, TABLE, Operation, resolve

COPY = {COPY_SOURCE: b"/b/k"}
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS")
SCOPES = ("service", "bucket", "object")

SERVED = [
    ("GET", "service", "", "ListBuckets"),
    ("PUT", "bucket", "", "CreateBucket"),
    ("HEAD", "bucket", "", "HeadBucket"),
    ("DELETE", "bucket", "", "DeleteBucket"),
    ("GET", "bucket", "location", "GetBucketLocation"),
    ("GET", "bucket", "versioning", "GetBucketVersioning"),
    ("PUT", "bucket", "versioning", "PutBucketVersioning"),
    ("GET", "bucket", "versions&prefix=a&key-marker=k&version-id-marker=v&max-keys=3", "ListObjectVersions"),
    ("GET", "bucket", "", "ListObjects"),
    ("GET", "bucket", "prefix=a&delimiter=/&max-keys=3&encoding-type=url&marker=x", "ListObjects"),
    ("GET", "bucket", "list-type=2", "ListObjectsV2"),
    ("GET", "bucket", "list-type=2&continuation-token=t&start-after=s&fetch-owner=true&x-id=ListObjectsV2", "ListObjectsV2"),
    ("POST", "bucket", "", "PostObject"),
    ("POST", "bucket", "delete", "DeleteObjects"),
    ("GET", "bucket", "uploads&key-marker=k&upload-id-marker=u", "ListMultipartUploads"),
    ("GET", "object", "", "GetObject"),
    ("GET", "object", "partNumber=2", "GetObject"),
    ("GET", "object", "versionId=null&response-content-type=text/plain&x-id=GetObject", "GetObject"),
    ("GET", "object", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0", "GetObject"),
    ("GET", "object", "unheard-of=1", "GetObject"),
    ("HEAD", "object", "", "HeadObject"),
    ("HEAD", "object", "partNumber=1&versionId=null", "HeadObject"),
    ("PUT", "object", "", "PutObject"),
    ("PUT", "object", "x-id=PutObject", "PutObject"),
    ("PUT", "object", "renameObject", "RenameObject"),
    ("DELETE", "object", "", "DeleteObject"),
    ("DELETE", "object", "versionId=null", "DeleteObject"),
    ("GET", "object", "attributes&max-parts=3", "GetObjectAttributes"),
    ("GET", "object", "tagging", "GetObjectTagging"),
    ("PUT", "object", "tagging", "PutObjectTagging"),
    ("DELETE", "object", "tagging&versionId=null", "DeleteObjectTagging"),
    ("POST", "object", "restore", "RestoreObject"),
    ("POST", "object", "recall", "ChangeObject"),
    ("POST", "bucket", "recall=lookup", "BatchLookup"),
    ("POST", "bucket", "recall=delete", "BatchDelete"),
    ("POST", "object", "uploads", "CreateMultipartUpload"),
    ("PUT", "object", "partNumber=1&uploadId=u", "UploadPart"),
    ("POST", "object", "uploadId=u", "CompleteMultipartUpload"),
    ("DELETE", "object", "uploadId=u", "AbortMultipartUpload"),
    ("GET", "object", "uploadId=u&max-parts=2&part-number-marker=1", "ListParts"),
]  # fmt: skip


def query_of(text: str) -> dict[str, str]:
    return {piece.partition("=")[0]: piece.partition("=")[2] for piece in text.split("&") if piece}


@pytest.mark.parametrize(("method", "scope", "query", "name"), SERVED)
def test_served_operation(method: str, scope: str, query: str, name: str) -> None:
    row = resolve(method, scope, query_of(query), {})
    assert row.name == name
    assert row.served


@pytest.mark.parametrize(("query", "name"), [("", "CopyObject"), ("partNumber=1&uploadId=u", "UploadPartCopy")])
def test_copy_source_selects_the_copy(query: str, name: str) -> None:
    assert resolve("PUT", "object", query_of(query), COPY).name == name


REFUSED = [
    ("PUT", "object", "partNumber=1", {}, "InvalidArgument"),
    ("PUT", "object", "uploadId=u", {}, "InvalidArgument"),
    ("PUT", "object", "partNumber=1", COPY, "InvalidArgument"),
    ("PUT", "object", "acl&tagging", {}, "InvalidArgument"),
    ("PUT", "object", "tagging", COPY, "InvalidArgument"),
    ("GET", "object", "", COPY, "InvalidArgument"),
    ("PUT", "bucket", "", COPY, "InvalidArgument"),
    ("DELETE", "object", "", COPY, "InvalidArgument"),
    ("POST", "object", "", {}, "MethodNotAllowed"),
    ("POST", "object", "acl", {}, "MethodNotAllowed"),
    ("GET", "object", "uploads", {}, "InvalidRequest"),
    ("DELETE", "object", "attributes", {}, "MethodNotAllowed"),
    ("HEAD", "object", "tagging", {}, "MethodNotAllowed"),
    ("HEAD", "bucket", "location", {}, "MethodNotAllowed"),
    ("DELETE", "service", "", {}, "MethodNotAllowed"),
    ("PATCH", "object", "", {}, "MethodNotAllowed"),
    ("PUT", "object", "versionId=null", {}, "InvalidArgument"),
    ("PUT", "object", "lifecycle", {}, "InvalidRequest"),
    ("PUT", "bucket", "analytics", {}, "InvalidRequest"),
    ("PUT", "bucket", "partNumber=1&uploadId=u", {}, "InvalidRequest"),
    ("GET", "bucket", "list-type=3", {}, "InvalidArgument"),
    ("GET", "bucket", "list-type=", {}, "InvalidArgument"),
    ("POST", "bucket", "recall=forget", {}, "InvalidArgument"),
    ("POST", "bucket", "recall", {}, "InvalidArgument"),
    ("POST", "bucket", "recall=get&delete", {}, "InvalidArgument"),
    ("GET", "bucket", "list-type=2&versions", {}, "InvalidArgument"),
    ("DELETE", "object", "uploadId=u&tagging", {}, "InvalidRequest"),
    ("PUT", "object", "tagging", {b"x-amz-write-offset-bytes": b"0"}, "NotImplemented"),
    ("PUT", "object", "", {b"x-amz-write-offset-bytes": b"0", COPY_SOURCE: b"b/k"}, "NotImplemented"),
    ("POST", "object", "uploads", {b"x-amz-write-offset-bytes": b"0"}, "NotImplemented"),
    ("PUT", "object", "", {b"x-amz-rename-source": b"k"}, "NotImplemented"),
    ("PUT", "object", "renameObject", COPY, "InvalidArgument"),
]


@pytest.mark.parametrize(("method", "scope", "query", "headers", "code"), REFUSED)
def test_half_matches_are_refused(method: str, scope: str, query: str, headers: dict[bytes, bytes], code: str) -> None:
    with pytest.raises(S3Error) as caught:
        resolve(method, scope, query_of(query), headers)
    assert caught.value.spec.code == code


@pytest.mark.parametrize(
    ("method", "scope", "query", "name"),
    [
        ("POST", "object", "select&select-type=2", "SelectObjectContent"),
        ("PUT", "bucket", "inventory&id=1", "PutBucketInventoryConfiguration"),
    ],
)
def test_known_but_not_served(method: str, scope: str, query: str, name: str) -> None:
    row = resolve(method, scope, query_of(query), {})
    assert row.name == name
    assert not row.served


def test_settings_by_id_are_answered_as_none() -> None:
    for query, name in (
        ("analytics", "ListBucketAnalyticsConfigurations"),
        ("analytics&id=1", "GetBucketAnalyticsConfiguration"),
    ):
        row = resolve("GET", "bucket", query_of(query), {})
        assert (row.name, row.served, row.handler) == (name, True, None)


def test_wrong_method_names_the_right_ones() -> None:
    with pytest.raises(S3Error) as caught:
        resolve("POST", "object", {"tagging": ""}, {})
    assert caught.value.headers == b"allow: DELETE, GET, PUT\r\n"


def outcome(method: str, scope: str, query: dict[str, str], headers: dict[bytes, bytes]) -> Operation | None:
    try:
        return resolve(method, scope, query, headers)
    except S3Error:
        return None


requests = st.tuples(
    st.sampled_from(METHODS),
    st.sampled_from(SCOPES),
    st.dictionaries(st.sampled_from([*sorted(DISCRIMINATORS), "prefix", "x-id", "zzz"]), st.sampled_from(["", "1", "2"]), max_size=4),
    st.sampled_from([{}, COPY]),
)  # fmt: skip


@given(requests)
def test_every_discriminator_in_a_request_is_known_to_the_row_that_answers(
    request: tuple[str, str, dict[str, str], dict[bytes, bytes]],
) -> None:
    method, scope, query, headers = request
    row = outcome(*request)
    if row is not None:
        given_names = DISCRIMINATORS.intersection(query) - operations._CONTEXTUAL
        assert given_names <= {*row.query, *row.allow}
        assert set(row.query) <= query.keys()
        assert row.copy == bool(headers)
        assert (row.method, row.scope) == (method, scope)


@given(requests, st.sampled_from(sorted(DISCRIMINATORS)), st.booleans())
def test_adding_a_discriminator_never_gives_another_operation_that_does_not_require_it(
    request: tuple[str, str, dict[str, str], dict[bytes, bytes]], name: str, header: bool
) -> None:
    method, scope, query, headers = request
    before = outcome(*request)
    if header:
        after = outcome(method, scope, query, COPY)
        assert after is None or after is before or after.copy
    else:
        after = outcome(method, scope, query | {name: "2"}, headers)
        assert after is None or after is before or name in after.query or name in query


@given(requests, st.text(max_size=8).filter(lambda name: name not in DISCRIMINATORS))
def test_unknown_names_are_ignored(request: tuple[str, str, dict[str, str], dict[bytes, bytes]], name: str) -> None:
    method, scope, query, headers = request
    assert outcome(method, scope, query | {name: ""}, headers) is outcome(*request)


def test_no_two_rows_answer_one_request_by_brute_force() -> None:
    """Over every pair of discriminators: the first row that fits is the only one."""
    for method, scope in itertools.product(METHODS, SCOPES):
        for copy in (False, True):
            place = (method, scope, copy)
            rows = [row for row in TABLE if (row.method, row.scope, row.copy) == place and not row.header]
            for names in itertools.combinations(sorted(DISCRIMINATORS), 2):
                fitting = [row for row in rows if operations._fits(row, frozenset(names))]
                values = {tuple(row.values.items()) for row in fitting}
                assert len(fitting) <= 1 or (() not in values and len(values) == len(fitting)), fitting


def test_rows_are_whole() -> None:
    for row in TABLE:
        assert row.handler in (None, row.name)
        assert not row.unset or row.unset in ERRORS
        assert [bool(row.handler), bool(row.unset), bool(row.document)].count(True) <= 1
        assert row.action.startswith("s3:")
        if row.body != "none":
            assert row.method in ("PUT", "POST")


def test_unhandled_names_what_is_missing() -> None:
    assert operations.unhandled({row.name: None for row in TABLE}) == []
    assert "GetObject" in operations.unhandled({})
    assert "PutBucketWebsite" not in operations.unhandled({})


# against the model that the AWS SDKs are made from

_ALIASES: Final = {
    "GetBucketLifecycle": "GetBucketLifecycleConfiguration",
    "PutBucketLifecycle": "PutBucketLifecycleConfiguration",
    "GetBucketNotification": "GetBucketNotificationConfiguration",
    "PutBucketNotification": "PutBucketNotificationConfiguration",
    "ListDirectoryBuckets": "ListBuckets",  # told apart by their hosts alone; there are no directory buckets here
}
_MODEL: Final = Session().get_service_model("s3")


def _as_sent(name: str) -> tuple[str, str, dict[str, str], dict[bytes, bytes]]:
    """An operation as an SDK puts it on the wire, with all of its required query names and headers."""
    model = _MODEL.operation_model(name)
    path, _, raw_query = model.http["requestUri"].partition("?")
    scope = "object" if "{Key+}" in path else "bucket" if path.strip("/") else "service"
    query = dict(parse_qsl(raw_query, keep_blank_values=True))
    headers = {}
    shape = model.input_shape
    required: dict[str, Any] = {} if shape is None else {each: shape.members[each] for each in shape.required_members}
    for member in required.values():
        if member.serialization.get("location") == "querystring":
            query[member.serialization["name"]] = "1"
        elif member.serialization.get("location") == "header":
            headers[member.serialization["name"].lower().encode()] = b"1"
    return model.http["method"], scope, query, headers


@pytest.mark.parametrize("name", _MODEL.operation_names)
def test_every_operation_of_the_sdks_is_known_by_its_name(name: str) -> None:
    try:
        found = resolve(*_as_sent(name)).name
    except S3Error as error:
        assert error.spec.code == "NotImplemented"  # by a header that is known and not served
    else:
        assert found == _ALIASES.get(name, name)


# the closed world, as a property of the whole table

_HEADERS: Final = (COPY_SOURCE, operations.REQUEST_ROUTE, *operations.OWN_HEADERS)
_names = st.sampled_from([*sorted(DISCRIMINATORS), "prefix", "x-id", "zzz", "uploadid", "versionID", "Tagging"])
anything = st.tuples(
    st.sampled_from(METHODS),
    st.sampled_from(SCOPES),
    st.dictionaries(_names, st.sampled_from(["", "1", "2", "null"]), max_size=5),
    st.sets(st.sampled_from(_HEADERS), max_size=2).map(lambda names: dict.fromkeys(names, b"/b/k")),
)


def _answering(method: str, scope: str, query: dict[str, str], headers: dict[bytes, bytes]) -> list[Operation]:
    """The rows whose every requirement is met and that nothing in the request exceeds, by the rows' own words."""
    own = {
        name
        for header, name in operations.OWN_HEADERS.items()
        if header in headers
        and (method not in ("GET", "HEAD") or header in (operations.RDMA_TOKEN, operations.RDMA_INFO))
    }
    return [row for row in _answering_by_rows(method, scope, query, headers) if own <= {row.name}]


def _answering_by_rows(method: str, scope: str, query: dict[str, str], headers: dict[bytes, bytes]) -> list[Operation]:
    selecting = DISCRIMINATORS.intersection(query)
    by_header = [row for row in TABLE if row.header in headers and row.method == method not in ("GET", "HEAD")]
    return by_header or [
        row
        for row in TABLE
        if (row.method, row.scope, row.copy, row.header) == (method, scope, COPY_SOURCE in headers, b"")
        and selecting.issuperset(row.query)
        and selecting.isdisjoint(row.without)
        and (selecting - operations._CONTEXTUAL).issubset((*row.query, *row.allow))
        and all(query[name] == value for name, value in row.values.items())
    ]


@settings(max_examples=2000, print_blob=True)
@given(anything)
def test_a_request_is_the_one_row_that_fits_it_or_an_error(
    request: tuple[str, str, dict[str, str], dict[bytes, bytes]],
) -> None:
    fitting = _answering(*request)
    assert len(fitting) <= 1, [row.name for row in fitting]
    assert outcome(*request) is (fitting[0] if fitting else None)


@settings(max_examples=2000, print_blob=True)
@given(anything, _names, st.sampled_from(_HEADERS), st.booleans())
def test_more_in_a_request_never_makes_it_a_simpler_operation(
    request: tuple[str, str, dict[str, str], dict[bytes, bytes]], name: str, header: bytes, in_query: bool
) -> None:
    """Adding a name or a header leaves the operation, refuses the request, or gives one that asks for what was added."""
    method, scope, query, headers = request
    before = outcome(*request)
    if in_query:
        after = outcome(method, scope, query | {name: query.get(name, "2")}, headers)
        asked = after is not None and name in (*after.query, *after.allow)
    else:
        after = outcome(method, scope, query, headers | {header: b"/b/k"})
        asked = after is not None and (after.copy or bool(after.header))
    if after is not None and after is not before:
        assert asked
        if before is None:  # what was refused becomes what the added thing was missing from
            assert not in_query or name in after.query
    adds = in_query and name in DISCRIMINATORS and name not in query
    if adds and before is not None and after is before and not before.header:
        assert name in before.allow or name in operations._CONTEXTUAL
