"""Every operation of S3, one row each, and the one function that says which a request is.

Owns the table. Does not know targets, callers, bodies or handlers' code: rows name handlers.
Kind: table. Invariants, asserted at import: no two rows answer one request; every row can be reached; a row is served,
answered from the table, or known and refused.

Closed world: each query name that selects an operation anywhere in S3 (`DISCRIMINATORS`) must be required or allowed by
the row that answers, so a request that half-matches, or names something not served, is refused and never taken for a
simpler operation. Names that select nothing (`prefix`, `x-id`, anything S3 has not heard of) are ignored, as AWS does.
Spec: AWS S3 API Reference, "Actions"; docs/S3.md (generated from the rows).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec

from s3api.errors import ERRORS, S3Error

Body = Literal["none", "document", "stream", "form"]

COPY_SOURCE: Final = b"x-amz-copy-source"
RENAME_SOURCE: Final = b"x-amz-rename-source"
RDMA_TOKEN: Final = b"x-amz-rdma-token"
RDMA_INFO: Final = b"x-rdma-info"
"""These two say that the bytes go beside the request. Without them a PUT would be one of an empty object, and a GET would leave
the caller's memory as it is and look well; who hears 501 sends the request again as it is meant here."""
SNOWBALL: Final = b"x-amz-meta-snowball-auto-extract"
"""Asks MinIO, and the devices of AWS that it is of, to unpack the archive that is sent: kept as the archive, the objects in it
would be missed later."""
WRITE_OFFSET: Final = b"x-amz-write-offset-bytes"
"""Makes a PUT an append."""
REQUEST_ROUTE: Final = b"x-amz-request-route"
"""What alone tells WriteGetObjectResponse, a POST to the path of that name, from a POST to a bucket."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `name` is the AWS action: also the metric label and the audit verb.

    `query`: names required; `values`: the value a required name must have; `without`: names that make it another row.
    `allow`: discriminators that may also be given. `copy`: whether x-amz-copy-source is required (else forbidden).
    `header`: one that makes any request of this method this operation, whatever else is in it. `action`: the IAM right;
    `version_action`: the right instead when `versionId` names a version; `by_key`: the handler asks for the right of each
    key its document names, and the bucket needs none. `handler`: key of the handler mapping; None with neither `unset`
    nor `document`: refused 501.
    `unset`: the error code that is the true answer where nothing of the kind can have been configured.
    `document`: the reply body that is the true answer then, where AWS answers 200.
    """

    name: str
    method: str
    scope: Literal["service", "bucket", "object"]
    action: str
    version_action: str = ""
    by_key: bool = False
    query: tuple[str, ...] = ()
    values: Mapping[str, str] = {}
    without: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    copy: bool = False
    header: bytes = b""
    body: Body = "none"
    handler: str | None = None
    unset: str = ""
    unset_message: str = ""
    document: str = ""
    document_fields: Mapping[str, str] = {}  # elements of `document`

    @property
    def served(self) -> bool:
        """Whether a request of this kind gets an answer other than 501."""
        return bool(self.handler or self.unset or self.document)


def _served(
    name: str,
    method: str,
    scope: Literal["service", "bucket", "object"],
    *query: str,
    action: str = "",
    version_action: str = "",
    by_key: bool = False,
    values: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
    allow: tuple[str, ...] = (),
    copy: bool = False,
    body: Body = "none",
) -> Operation:
    return Operation(
        name=name,
        method=method,
        scope=scope,
        action=f"s3:{action or name}",
        version_action=f"s3:{version_action}" if version_action else "",
        by_key=by_key,
        query=query,
        values=values or {},
        without=without,
        allow=allow,
        copy=copy,
        body=body,
        handler=name,
    )


