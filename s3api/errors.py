"""Every error code this gateway answers, one row each, and the one exception that carries a row to the border.

Owns the table and the translation of store facts into codes. Does not know how an error is rendered
(`s3api.pipeline`) nor storage (rows name StoreError kinds only).
Kind: table. Invariants: a code is one row; every StoreError kind of `tiering.contract` has a code. Messages are in S3's
own words where it has some, closing period or not: clients and suites compare them.
Spec: AWS S3 API Reference, "Error responses"; docs/S3.md.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from s3api.moment import http_date
from tiering import contract


class ErrorSpec(msgspec.Struct, frozen=True):
    """One row: the code and status a client sees, the default message, and whether the reply closes the connection."""

    code: str
    status: int
    message: str
    close: bool = False
    retry_s: int = 0  # > 0: sent as Retry-After


ONE_MECHANISM: Final = (
    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the "
    "Authorization header should be specified"
)
"""The message to a request that is signed twice: which signature counts must not be a guess."""


class S3Error(Exception):
    """An answer for the client. `headers`: rendered lines ended by CRLF; `fields` become extra elements of the document.

    A field `retry_s` is no element: it overrides the row's Retry-After.
    """

    def __init__(self, code: str, message: str = "", headers: bytes = b"", **fields: Any) -> None:
        self.spec = ERRORS[code]
        self.message = message or self.spec.message
        self.headers = headers
        self.retry_s = int(fields.pop("retry_s", self.spec.retry_s))
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.spec.code}: {self.message}"


_ROWS: Final = (
    # who calls
    ErrorSpec("AccessDenied", 403, "Access Denied"),
    ErrorSpec("SignatureDoesNotMatch", 403, "The request signature we calculated does not match the signature you provided. Check your key and signing method."),
    ErrorSpec("InvalidAccessKeyId", 403, "The AWS Access Key Id you provided does not exist in our records."),
    ErrorSpec("InvalidToken", 400, "The provided token is malformed or otherwise invalid."),
    ErrorSpec("ExpiredToken", 400, "The provided token has expired."),
    ErrorSpec("RequestTimeTooSkewed", 403, "The difference between the request time and the current time is too large."),
    ErrorSpec("AuthorizationHeaderMalformed", 400, "The authorization header is malformed."),
    ErrorSpec("AuthorizationQueryParametersError", 400, "The query string authentication parameters are malformed."),
    ErrorSpec("InvalidAction", 400, "The action or operation requested is not valid."),
    ErrorSpec("MissingSecurityHeader", 400, "Your request was missing a required header"),
    # what the request says
    ErrorSpec("InvalidRequest", 400, "The request is not valid."),
    ErrorSpec("InvalidArgument", 400, "Invalid argument."),
    ErrorSpec("BadRequest", 400, "The request cannot be served as it is."),
    ErrorSpec("AccessForbidden", 403, "This cross-origin request is not allowed."),
    ErrorSpec("InvalidURI", 400, "Couldn't parse the specified URI."),
    ErrorSpec("RequestHeaderSectionTooLarge", 400, "Your request header section exceeds the maximum allowed size."),
    ErrorSpec("InvalidHostHeader", 400, "The Host header is missing or cannot be parsed."),
    ErrorSpec("InvalidBucketName", 400, "The specified bucket is not valid."),
    ErrorSpec("InvalidRedirectLocation", 400, "The website redirect location must have a prefix of 'http://' or 'https://' or '/'."),
    ErrorSpec("InvalidStorageClass", 400, "The storage class you specified is not valid"),
    ErrorSpec("InvalidTag", 400, "The tag provided is not valid."),
    ErrorSpec("InvalidEncryptionAlgorithmError", 400, "The encryption algorithm you specified is not valid."),
    ErrorSpec("KMS.NotFoundException", 400, "The request was rejected because the specified entity or resource could not be found."),
    ErrorSpec("InvalidLocationConstraint", 400, "The specified location-constraint is not valid"),
    ErrorSpec("IllegalLocationConstraintException", 400, "The location constraint is not compatible with this endpoint."),
    ErrorSpec("KeyTooLongError", 400, "Your key is too long"),
    ErrorSpec("MetadataTooLarge", 400, "Your metadata headers exceed the maximum allowed metadata size"),
    ErrorSpec("MissingContentLength", 411, "You must provide the Content-Length HTTP header."),
    ErrorSpec("MissingRequestBodyError", 400, "Request Body is empty"),
    ErrorSpec("MalformedXML", 400, "The XML you provided was not well-formed or did not validate against our published schema"),
    ErrorSpec("MalformedACLError", 400, "The XML you provided was not well-formed or did not validate against our published schema"),
    ErrorSpec("MalformedPolicy", 400, "The policy document is not well-formed."),
    ErrorSpec("PolicyTooLarge", 400, "Normalized policy document exceeds the maximum allowed size of 20480 bytes."),
    ErrorSpec("AccessControlListNotSupported", 400, "The bucket does not allow ACLs"),
    ErrorSpec("InvalidBucketAclWithObjectOwnership", 400, "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"),
    ErrorSpec("UnresolvableGrantByEmailAddress", 400, "The e-mail address you provided does not match any account on record."),
    ErrorSpec("MalformedPOSTRequest", 400, "The body of your POST request is not well-formed multipart/form-data."),
    ErrorSpec("InvalidPolicyDocument", 400, "The content of the form does not meet the conditions specified in the policy document."),
    ErrorSpec("MaxPostPreDataLengthExceededError", 400, "Your POST request fields preceding the upload file were too large."),
    ErrorSpec("IncorrectNumberOfFilesInPostRequest", 400, "POST requires exactly one file upload per request."),
    ErrorSpec("MalformedTrailerError", 400, "The request contained trailing data that was not well-formed or did not conform to our published schema."),
    ErrorSpec("MaxMessageLengthExceeded", 400, "Your request was too big."),
    ErrorSpec("UnexpectedContent", 400, "This request does not support content"),
    ErrorSpec("MethodNotAllowed", 405, "The specified method is not allowed against this resource."),
    ErrorSpec("NotImplemented", 501, "A header you provided implies functionality that is not implemented."),
    # the bytes
    ErrorSpec("BadDigest", 400, "The checksum you specified did not match the calculated checksum."),
    ErrorSpec("InvalidDigest", 400, "The Content-MD5 you specified was invalid."),
    ErrorSpec("XAmzContentSHA256Mismatch", 400, "The provided 'x-amz-content-sha256' header does not match what was computed."),
    ErrorSpec("IncompleteBody", 400, "The request body terminated unexpectedly", close=True),
    ErrorSpec("RequestTimeout", 400, "Your socket connection to the server was not read from or written to within the timeout period.", close=True),
    ErrorSpec("EntityTooLarge", 400, "Your proposed upload exceeds the maximum allowed size"),
    ErrorSpec("EntityTooSmall", 400, "Your proposed upload is smaller than the minimum allowed size"),
    # buckets
    ErrorSpec("NoSuchBucket", 404, "The specified bucket does not exist"),
    ErrorSpec("BucketAlreadyExists", 409, "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again."),
    ErrorSpec("BucketAlreadyOwnedByYou", 409, "Your previous request to create the named bucket succeeded and you already own it."),
    ErrorSpec("BucketNotEmpty", 409, "The bucket you tried to delete is not empty"),
    ErrorSpec("InvalidTargetBucketForLogging", 400, "The target bucket for logging does not exist"),
    ErrorSpec("TooManyBuckets", 400, "You have attempted to create more buckets than allowed."),
    ErrorSpec("IllegalVersioningConfigurationException", 400, "The versioning configuration specified in the request is not valid."),
    ErrorSpec("InvalidBucketState", 409, "The request is not valid for the current state of the bucket."),
    ErrorSpec("NoSuchBucketPolicy", 404, "The bucket policy does not exist"),
    ErrorSpec("NoSuchLifecycleConfiguration", 404, "The lifecycle configuration does not exist"),
    ErrorSpec("NoSuchCORSConfiguration", 404, "The CORS configuration does not exist"),
    ErrorSpec("NoSuchTagSet", 404, "The TagSet does not exist"),
    ErrorSpec("NoSuchWebsiteConfiguration", 404, "The specified bucket does not have a website configuration"),
    ErrorSpec("NoSuchPublicAccessBlockConfiguration", 404, "The public access block configuration was not found"),
    ErrorSpec("NoSuchConfiguration", 404, "The specified configuration does not exist."),
    ErrorSpec("ObjectLockConfigurationNotFoundError", 404, "Object Lock configuration does not exist for this bucket"),
    ErrorSpec("NoSuchObjectLockConfiguration", 404, "The specified object does not have a ObjectLock configuration"),
    ErrorSpec("ServerSideEncryptionConfigurationNotFoundError", 404, "The server side encryption configuration was not found"),
    ErrorSpec("ReplicationConfigurationNotFoundError", 404, "The replication configuration was not found"),
    ErrorSpec("OwnershipControlsNotFoundError", 404, "The bucket ownership controls were not found"),
    # objects
    ErrorSpec("NoSuchKey", 404, "The specified key does not exist."),
    ErrorSpec("NoSuchVersion", 404, "The specified version does not exist."),
    ErrorSpec("InvalidObjectState", 403, "The operation is not valid for the object's storage class"),
    ErrorSpec("ObjectNotInActiveTierError", 403, "The source object of the COPY action is not in the active tier and is only stored in Amazon S3 Glacier."),
    ErrorSpec("PreconditionFailed", 412, "At least one of the pre-conditions you specified did not hold"),
    ErrorSpec("NotModified", 304, "Not Modified"),
    ErrorSpec("InvalidRange", 416, "The requested range is not satisfiable"),
    ErrorSpec("InvalidWriteOffset", 400, "The write offset value that you specified does not match the current object size."),
    ErrorSpec("InvalidPartNumber", 416, "The requested partnumber is not satisfiable"),
    ErrorSpec("OperationAborted", 409, "A conflicting conditional operation is currently in progress against this resource. Try again."),
    # multipart uploads
    ErrorSpec("NoSuchUpload", 404, "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."),
    ErrorSpec("InvalidPart", 400, "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."),
    ErrorSpec("InvalidPartOrder", 400, "The list of parts was not in ascending order. Parts must be ordered by part number."),
    # room
    ErrorSpec("TierFullOfPins", 507, "The hot tier of this pool is full of pinned objects: unpin some, let leases end, or enlarge the pool."),
    ErrorSpec("PinLimitExceeded", 507, "The pin would exceed this pool's pin limit: unpin something else, or raise the limit. Nothing was stored or changed."),
    ErrorSpec("DiskFull", 507, "The disk under this pool is full. Nothing was stored."),
    # try again
    ErrorSpec("SlowDown", 503, "Please reduce your request rate.", retry_s=1),
    ErrorSpec("ServiceUnavailable", 503, "The device under this pool refuses writes. Nothing was stored or changed. Please try again.", retry_s=5),
    ErrorSpec("InternalError", 500, "We encountered an internal error. Please try again.", retry_s=1),
)  # fmt: skip

ERRORS: Final[dict[str, ErrorSpec]] = {row.code: row for row in _ROWS}
assert len(ERRORS) == len(_ROWS), "a code has two rows"

STORE_ERRORS: Final[dict[type[contract.StoreError], str]] = {
    contract.NoSuchBucket: "NoSuchBucket",
    contract.BucketExists: "BucketAlreadyOwnedByYou",
    contract.BucketNotEmpty: "BucketNotEmpty",
    contract.UnknownPool: "InvalidArgument",
    contract.NoSuchKey: "NoSuchKey",
    contract.NoSuchVersion: "NoSuchVersion",
    contract.IsMarker: "MethodNotAllowed",
    contract.Locked: "AccessDenied",
    contract.NoVersioning: "InvalidBucketState",
    contract.LockNeedsVersions: "InvalidBucketState",
    contract.NotRenamable: "InvalidRequest",
    contract.NotAppendable: "InvalidRequest",
    contract.WrongOffset: "InvalidWriteOffset",
    contract.NoSuchUpload: "NoSuchUpload",
    contract.InvalidPart: "InvalidPart",
    contract.InvalidPartOrder: "InvalidPartOrder",
    contract.InvalidPartNumber: "InvalidPartNumber",
    contract.PartTooSmall: "EntityTooSmall",
    contract.SizeMismatch: "InvalidRequest",
    contract.PreconditionFailed: "PreconditionFailed",
    contract.NotModified: "NotModified",
    contract.InvalidRange: "InvalidRange",
    contract.TierFull: "TierFullOfPins",
    contract.PinLimit: "PinLimitExceeded",
    contract.DiskFull: "DiskFull",
    contract.DeviceFailed: "ServiceUnavailable",
    contract.Busy: "SlowDown",
    contract.ColdUnavailable: "SlowDown",
    contract.Corrupt: "InternalError",
}

_MESSAGES: Final[dict[type[contract.StoreError], str]] = {
    contract.Locked: "Access Denied because object protected by object lock.",
    contract.NoVersioning: "The pool of this bucket keeps one version of each key: versioning cannot be enabled in it.",
    contract.LockNeedsVersions: "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
    contract.NotAppendable: "Nothing can be appended to this object: its bucket has versions, or it is encrypted.",
    contract.NotRenamable: "Objects of a bucket with versions cannot be renamed.",
    contract.UnknownPool: "x-recall-pool names a pool this gateway does not have.",
    contract.SizeMismatch: "The size of the completed object does not match x-amz-mp-object-size.",
    contract.Corrupt: "No copy of this object's bytes passes its checksum.",
}


_ELEMENTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "NoSuchKey": (("key", "Key"),),
    "NoSuchVersion": (("key", "Key"), ("version", "VersionId")),
    "NoSuchBucket": (("bucket", "BucketName"),),
    "BucketNotEmpty": (("bucket", "BucketName"),),
    "BucketAlreadyOwnedByYou": (("bucket", "BucketName"),),
    "NoSuchUpload": (("upload_id", "UploadId"),),
    "InvalidPart": (("number", "PartNumber"), ("etag", "ETag")),
    "InvalidPartOrder": (("number", "PartNumber"),),
    "EntityTooSmall": (("number", "PartNumber"), ("etag", "ETag")),
}
"""By code: a store fact, and the element AWS gives it in."""


def _marker(facts: dict[str, Any]) -> bytes:
    """What a reply says of the delete marker that was found instead of an object."""
    return f"x-amz-delete-marker: true\r\nx-amz-version-id: {facts.get('version') or 'null'}\r\n".encode()


def from_store(error: contract.StoreError) -> S3Error:
    """The answer for a store fact: its code, its facts as the elements AWS names, Retry-After from `retry_s`."""
    kind = type(error)
    code = STORE_ERRORS.get(kind) or next(
        (STORE_ERRORS[each] for each in kind.__mro__ if each in STORE_ERRORS), "InternalError"
    )
    facts = error.facts
    fields: dict[str, Any] = {}
    headers = b""
    if kind is contract.PreconditionFailed and "condition" in facts:
        fields["Condition"] = facts["condition"]
    elif kind is contract.InvalidRange and "size" in facts:
        fields["ActualObjectSize"] = facts["size"]
        headers = b"content-range: bytes */%d\r\n" % facts["size"]
    elif kind is contract.PartTooSmall:
        fields["MinSizeAllowed"] = contract.PART_BYTES_MIN
        if "size" in facts:
            fields["ProposedSize"] = facts["size"]
    elif kind is contract.InvalidPartNumber and "parts" in facts:
        fields["ActualPartCount"] = facts["parts"]
    elif kind is contract.IsMarker:
        modified = http_date(facts.get("modified_ms", 0))
        headers = b"allow: DELETE\r\nlast-modified: %b\r\n%b" % (modified.encode(), _marker(facts))
        fields["ResourceType"] = "DeleteMarker"
    elif kind is contract.NoSuchKey and facts.get("marker"):
        headers = _marker(facts)
    for fact, element in _ELEMENTS.get(code, ()):
        if fact in facts:
            fields[element] = facts[fact]
    if "retry_s" in facts:
        fields["retry_s"] = max(1, int(facts["retry_s"]))
    message = (
        f"{error.message.capitalize()}. Please try again."
        if kind is contract.ColdUnavailable
        else _MESSAGES.get(kind, "")
    )
    return S3Error(code, message, headers, **fields)
