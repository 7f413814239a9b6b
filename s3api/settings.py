"""The small documents a bucket is set up with: what each may say, and how it is stored and read back.

A check takes the root element a client sent and answers the text to store: the document as a GET answers it, or, where
every request asks for it, a word or two. None: the document says what an unset bucket says. Readers take stored text.

Owns nothing but bounded memories of parsed documents. Does not know stores, callers or the effects of a setting.
Kind: pure. Invariants: whatever a check answers is read back as a document that checks to itself; an element nobody knows is refused.
Spec: AWS PutBucketTagging, PutBucketOwnershipControls, PutPublicAccessBlock, PutBucketEncryption, PutBucketLogging,
PutBucketRequestPayment, PutBucketAccelerateConfiguration, PutBucketAbac.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from s3api import acl, xml
from s3api.access import OWNERSHIPS, PUBLIC_ACCESS_NAMES
from s3api.encryption import default_encryption_document, read_default_encryption
from s3api.errors import S3Error

BUCKET_TAGS_MAX: Final = 50
TAG_KEY_CHARS_MAX: Final = 128
TAG_VALUE_CHARS_MAX: Final = 256
LOG_PERMISSIONS: Final = ("FULL_CONTROL", "READ", "WRITE")
_TAG_TEXT = re.compile(r"[\w \-+=.:/@]*\Z")


# -- tags


def tags_of(holder: xml.Node | None) -> dict[str, str]:
    """The tags below a TagSet or Tags element, in order. Raises MalformedXML, InvalidTag."""
    if holder is None:
        raise S3Error("MalformedXML", "The element that holds the tags is missing.")
    tags: dict[str, str] = {}
    for node in holder.only("Tag").children:
        key, value = node.only("Key", "Value").required("Key"), node.required("Value")
        if not 1 <= len(key) <= TAG_KEY_CHARS_MAX or not _TAG_TEXT.match(key):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", TagKey=key[:TAG_KEY_CHARS_MAX])
        if len(value) > TAG_VALUE_CHARS_MAX or not _TAG_TEXT.match(value):
            raise S3Error(
                "InvalidTag",
                "The TagValue you have provided is invalid",
                TagKey=key,
                TagValue=value[:TAG_VALUE_CHARS_MAX],
            )
        if key.lower().startswith("aws:"):
            raise S3Error("InvalidTag", "System tags cannot be added/updated by requester", TagKey=key)
        if key in tags:
            raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key", TagKey=key)
        tags[key] = value
    if len(tags) > BUCKET_TAGS_MAX:
        raise S3Error("BadRequest", f"Bucket tag count cannot be greater than {BUCKET_TAGS_MAX}")
    return tags


def tagging_document(tags: Mapping[str, str]) -> str | None:
    """A Tagging document; None for no tags."""
    if not tags:
        return None
    writer = xml.XmlWriter("Tagging")
    with writer.nested("TagSet"):
        for key, value in tags.items():
            with writer.nested("Tag"):
                writer.leaf("Key", key)
                writer.leaf("Value", value)
    return writer.finish().decode()


def check_tagging(root: xml.Node) -> str | None:
    """Raises MalformedXML, InvalidTag, BadRequest."""
    return tagging_document(tags_of(root.only("TagSet").find("TagSet")))


# -- ownership and public access


def check_ownership(root: xml.Node) -> str:
    """The bare word, of the three there are. Raises MalformedXML."""
    rule = root.only("Rule").find("Rule")
    if rule is None:
        raise S3Error("MalformedXML")
    return rule.only("ObjectOwnership").one_of("ObjectOwnership", OWNERSHIPS)


def ownership_document(kept: str) -> str:
    """An OwnershipControls document."""
    writer = xml.XmlWriter("OwnershipControls")
    with writer.nested("Rule"):
        writer.leaf("ObjectOwnership", kept)
    return writer.finish().decode()


def check_public_access(root: xml.Node) -> str:
    """The switches that are on, divided by spaces. Raises MalformedXML; InvalidRequest where none of the four is given."""
    root.only(*PUBLIC_ACCESS_NAMES)
    if not root.children:
        raise S3Error("InvalidRequest", "Must specify at least one configuration.")
    return " ".join(name for name in PUBLIC_ACCESS_NAMES if root.boolean(name))


def public_access_document(kept: str) -> str:
    """A PublicAccessBlockConfiguration document: all four, on or off."""
    named = kept.split(" ")
    writer = xml.XmlWriter("PublicAccessBlockConfiguration")
    for name in PUBLIC_ACCESS_NAMES:
        writer.leaf(name, name in named)
    return writer.finish().decode()


# -- encryption


def check_encryption(root: xml.Node) -> str:
    """Raises as `encryption.read_default_encryption`."""
    return default_encryption_document(read_default_encryption(root)).decode()


# -- logging


class Logging(msgspec.Struct, frozen=True):
    """Where the access log of a bucket goes. `partitioned`: "" or the date its keys are parted by, `EventTime` or
    `DeliveryTime`. `acl`: the access list of each log, as it is kept with an object."""

    bucket: str
    prefix: str = ""
    partitioned: str = ""
    acl: str = ""


def check_logging(root: xml.Node) -> str | None:
    """None switches logging off. Raises MalformedXML, NotImplemented. The target is for the caller to judge."""
    enabled = root.only("LoggingEnabled").find("LoggingEnabled")
    if enabled is None:
        return None
    target = enabled.only("TargetBucket", "TargetPrefix", "TargetGrants", "TargetObjectKeyFormat").required(
        "TargetBucket"
    )
    prefix = enabled.required("TargetPrefix")
    writer = xml.XmlWriter("BucketLoggingStatus")
    with writer.nested("LoggingEnabled"):
        writer.leaf("TargetBucket", target)
        writer.leaf("TargetPrefix", prefix)
        _target_grants(writer, enabled.find("TargetGrants"))
        form = enabled.find("TargetObjectKeyFormat")
        if form is not None:
            _key_format(writer, form)
    return writer.finish().decode()


def _target_grants(writer: xml.XmlWriter, holder: xml.Node | None) -> None:
    """Raises MalformedXML; NotImplemented for grantees by e-mail address, whom AWS takes no longer either."""
    if holder is None or not holder.only("Grant").children:
        return
    with writer.nested("TargetGrants"):
        for node in holder.children:
            grantee = node.only("Grantee", "Permission").find("Grantee")
            permission = node.one_of("Permission", LOG_PERMISSIONS)
            kind = "" if grantee is None else grantee.attributes.get(acl.TYPE, "")
            if kind == "AmazonCustomerByEmail":
                raise S3Error("NotImplemented", "Grantees of a log are named by id or group.")
            if grantee is None or kind not in ("CanonicalUser", "Group"):
                raise S3Error("MalformedXML", "A Grantee has the type CanonicalUser or Group.")
            with writer.nested("Grant"):
                name = "ID" if kind == "CanonicalUser" else "URI"
                with writer.nested("Grantee", f'xmlns:xsi="{acl.XSI}" xsi:type="{kind}"'):
                    writer.leaf(name, grantee.required(name).strip())
                writer.leaf("Permission", permission)


def log_target(text: str) -> str:
    """The bucket that a stored document names."""
    enabled = xml.parse(text.encode(), "BucketLoggingStatus").find("LoggingEnabled")
    return "" if enabled is None else enabled.text("TargetBucket")


def log_grants(text: str) -> list[tuple[str, xml.Node | None]]:
    """Permission and Grantee element of each grant in a stored document."""
    enabled = xml.parse(text.encode(), "BucketLoggingStatus").find("LoggingEnabled")
    holder = None if enabled is None else enabled.find("TargetGrants")
    return [] if holder is None else [(node.text("Permission"), node.find("Grantee")) for node in holder.children]


def _log_list(text: str) -> str:
    """The access list of a log: the owner has full control, whoever is granted anything has that."""
    entries = [acl.Grant("F", acl.OWNER)]
    for permission, grantee in log_grants(text):
        assert grantee is not None
        entries.append(acl.Grant(acl.PERMISSIONS[permission], grantee.text("ID") or acl.GROUPS[grantee.text("URI")]))
    return acl.kept(entries)


def _key_format(writer: xml.XmlWriter, form: xml.Node) -> None:
    parted = form.only("SimplePrefix", "PartitionedPrefix").find("PartitionedPrefix")
    if len(form.children) != 1:
        raise S3Error("MalformedXML", "TargetObjectKeyFormat takes one of SimplePrefix and PartitionedPrefix.")
    with writer.nested("TargetObjectKeyFormat"):
        if parted is None:
            writer.leaf("SimplePrefix", "")
        else:
            with writer.nested("PartitionedPrefix"):
                source = parted.only("PartitionDateSource")
                dates = ("EventTime", "DeliveryTime")
                given = source.one_of("PartitionDateSource", dates) if source.children else "DeliveryTime"
                writer.leaf("PartitionDateSource", given)


@functools.lru_cache(maxsize=256)
def bucket_logging(text: str) -> Logging | None:
    """Where a stored document sends the log; None of ""."""
    enabled = xml.parse(text.encode(), "BucketLoggingStatus").find("LoggingEnabled") if text else None
    if enabled is None:
        return None
    form = enabled.find("TargetObjectKeyFormat")
    parted = form.find("PartitionedPrefix") if form is not None else None
    dated = "" if parted is None else parted.text("PartitionDateSource")
    return Logging(enabled.text("TargetBucket"), enabled.text("TargetPrefix"), dated, _log_list(text))


# -- one value


def _single(root: str, element: str, allowed: Sequence[str]) -> Mapping[str, str]:
    """Value → document."""
    documents = {}
    for value in allowed:
        writer = xml.XmlWriter(root)
        writer.leaf(element, value)
        documents[value] = writer.finish().decode()
    return documents


_PAYERS: Final = _single("RequestPaymentConfiguration", "Payer", ("BucketOwner", "Requester"))
_ACCELERATION: Final = _single("AccelerateConfiguration", "Status", ("Enabled", "Suspended"))
_ABAC: Final = _single("AbacStatus", "Status", ("Enabled", "Disabled"))
PAYER_UNSET: Final = _PAYERS["BucketOwner"]
REQUESTER_PAYS: Final = _PAYERS["Requester"]
ABAC_UNSET: Final = _ABAC["Disabled"]


def check_payer(root: xml.Node) -> str:
    """Raises MalformedXML."""
    return _PAYERS[root.only("Payer").one_of("Payer", _PAYERS)]


def check_acceleration(root: xml.Node) -> str:
    """Raises MalformedXML."""
    return _ACCELERATION[root.only("Status").one_of("Status", _ACCELERATION)]


def check_abac(root: xml.Node) -> None:
    """Raises MalformedXML; NotImplemented for what would have an effect."""
    if root.only("Status").one_of("Status", _ABAC) == "Enabled":
        raise S3Error("NotImplemented", "Access by the tags of a bucket is not served.")