def _unset(
    name: str,
    scope: Literal["bucket", "object"],
    query: str,
    code: str = "",
    *,
    action: str = "",
    document: str = "",
    message: str = "",
    allow: tuple[str, ...] = (),
) -> Operation:
    """A GET of something that cannot be configured here, so the answer is that it is not."""
    assert not code or code in ERRORS
    return Operation(
        name=name,
        method="GET",
        scope=scope,
        action=f"s3:{action or name}",
        query=(query,),
        allow=allow,
        unset=code,
        unset_message=message,
        document=document,
    )


def _batch(name: str, verb: str, *, action: str, body: Body = "document") -> Operation:
    """One of ours that names many keys in its body."""
    return _served(name, "POST", "bucket", "recall", values={"recall": verb}, action=action, by_key=True, body=body)


def _refused(
    method: str,
    scope: Literal["service", "bucket", "object"],
    name: str,
    *query: str,
    without: tuple[str, ...] = (),
    values: Mapping[str, str] | None = None,
    allow: tuple[str, ...] = (),
    header: bytes = b"",
) -> Operation:
    return Operation(
        name=name,
        method=method,
        scope=scope,
        action=f"s3:{name}",
        header=header,
        query=query,
        without=without,
        values=values or {},
        allow=allow,
    )


def _document(name: str, query: str, right: str = "", *, delete: bool = True) -> Iterator[Operation]:
    """Reading, writing and, where S3 has it, removing one sub-resource of a bucket. Removing is the right to write."""
    right = right or name
    yield _served(f"Get{name}", "GET", "bucket", query, action=f"Get{right}")
    yield _served(f"Put{name}", "PUT", "bucket", query, action=f"Put{right}", body="document")
    if delete:
        yield _served(f"Delete{name}", "DELETE", "bucket", query, action=f"Put{right}")


def _families(query: str, noun: str, listed: str) -> Iterator[Operation]:
    """Settings of which a bucket can have many, here none: `listed` is the empty list."""
    name, right = f"Bucket{noun}Configuration", f"{noun}Configuration"
    yield Operation(
        name=f"List{name}s",
        method="GET",
        scope="bucket",
        action=f"s3:Get{right}",
        query=(query,),
        without=("id",),
        document=listed,
        document_fields={"IsTruncated": "false"},
    )
    for method, verb in (("GET", "Get"), ("DELETE", "Delete")):
        yield Operation(
            name=f"{verb}{name}",
            method=method,
            scope="bucket",
            action=f"s3:{'Get' if verb == 'Get' else 'Put'}{right}",
            query=(query, "id"),
            unset="NoSuchConfiguration",
        )
    yield _refused("PUT", "bucket", f"Put{name}", query, "id")


_V: Final = ("versionId",)

