"""What requests and buckets say of server-side encryption, and what replies say of it.

Promise: each header is validated as AWS validates it, in AWS's order and with its codes and messages; a customer's key
never enters an error, a log or a repr.

Owns nothing. Does not know how content is sealed (`s3api.sealing`), calls or stores. Kind: pure.
Spec: AWS S3 User Guide, "Protecting data with server-side encryption"; API Reference, PutObject, PutBucketEncryption.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from s3api import xml
from s3api.errors import S3Error
from s3api.message import Headers
from s3api.params import invalid
from s3api.sealing import KEY_BYTES, KeyRing
from tiering.contract import Encryption

Mode = Literal["SSE-C", "AES256", "aws:kms"]

SSE: Final = b"x-amz-server-side-encryption"
KMS_KEY: Final = b"x-amz-server-side-encryption-aws-kms-key-id"
CONTEXT: Final = b"x-amz-server-side-encryption-context"
BUCKET_KEY: Final = b"x-amz-server-side-encryption-bucket-key-enabled"
CUSTOMER: Final = b"x-amz-server-side-encryption-customer-"
SOURCE_CUSTOMER: Final = b"x-amz-copy-source-server-side-encryption-customer-"
_TRIO: Final = (b"algorithm", b"key", b"key-md5")
CUSTOMER_TRIO: Final = tuple(CUSTOMER + each for each in _TRIO)
CUSTOMER_ALGORITHM, CUSTOMER_KEY, _ = CUSTOMER_TRIO
ASKING: Final = (SSE, KMS_KEY, CONTEXT, BUCKET_KEY, *CUSTOMER_TRIO)
"""Every header by which a write asks for encryption."""

CONTEXT_CHARS_MAX: Final = 8192
_CUSTOMERS: Final = "Requests specifying Server Side Encryption with Customer provided keys must provide"
_NEEDS_KMS: Final = (
    "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms"
)
_ARN = re.compile(r"arn:[a-z0-9-]+:kms:[a-z0-9-]*:[0-9]*:(?:key/)?(.+)\Z")


def _argument(message: str, value: str | None = None, name: str = SSE.decode()) -> S3Error:
    """InvalidArgument as S3 words it. It names x-amz-server-side-encryption whichever header is meant."""
    return S3Error("InvalidArgument", message, ArgumentName=name, ArgumentValue="null" if value is None else value[:64])


def _text(headers: Headers, name: bytes) -> str | None:
    raw = headers.get(name)
    return None if raw is None else raw.decode("latin-1").strip()


# --- customers' keys --------------------------------------------------------------------------------------------------


class CustomerKey:
    """The key of one request. `md5` is base64, as the reply repeats it."""

    __slots__ = ("key", "md5")

    def __init__(self, key: bytes, md5: str) -> None:
        self.key = key
        self.md5 = md5

    def __repr__(self) -> str:
        return "CustomerKey()"


def customer_key(headers: Headers, prefix: bytes = CUSTOMER, *, reading: bool = False) -> CustomerKey | None:
    """The key that a request carries, None where it carries none. Raises InvalidArgument, InvalidEncryptionAlgorithmError.

    `reading`: a key of another length is only a wrong one then, which the object says.
    """
    algorithm, key, md5 = (_text(headers, prefix + each) for each in _TRIO)
    if algorithm is None and key is None and md5 is None:
        return None
    if algorithm is None:
        raise customer_key_missing()
    if algorithm != "AES256":
        raise S3Error(
            "InvalidEncryptionAlgorithmError",
            "The Encryption request you specified is not valid. Supported value: AES256.",
            ArgumentName=SSE.decode(),
            ArgumentValue=algorithm[:64],
        )
    if not key:
        raise _argument(f"{_CUSTOMERS} an appropriate secret key.")
    if not md5:
        raise _argument(f"{_CUSTOMERS} the client calculated MD5 of the secret key.")
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise _argument("The secret key was invalid for the specified algorithm.") from None
    calculated = base64.b64encode(hashlib.md5(raw, usedforsecurity=False).digest()).decode()
    if calculated != md5:
        raise _argument("The calculated MD5 hash of the key did not match the hash that was provided.")
    if len(raw) != KEY_BYTES and not reading:
        raise _argument("The secret key was invalid for the specified algorithm.")
    return CustomerKey(raw, calculated)


def customer_key_missing() -> S3Error:
    """What a request is answered that has to bring a customer's key, and names not even an algorithm."""
    return _argument(f"{_CUSTOMERS} a valid encryption algorithm.")


