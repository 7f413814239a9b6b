"""What Recall adds to objects that stand already: change their pin, TTL or tier.

Owns nothing. Does not know tiers' workings. Kind: shell (the loop). Spec: docs/EXTENSIONS.md.
"""

from __future__ import annotations

from s3api.call import Call
from s3api.errors import S3Error
from s3api.extensions import PIN_HEADER, TIER_HEADER, TTL_HEADER, parse_tier, write_intent
from s3api.handlers.fields import lease_lines
from s3api.handlers.options import check_deadline, metadata_of
from s3api.message import Response
from s3api.moment import http_date
from s3api.preconditions import write_conditions
from s3api.versions import named_version
from tiering.contract import ObjectChange, Residency


async def change_object(call: Call) -> Response:
    """`POST /b/k?recall`: applies x-recall-pin, x-recall-ttl and x-recall-tier; bytes, ETag and Last-Modified stay.

    Answers once it is done: after `x-recall-tier: hot` the object is hot, after `cold` it is in the backing store.
    """
    headers = call.request.headers
    intent = write_intent(headers, metadata_of(headers), {}, call.bucket, call.key, ())
    tier = parse_tier(headers)
    if intent.pin_ms is None and intent.ttl is None and tier is None:
        raise S3Error(
            "InvalidRequest", f"Nothing to change: give {PIN_HEADER}, {TTL_HEADER} or {TIER_HEADER}, or several."
        )
    version = named_version(call.query)
    check_deadline(call, intent.ttl, version)
    change = ObjectChange(
        pin_ms=intent.pin_ms,
        ttl=intent.ttl,
        tier=tier,
        conditions=write_conditions(headers),
        version=version,
    )
    info = await call.store.change(call.bucket, call.key, change)
    where = "cold" if info.residency is Residency.COLD_ONLY else "hot"
    lines = (
        f'etag: "{info.etag}"\r\nlast-modified: {http_date(info.modified_ms)}\r\n'
        f"{TIER_HEADER}: {where}\r\n{lease_lines(info, call.now_ms)}"
    )
    return Response(200, lines.encode())