TABLE: Final[tuple[Operation, ...]] = (
    # service
    _served("ListBuckets", "GET", "service", action="ListAllMyBuckets"),
    # the token service, which shares the port: AssumeRole, GetSessionToken, GetCallerIdentity, by the form's Action
    _served("AssumeRole", "POST", "service", body="document"),
    _refused("POST", "bucket", "WriteGetObjectResponse", header=REQUEST_ROUTE),
    # buckets
    _served("CreateBucket", "PUT", "bucket", body="document"),
    _served("HeadBucket", "HEAD", "bucket", action="ListBucket"),
    _served("DeleteBucket", "DELETE", "bucket"),
    _served("GetBucketLocation", "GET", "bucket", "location"),
    _served("ListObjects", "GET", "bucket", action="ListBucket"),
    _served("ListObjectsV2", "GET", "bucket", "list-type", values={"list-type": "2"}, action="ListBucket"),
    _served("DeleteObjects", "POST", "bucket", "delete", action="DeleteObject", by_key=True, body="document"),
    _served("ListMultipartUploads", "GET", "bucket", "uploads", action="ListBucketMultipartUploads"),
    _served("GetBucketAcl", "GET", "bucket", "acl"),
    _served("ListObjectVersions", "GET", "bucket", "versions", action="ListBucketVersions"),
    _refused("GET", "bucket", "CreateSession", "session"),
    # many keys at once: ours
    _batch("BatchLookup", "lookup", action="GetObject"),
    _batch("BatchGet", "get", action="GetObject"),
    _batch("BatchPut", "put", action="PutObject", body="stream"),
    _batch("BatchPin", "pin", action="PutObject"),
    _batch("BatchUnpin", "unpin", action="PutObject"),
    _batch("BatchTouch", "touch", action="GetObject"),
    _batch("BatchDelete", "delete", action="DeleteObject"),
    _served("PostObject", "POST", "bucket", action="PutObject", body="form"),
    # objects
    _served("GetObject", "GET", "object", version_action="GetObjectVersion", allow=("versionId", "partNumber")),
    _served(
        "HeadObject",
        "HEAD",
        "object",
        action="GetObject",
        version_action="GetObjectVersion",
        allow=("versionId", "partNumber"),
    ),
    _served("PutObject", "PUT", "object", body="stream"),
    _served("CopyObject", "PUT", "object", copy=True, action="PutObject"),
    _served("DeleteObject", "DELETE", "object", version_action="DeleteObjectVersion", allow=_V),
    _served(
        "GetObjectAttributes", "GET", "object", "attributes", version_action="GetObjectVersionAttributes", allow=_V
    ),
    _served("GetObjectTagging", "GET", "object", "tagging", version_action="GetObjectVersionTagging", allow=_V),
    _served(
        "PutObjectTagging",
        "PUT",
        "object",
        "tagging",
        version_action="PutObjectVersionTagging",
        allow=_V,
        body="document",
    ),
    _served(
        "DeleteObjectTagging", "DELETE", "object", "tagging", version_action="DeleteObjectVersionTagging", allow=_V
    ),
    _served("GetObjectAcl", "GET", "object", "acl", version_action="GetObjectVersionAcl", allow=_V),
    _served("RestoreObject", "POST", "object", "restore", allow=_V, body="document"),
    _served("ChangeObject", "POST", "object", "recall", action="PutObject", allow=_V),
    _served(
        "PutObjectAcl",
        "PUT",
        "object",
        "acl",
        version_action="PutObjectVersionAcl",
        allow=_V,
        body="document",
    ),
    _served("GetObjectRetention", "GET", "object", "retention", allow=_V),
    _served("GetObjectLegalHold", "GET", "object", "legal-hold", allow=_V),
    _served("PutObjectRetention", "PUT", "object", "retention", allow=_V, body="document"),
    _served("PutObjectLegalHold", "PUT", "object", "legal-hold", allow=_V, body="document"),
    _served("RenameObject", "PUT", "object", "renameObject", action="PutObject"),
    _refused("PUT", "object", "UpdateObjectEncryption", "encryption", allow=_V),
    _refused("GET", "object", "GetObjectTorrent", "torrent"),
    _refused("POST", "object", "SelectObjectContent", "select", "select-type"),
    _refused("GET", "object", "ListObjectAnnotations", "annotation", without=("annotationName",), allow=_V),
    _refused("GET", "object", "GetObjectAnnotation", "annotation", "annotationName", allow=_V),
    _refused("PUT", "object", "PutObjectAnnotation", "annotation", "annotationName", allow=_V),
    _refused("DELETE", "object", "DeleteObjectAnnotation", "annotation", "annotationName", allow=_V),
    # multipart uploads
    _served("CreateMultipartUpload", "POST", "object", "uploads", action="PutObject"),
    _served("UploadPart", "PUT", "object", "partNumber", "uploadId", action="PutObject", body="stream"),
    _served("UploadPartCopy", "PUT", "object", "partNumber", "uploadId", copy=True, action="PutObject"),
    _served("CompleteMultipartUpload", "POST", "object", "uploadId", action="PutObject", body="document"),
    _served("AbortMultipartUpload", "DELETE", "object", "uploadId"),
    _served("ListParts", "GET", "object", "uploadId", action="ListMultipartUploadParts"),
    # documents a bucket is set up with
    *_document("BucketCors", "cors", "BucketCORS"),
    *_document("BucketTagging", "tagging"),
    *_document("BucketEncryption", "encryption", "EncryptionConfiguration"),
    *_document("PublicAccessBlock", "publicAccessBlock", "BucketPublicAccessBlock"),
    *_document("BucketOwnershipControls", "ownershipControls"),
    *_document("BucketLogging", "logging", delete=False),
    *_document("BucketRequestPayment", "requestPayment", delete=False),
    *_document("BucketAccelerateConfiguration", "accelerate", "AccelerateConfiguration", delete=False),
    *_document("BucketAbac", "abac", delete=False),
    _served("PutBucketAcl", "PUT", "bucket", "acl", body="document"),
    _served("GetBucketPolicy", "GET", "bucket", "policy"),
    _served("PutBucketPolicy", "PUT", "bucket", "policy", body="document"),
    _served("DeleteBucketPolicy", "DELETE", "bucket", "policy"),
    _served("GetBucketPolicyStatus", "GET", "bucket", "policyStatus"),
    _served("DeleteBucketWebsite", "DELETE", "bucket", "website"),
    _served("DeleteBucketReplication", "DELETE", "bucket", "replication", action="PutReplicationConfiguration"),
    # bucket settings that cannot be set here: reading them says so
    _served("GetBucketVersioning", "GET", "bucket", "versioning"),
    _served("PutBucketVersioning", "PUT", "bucket", "versioning", body="document"),
    _served("GetBucketNotificationConfiguration", "GET", "bucket", "notification", action="GetBucketNotification"),
    _served(
        "PutBucketNotificationConfiguration",
        "PUT",
        "bucket",
        "notification",
        action="PutBucketNotification",
        body="document",
    ),
    _served("GetBucketLifecycleConfiguration", "GET", "bucket", "lifecycle", action="GetLifecycleConfiguration"),
    _served(
        "PutBucketLifecycleConfiguration",
        "PUT",
        "bucket",
        "lifecycle",
        action="PutLifecycleConfiguration",
        body="document",
    ),
    _served("DeleteBucketLifecycle", "DELETE", "bucket", "lifecycle", action="PutLifecycleConfiguration"),
    _unset("GetBucketWebsite", "bucket", "website", "NoSuchWebsiteConfiguration"),
    _served("GetObjectLockConfiguration", "GET", "bucket", "object-lock", action="GetBucketObjectLockConfiguration"),
    _served(
        "PutObjectLockConfiguration",
        "PUT",
        "bucket",
        "object-lock",
        action="PutBucketObjectLockConfiguration",
        body="document",
    ),
    _unset(
        "GetBucketReplication",
        "bucket",
        "replication",
        "ReplicationConfigurationNotFoundError",
        action="GetReplicationConfiguration",
    ),
    _refused("GET", "bucket", "GetBucketMetadataConfiguration", "metadataConfiguration"),
    _refused("GET", "bucket", "GetBucketMetadataTableConfiguration", "metadataTable"),
    _refused("PUT", "bucket", "PutBucketWebsite", "website"),
    _refused("PUT", "bucket", "PutBucketReplication", "replication"),
    _refused("POST", "bucket", "CreateBucketMetadataConfiguration", "metadataConfiguration"),
    _refused("POST", "bucket", "CreateBucketMetadataTableConfiguration", "metadataTable"),
    _refused("PUT", "bucket", "UpdateBucketMetadataInventoryTableConfiguration", "metadataInventoryTable"),
    _refused("PUT", "bucket", "UpdateBucketMetadataJournalTableConfiguration", "metadataJournalTable"),
    _refused("PUT", "bucket", "UpdateBucketMetadataAnnotationTableConfiguration", "metadataAnnotationTable"),
    _refused("DELETE", "bucket", "DeleteBucketMetadataConfiguration", "metadataConfiguration"),
    _refused("DELETE", "bucket", "DeleteBucketMetadataTableConfiguration", "metadataTable"),
    # bucket settings by id: with `id` one of them, without it all; there are none, and none can be made
    *(
        row
        for family, noun, listed in (
            ("analytics", "Analytics", "ListBucketAnalyticsConfigurationResult"),
            ("inventory", "Inventory", "ListInventoryConfigurationsResult"),
            ("metrics", "Metrics", "ListMetricsConfigurationsResult"),
            ("intelligent-tiering", "IntelligentTiering", "ListBucketIntelligentTieringConfigurationsOutput"),
        )
        for row in _families(family, noun, listed)
    ),
)