def wrong_customer_key() -> S3Error:
    """What a read with another key than the object's is answered."""
    return S3Error("AccessDenied", f"{_CUSTOMERS} the correct secret key.")


# --- defaults of buckets ----------------------------------------------------------------------------------------------


class DefaultEncryption(msgspec.Struct, frozen=True):
    """A bucket's default: `mode` "" encrypts nothing that does not ask for it. `blocks_customer_keys`: refuses SSE-C."""

    mode: Literal["", "AES256", "aws:kms"] = ""
    key_id: str = ""
    bucket_key: bool = False
    blocks_customer_keys: bool = False


NO_DEFAULT: Final = DefaultEncryption()


@functools.lru_cache(maxsize=1024)
def parse_default_encryption(text: str) -> DefaultEncryption:
    """A stored `ServerSideEncryptionConfiguration`. Remembered by its text: a bucket's document is read for every write."""
    return read_default_encryption(xml.parse(text.encode(), "ServerSideEncryptionConfiguration"))


def read_default_encryption(root: xml.Node) -> DefaultEncryption:
    """A document that was just sent. Raises MalformedXML, InvalidArgument, NotImplemented for a double encryption."""
    rule = root.only("Rule").find("Rule")
    if rule is None or not rule.only(*_RULE).children:
        raise S3Error("MalformedXML")
    apply, blocked = rule.find("ApplyServerSideEncryptionByDefault"), rule.find("BlockedEncryptionTypes")
    by_default = NO_DEFAULT if apply is None else _by_default(apply)
    kinds = set() if blocked is None else {each.own.strip() for each in blocked.only("EncryptionType").children}
    if not kinds <= {"NONE", "SSE-C"}:
        raise S3Error("MalformedXML")
    bucket_key = rule.boolean("BucketKeyEnabled")
    return msgspec.structs.replace(by_default, bucket_key=bucket_key, blocks_customer_keys="SSE-C" in kinds)


_RULE: Final = ("ApplyServerSideEncryptionByDefault", "BucketKeyEnabled", "BlockedEncryptionTypes")


def _by_default(apply: xml.Node) -> DefaultEncryption:
    mode = apply.only("SSEAlgorithm", "KMSMasterKeyID").required("SSEAlgorithm").strip()
    key_id = apply.text("KMSMasterKeyID").strip()
    if mode == "aws:kms":
        return DefaultEncryption("aws:kms", key_id)
    if mode == "aws:kms:dsse":
        raise S3Error("NotImplemented", "Dual-layer encryption (aws:kms:dsse) is not implemented.")
    if mode != "AES256":
        raise S3Error("MalformedXML")
    if key_id:
        raise _argument(
            "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse",
            key_id,
            "ApplyServerSideEncryptionByDefault",
        )
    return DefaultEncryption("AES256")


def default_encryption_document(default: DefaultEncryption) -> bytes:
    """The document as GetBucketEncryption gives it."""
    writer = xml.XmlWriter("ServerSideEncryptionConfiguration")
    with writer.nested("Rule"):
        if default.mode:
            with writer.nested("ApplyServerSideEncryptionByDefault"):
                writer.leaf("SSEAlgorithm", default.mode)
                writer.leaf("KMSMasterKeyID", default.key_id or None)
        writer.leaf("BucketKeyEnabled", default.bucket_key)
        if default.blocks_customer_keys:  # not said otherwise: clients compare what they set with what they read
            with writer.nested("BlockedEncryptionTypes"):
                writer.leaf("EncryptionType", "SSE-C")
    return writer.finish()


# --- what a write asks for --------------------------------------------------------------------------------------------


class Asked(msgspec.Struct, frozen=True):
    """How a new object is to be encrypted. `key_id`: as it was named, "" for SSE-C; `context` as it was sent."""

    mode: Mode
    key_id: str = ""
    context: str = ""
    bucket_key: bool = False
    customer: CustomerKey | None = None


