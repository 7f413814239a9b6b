"""RenameObject: another key for an object, at once for all readers, as S3 Express has it.

Owns nothing. Does not know how an object moves. Kind: shell (the loop). Invariants: whoever may rename may also read,
write and delete what is renamed. Spec: AWS RenameObject; S3 User Guide, "Renaming objects in directory buckets".
"""

from __future__ import annotations

import re
from typing import Final

from s3api.call import Call
from s3api.errors import S3Error
from s3api.handlers.body import arrived
from s3api.message import Response
from s3api.operations import RENAME_SOURCE
from s3api.params import invalid, percent_decode
from s3api.preconditions import rename_conditions
from s3api.target import check_key
from tiering.contract import NoSuchKey, ReadOptions, RenameOptions

_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,64}\Z", re.ASCII)
_TOKEN_HEADER: Final = "x-amz-client-token"


def rename_source(call: Call) -> str:
    """The key of `x-amz-rename-source`, percent-encoded: alone, or after the bucket's own name and a slash, as the two
    forms that AWS's examples use; a key that itself begins so needs the second. Raises InvalidRequest, InvalidArgument,
    KeyTooLongError."""
    raw = call.request.headers.get(RENAME_SOURCE, b"").strip()
    if not raw:
        raise S3Error("InvalidRequest", f"RenameObject needs the header {RENAME_SOURCE.decode()}.")
    try:
        text = percent_decode(raw).decode()
    except UnicodeDecodeError:
        raise invalid(RENAME_SOURCE.decode(), raw.decode("latin-1"), "it must be percent-encoded UTF-8") from None
    for prefix in (f"/{call.bucket}/", f"{call.bucket}/"):
        if text.startswith(prefix):
            text = text[len(prefix) :]
            break
    if not text:
        raise invalid(RENAME_SOURCE.decode(), raw.decode("latin-1"), "it must name a key")
    return check_key(text)


def _check_token(call: Call) -> None:
    """# differs from AWS: a token is taken and not remembered: a rename that is repeated finds its source gone (404)."""
    if _TOKEN_HEADER.encode() in call.request.headers:
        token = call.header(_TOKEN_HEADER.encode())
        if not _TOKEN.match(token):
            raise invalid(_TOKEN_HEADER, token, "it must be 1 to 64 printable ASCII characters")


async def rename_object(call: Call) -> Response:
    """Moves the source to the call's key, over what stands there unless a condition forbids it."""
    source, headers = rename_source(call), call.request.headers
    _check_token(call)
    if source == call.key:
        raise S3Error("InvalidRequest", "The source and the destination of a rename are the same key.")
    if source.endswith("/") or call.key.endswith("/"):
        raise S3Error("InvalidRequest", "Objects whose keys end in a slash cannot be renamed.")
    try:
        seen = (await arrived(call.store.open(call.bucket, source, ReadOptions(head=True)))).info
    except NoSuchKey:
        if not call.may_list(call.bucket, source):
            raise S3Error("AccessDenied") from None
        raise
    call.require("s3:GetObject", call.bucket, source, info=seen)
    call.require("s3:DeleteObject", call.bucket, source)
    options = RenameOptions(
        rename_conditions(headers, b"x-amz-rename-source-"),
        rename_conditions(headers),
        call.origin("ObjectCreated:Put"),
    )
    await call.store.rename(call.bucket, source, call.key, options)
    return Response(200)