BY_NAME: Final[dict[str, Operation]] = {row.name: row for row in TABLE}

_CONTEXTUAL: Final = frozenset({"annotationName", "id", "select-type"})
"""Names that say something only beside another: alone they select nothing and are ignored."""

DISCRIMINATORS: Final[frozenset[str]] = frozenset(
    name for row in TABLE for name in (*row.query, *row.without, *row.allow)
)
"""Every query name that selects an operation, or changes which object it means, anywhere in S3."""

OWN_HEADERS: Final = {
    WRITE_OFFSET: "PutObject",
    RENAME_SOURCE: "RenameObject",
    RDMA_TOKEN: "",
    RDMA_INFO: "",
    SNOWBALL: "",
}
"""Headers that change what one operation does: refused on all other writes, whose meaning they would change too."""

Headers = Mapping[bytes, bytes]


def _fits(row: Operation, selected: frozenset[str]) -> bool:
    return (
        selected.issuperset(row.query)
        and (selected - _CONTEXTUAL).issubset((*row.query, *row.allow))
        and selected.isdisjoint(row.without)
    )


_PLAIN: Final[dict[tuple[str, str, bool], Operation]] = {}
"""(method, scope, copy) → the row of a request without discriminators: the usual case, one look-up."""
_ROWS: Final[dict[tuple[str, str, bool], list[Operation]]] = {}


