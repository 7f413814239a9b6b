"""Tags of objects, and the intent they carry: `recall:pin` and `recall:ttl` pin and expire as the headers do.

Owns nothing. Does not know how tags are kept. Kind: shell (the loop).
Spec: AWS GetObjectTagging, PutObjectTagging, DeleteObjectTagging; docs/EXTENSIONS.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from s3api import xml
from s3api.call import Call
from s3api.errors import S3Error
from s3api.extensions import tag_intent
from s3api.handlers.body import arrived, document
from s3api.handlers.options import check_deadline, check_tags
from s3api.message import Response
from s3api.versions import named_version, version_line
from tiering.contract import IsMarker, NoSuchKey, ObjectChange, ObjectInfo, ReadOptions


async def get_object_tagging(call: Call) -> Response:
    """The tags, in the order of their keys."""
    info = await _seen(call, named_version(call.query))
    writer = xml.XmlWriter("Tagging")
    with writer.nested("TagSet"):
        for key, value in sorted(info.tags.items()):
            with writer.nested("Tag"):
                writer.leaf("Key", key)
                writer.leaf("Value", value)
    return Response(200, xml.CONTENT_TYPE + _version(call, info), writer.finish())


async def _seen(call: Call, version: str | None) -> ObjectInfo:
    """The object, or a version of it, once the caller may do to it what was asked. Raises IsMarker also where the
    newest version is a marker that was not named: of a key's tags AWS says so, where of its content it says 404."""
    try:
        info = (await arrived(call.store.open(call.bucket, call.key, ReadOptions(head=True, version=version)))).info
    except NoSuchKey as missing:
        if not missing.facts.get("marker"):
            raise
        raise IsMarker(**missing.facts) from None
    if call.asked:
        call.check_object(info)
    return info


def _version(call: Call, info: ObjectInfo) -> bytes:
    return version_line(info.version, call.store.bucket(call.bucket)).encode()


async def _replace(call: Call, tags: Mapping[str, str], event: str) -> bytes:
    """Gives the line that names the version."""
    # The old tags only decide whether a twin was taken away. Of two writers at once the later tags stand, and at worst
    # a removed twin's pin stays until it is unpinned: no state that a single order of the two could not leave.
    version = named_version(call.query)
    old = await _seen(call, version)
    intent = tag_intent(old.tags, tags)
    if intent.pin_ms is not None or intent.ttl is not None:
        call.require("s3:PutObject", version=version)  # as without tags: see `change_object`
        check_deadline(call, intent.ttl, version)
    change = ObjectChange(
        pin_ms=intent.pin_ms,
        ttl=intent.ttl,
        tags=tags,
        version=version,
        origin=call.origin(event),
    )
    return _version(call, await call.store.change(call.bucket, call.key, change))


def read_tagging(body: bytes) -> dict[str, str]:
    """The tags of a `Tagging` document. Raises MalformedXML, InvalidTag, BadRequest."""
    root = xml.parse(body, "Tagging")
    holder = root.find("TagSet")
    if holder is None:
        raise S3Error("MalformedXML", "Element TagSet is missing in Tagging.")
    return check_tags([(node.required("Key"), node.required("Value")) for node in holder.all("Tag")])


async def put_object_tagging(call: Call) -> Response:
    """Replaces all tags."""
    tags = call.tags = read_tagging(await document(call))
    return Response(200, await _replace(call, tags, "ObjectTagging:Put"))


async def delete_object_tagging(call: Call) -> Response:
    """Removes all tags."""
    return Response(204, await _replace(call, {}, "ObjectTagging:Delete"))
