"""PostObject: the file of an HTML form becomes an object, and the browser is told or sent where the form says.

Who signed the form, and whether its policy lets it in, is settled before; here its fields are what headers are to a PUT.

Owns nothing. Does not know policies, signatures or multipart. Kind: shell (the loop). Invariants: a redirect goes only
to an http or https URL; no field can break a header line.
Spec: AWS S3 API Reference, "POST Object"; AWS S3 User Guide, "Creating HTML forms".
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from s3api import xml
from s3api.call import Call
from s3api.errors import S3Error
from s3api.form import FormPayload
from s3api.handlers.fields import checksum_lines, kept_checksum, lease_lines
from s3api.handlers.lifecycle import expiry_of
from s3api.handlers.objects import stored
from s3api.handlers.options import SINGLE_PUT_BYTES_MAX, put_options
from s3api.handlers.sealed import written_lines
from s3api.message import Response
from s3api.versions import written_line
from tiering.contract import ObjectInfo

_STATUSES: Final = {"200": 200, "201": 201}
_UNSAFE: Final = re.compile(r"[^\x21-\x7e]")


async def post_object(call: Call) -> Response:
    """Stores the file. 204, or what success_action_redirect and success_action_status ask for."""
    form = call.payload
    assert isinstance(form, FormPayload), "the pipeline opens forms"
    size = form.size_max()
    if size is None:
        raise S3Error("MissingContentLength")
    if size > SINGLE_PUT_BYTES_MAX:
        raise S3Error("EntityTooLarge", ProposedSize=size, MaxSizeAllowed=SINGLE_PUT_BYTES_MAX)
    options = msgspec.structs.replace(put_options(call, call.tags or {}), origin=call.origin("ObjectCreated:Post"))
    info = await stored(call, options, size, short=True)
    location = _location(call)
    redirect = _redirect(call, form.fields.get("success_action_redirect") or form.fields.get("redirect", ""), info)
    expiry = expiry_of(call, info)
    lines = f'etag: "{info.etag}"\r\n{checksum_lines(kept_checksum(info))}{lease_lines(info, call.now_ms, expiry)}'
    lines += written_line(info.version) + written_lines(call, info)
    lines += f"location: {redirect or location}\r\n"
    if redirect:
        return Response(303, lines.encode())
    status = _STATUSES.get(form.fields.get("success_action_status", ""), 204)
    if status != 201:
        return Response(status, lines.encode())
    writer = xml.XmlWriter("PostResponse", namespace="")
    writer.leaf("Location", location)
    writer.leaf("Bucket", call.bucket)
    writer.leaf("Key", call.key)
    writer.leaf("ETag", f'"{info.etag}"')
    return Response(status, xml.CONTENT_TYPE + lines.encode(), writer.finish())


def _location(call: Call) -> str:
    """Where the object is: the bucket as the form was sent to it, and the key as one path segment, as AWS writes it."""
    scheme = "https" if call.request.secure else "http"
    path = call.request.path.decode("ascii", "replace").rstrip("/")
    return f"{scheme}://{call.header(b'host')}{path}/{quote(call.key, safe='-_.~')}"


def _redirect(call: Call, url: str, info: ObjectInfo) -> str:
    """The URL to send the browser to, with what became of the form; "" for none, or one that is none, as AWS has it."""
    url = url.strip()
    if not url or _UNSAFE.search(url):
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return ""
    facts = "&".join(
        f"{name}={quote(value, safe='-_.~')}"
        for name, value in (("bucket", call.bucket), ("key", call.key), ("etag", f'"{info.etag}"'))
    )
    return parts._replace(query=f"{parts.query}&{facts}" if parts.query else facts).geturl()