def resolve(method: str, scope: str, query: Mapping[str, str], headers: Headers) -> Operation:
    """The row that answers, which may be one that is not `served`; pure, about 0.2 µs without a query.

    Raises MethodNotAllowed where S3 knows the resource under other methods; InvalidArgument for two sub-resources at
    once or a wrong value; InvalidRequest for half of an operation; NotImplemented for a header that is another operation's.
    """
    copy = COPY_SOURCE in headers
    if method in ("GET", "HEAD"):
        if RDMA_TOKEN in headers or RDMA_INFO in headers:
            raise S3Error("NotImplemented", Header=(RDMA_TOKEN if RDMA_TOKEN in headers else RDMA_INFO).decode())
        plain = _PLAIN.get((method, scope, copy)) if not query else None  # the usual read, without another call
        return plain or _resolve(method, scope, query, copy)
    if REQUEST_ROUTE in headers and method == "POST":
        found = BY_NAME["WriteGetObjectResponse"]
    else:
        found = _resolve(method, scope, query, copy)
    for header, name in OWN_HEADERS.items():
        if header in headers and found.name != name:
            raise S3Error("NotImplemented", Header=header.decode())
    return found


def _resolve(method: str, scope: str, query: Mapping[str, str], copy: bool) -> Operation:
    """As `resolve`, by method, target and query alone; `copy`: there is a copy source."""
    row: Operation | None
    if not query or DISCRIMINATORS.isdisjoint(query):
        row = _PLAIN.get((method, scope, copy))
        if row is not None:
            return row
        raise _refusal(method, scope, frozenset(), copy)
    selected = DISCRIMINATORS.intersection(query)
    other: list[Operation] = []
    for row in _ROWS.get((method, scope, copy), ()):
        if _fits(row, selected):
            for name, value in row.values.items():
                if query[name] != value:
                    other.append(row)
                    break
            else:
                return row
    raise _wrong_value(other, query) if other else _refusal(method, scope, selected, copy)