def asked(headers: Headers, default: DefaultEncryption, ring: KeyRing) -> Asked | None:
    """What a write's headers ask for, else the bucket's default; None: nothing. `key_id` is then a name `ring` knows.

    Raises InvalidArgument, InvalidEncryptionAlgorithmError, KMS.NotFoundException, NotImplemented; AccessDenied where the
    bucket refuses customers' keys.
    """
    sse = _text(headers, SSE)
    if not headers.keys().isdisjoint(CUSTOMER_TRIO):
        if sse is not None:
            raise _argument(
                "Server Side Encryption with Customer provided key is incompatible with the encryption method specified",
                sse,
            )
        refuse_blocked(default)
        return Asked("SSE-C", customer=customer_key(headers))
    key_id, context, flag = _text(headers, KMS_KEY), _text(headers, CONTEXT), _text(headers, BUCKET_KEY)
    if flag is not None and flag.lower() not in ("true", "false"):
        raise invalid(BUCKET_KEY.decode(), flag, "it must be true or false")
    mode = _mode(sse, default)
    if mode != "aws:kms" or sse is None:
        if key_id is not None or context is not None:
            raise _argument(_NEEDS_KMS, sse)
        if not mode:
            return None
    if mode != "aws:kms":
        return Asked("AES256", _known(ring, ""))
    if context:
        parse_context(context)
    if sse is None:
        key_id = default.key_id
    bucket_key = default.bucket_key if flag is None else flag.lower() == "true"
    return Asked("aws:kms", _known(ring, key_id or ""), context or "", bucket_key)


def refuse_blocked(default: DefaultEncryption) -> None:
    """Refuses a write under a customer's key where the bucket does. Raises AccessDenied."""
    if default.blocks_customer_keys:
        raise S3Error(
            "AccessDenied",
            "This bucket has blocked upload requests that specify Server Side Encryption with Customer provided keys "
            "(SSE-C). Please specify a different server-side encryption type.",
        )


def _mode(sse: str | None, default: DefaultEncryption) -> Literal["", "AES256", "aws:kms"]:
    if sse is None:
        return default.mode
    if sse == "AES256":
        return "AES256"
    if sse == "aws:kms":
        return "aws:kms"
    if sse == "aws:kms:dsse":
        raise S3Error("NotImplemented", "Dual-layer encryption (aws:kms:dsse) is not implemented.", Header=SSE.decode())
    raise _argument("The encryption method specified is not supported", sse)


def master_key(ring: KeyRing, key_id: str) -> bytes:
    """The master key of an id or ARN. Raises KMS.NotFoundException; NotImplemented where there is no key at all."""
    if not ring.keys:
        raise S3Error("NotImplemented", "This gateway has no master key, so it encrypts only with customers' keys.")
    arn = _ARN.match(key_id)
    key = ring.keys.get(arn.group(1) if arn else key_id)
    if key is None:
        shown = key_id[:256]
        raise S3Error("KMS.NotFoundException", f"Key '{shown}' does not exist" if arn else f"Invalid keyId '{shown}'")
    return key


def _known(ring: KeyRing, named: str) -> str:
    """The id to keep. It is the client's own, once it is known to name a key; the newest key's where it names none."""
    if not named or named == "alias/aws/s3" or named.endswith(":alias/aws/s3"):
        named = ring.default
    master_key(ring, named)
    return named


def parse_context(text: str) -> Mapping[str, str]:
    """An encryption context: base64 of a JSON object of strings. Raises InvalidArgument."""
    try:
        found = json.loads(base64.b64decode(text, validate=True).decode()) if len(text) <= CONTEXT_CHARS_MAX else None
    except (binascii.Error, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise S3Error(
            "InvalidArgument",
            "The header 'x-amz-server-side-encryption-context' shall be Base64-encoded UTF-8 string holding JSON which "
            "represents a string-string map",
            ArgumentName=CONTEXT.decode(),
            ArgumentValue=text[:64],
        )
    return found


def binding(mode: str, key_id: str, context: str) -> tuple[str, ...]:
    """What a wrapped key is bound to: as KMS compares contexts, whatever the order of their pairs.

    Not to bucket and key: a rename, and a copy that shares the bytes, take the wrapped key along.
    """
    pairs = sorted(parse_context(context).items()) if context else []
    return (mode, key_id, *(text for pair in pairs for text in pair))


# --- replies ----------------------------------------------------------------------------------------------------------


def encryption_lines(encryption: Encryption, customer: CustomerKey | None = None, *, context: bool = False) -> str:
    """The header lines that say how an object is encrypted. `context`: with the KMS context, as writes repeat it."""
    if encryption.mode == "SSE-C":
        if customer is None:
            return ""
        head = CUSTOMER.decode()
        return f"{head}algorithm: AES256\r\n{head}key-md5: {customer.md5}\r\n"
    lines = f"{SSE.decode()}: {encryption.mode}\r\n"
    if encryption.mode == "aws:kms":
        lines += f"{KMS_KEY.decode()}: {encryption.key_id}\r\n"
        if context and encryption.context:
            lines += f"{CONTEXT.decode()}: {encryption.context}\r\n"
        if encryption.bucket_key:
            lines += f"{BUCKET_KEY.decode()}: true\r\n"
    return lines