def _wrong_value(rows: list[Operation], query: Mapping[str, str]) -> S3Error:
    """Why none of `rows`, which but for a value would all answer, does."""
    name = next(name for name, value in rows[0].values.items() if query[name] != value)
    known = ", ".join(row.values[name] for row in rows)
    return S3Error(
        "InvalidArgument",
        f"The value of {name} is not valid: it must be {'one of ' if len(rows) > 1 else ''}{known}.",
        ArgumentName=name,
        ArgumentValue=query[name][:256],
    )


def _refusal(method: str, scope: str, selected: frozenset[str], copy: bool) -> S3Error:
    """Why no row answers. Only the code differs: whichever it is, nothing was done."""
    here = _ROWS.get((method, scope, False), ())
    if copy and any(_fits(row, selected) for row in here):
        return S3Error(
            "InvalidArgument",
            "You can only specify a copy source header for copy requests.",
            ArgumentName="x-amz-copy-source",
        )
    if method == "PUT" and scope == "object" and len(given := selected & {"partNumber", "uploadId"}) == 1:
        (half,) = given
        other = "uploadId" if half == "partNumber" else "partNumber"
        return S3Error("InvalidArgument", f"This operation does not accept {half} without {other}", ArgumentName=half)
    if selected and any(selected < frozenset(row.query) for row in here):
        return S3Error("InvalidRequest", f"The query string parameters {_list(selected)} are half of an operation.")
    if method == "GET" and scope == "object" and selected == {"uploads"}:
        return S3Error("InvalidRequest", "Key is not expected for the GET method ?uploads subresource")
    named = [row for row in TABLE if row.scope == scope and _fits(row, selected) and (row.query or not selected)]
    if named or not selected:
        allow = f"allow: {', '.join(sorted({row.method for row in named}))}\r\n".encode() if named else b""
        kind = next(iter(sorted(selected)), scope).upper()
        return S3Error("MethodNotAllowed", "", allow, Method=method[:32], ResourceType=kind)
    subs = selected - {"versionId", "partNumber", "uploadId"} - _CONTEXTUAL
    if len(subs) > 1:
        return S3Error(
            "InvalidArgument",
            f"Conflicting query string parameters: {_list(subs)}.",
            ArgumentName="ResourceType",
            ArgumentValue=min(subs),
        )
    if "versionId" in selected:
        return S3Error("InvalidArgument", "This operation does not accept a version-id.", ArgumentName="versionId")
    if scope == "object" and len(subs) == 1:
        return S3Error("InvalidRequest", f"There is no such thing as the ?{_list(subs)} sub-resource for a key")
    return S3Error(
        "InvalidRequest", f"The query string parameters {_list(selected)} name no operation on this {scope}."
    )


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _checked() -> Iterator[str]:
    """Builds the look-ups, and yields every fault of the table."""
    assert len(BY_NAME) == len(TABLE), "an operation has two rows"
    for row in TABLE:
        if row.header:
            continue
        place = (row.method, row.scope, row.copy)
        rows = _ROWS.setdefault(place, [])
        for other in rows:
            both = frozenset((*row.query, *other.query))
            apart = any(other.values.get(name, value) != value for name, value in row.values.items())
            if not apart and _fits(row, both) and _fits(other, both):
                yield f"{row.name} and {other.name} answer one request"
        rows.append(row)
        if not row.query:
            _PLAIN[place] = row
    for row in TABLE:
        query = {name: row.values.get(name, "1") for name in row.query}
        headers = {COPY_SOURCE: b"/b/k"} if row.copy else {row.header: b"1"} if row.header else {}
        if resolve(row.method, row.scope, query, headers) is not row:
            yield f"{row.name} cannot be reached"


_FAULTS: Final = tuple(_checked())
assert not _FAULTS, "; ".join(_FAULTS)


def unhandled(handlers: Mapping[str, object]) -> list[str]:
    """Names of the handlers the table wants and `handlers` lacks: a composition root refuses to start over any."""
    return [row.handler for row in TABLE if row.handler and row.handler not in handlers]
