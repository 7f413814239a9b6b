"""What requests and buckets say of encryption: AWS's validations, in AWS's order and words."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api import encryption as e
from s3api.errors import S3Error
from s3api.sealing import KeyRing
from tiering.contract import Encryption

RING = KeyRing({"old": bytes(32), "new": bytes(range(32))})
KEY = bytes(range(32))
SSE = "x-amz-server-side-encryption"
C = "x-amz-server-side-encryption-customer-"
CONTEXT = base64.b64encode(b'{"b":"2","a":"1"}').decode()


def trio(key: bytes = KEY, algorithm: str = "AES256", md5: str | None = None, prefix: str = C) -> dict[str, str]:
    digest = base64.b64encode(hashlib.md5(key).digest()).decode() if md5 is None else md5
    return {
        f"{prefix}algorithm": algorithm,
        f"{prefix}key": base64.b64encode(key).decode(),
        f"{prefix}key-md5": digest,
    }


def raw(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in headers.items()}


def asked(headers: dict[str, str], default: e.DefaultEncryption = e.NO_DEFAULT) -> e.Asked | None:
    return e.asked(raw(headers), default, RING)


def refused(headers: dict[str, str], default: e.DefaultEncryption = e.NO_DEFAULT) -> S3Error:
    with pytest.raises(S3Error) as caught:
        asked(headers, default)
    return caught.value


def without(headers: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.removeprefix(C) not in names}


def test_nothing_asked() -> None:
    assert asked({}) is None
    assert asked({f"{SSE}-bucket-key-enabled": "true"}) is None


def test_asked() -> None:
    assert asked({SSE: "AES256"}) == e.Asked("AES256", "new")
    assert asked({SSE: "aws:kms"}) == e.Asked("aws:kms", "new")
    assert asked({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "alias/aws/s3"}) == e.Asked("aws:kms", "new")
    found = asked(
        {
            SSE: "aws:kms",
            f"{SSE}-aws-kms-key-id": "arn:aws:kms:us-east-1:111122223333:key/old",
            f"{SSE}-context": CONTEXT,
            f"{SSE}-bucket-key-enabled": "true",
        }
    )
    assert found == e.Asked("aws:kms", "arn:aws:kms:us-east-1:111122223333:key/old", CONTEXT, True)
    customer = asked(trio())
    assert customer is not None
    assert customer.mode == "SSE-C"
    assert customer.customer is not None
    assert customer.customer.key == KEY
    assert base64.b64encode(KEY).decode() not in repr(customer)


@pytest.mark.parametrize(
    ("headers", "code", "words"),
    [
        ({SSE: "AES256"} | trio(), "InvalidArgument", "incompatible with the encryption method"),
        ({SSE: "aws:kms"} | trio(algorithm="x"), "InvalidArgument", "incompatible with the encryption method"),
        (trio(algorithm="AES192"), "InvalidEncryptionAlgorithmError", "Supported value: AES256."),
        (without(trio(), "algorithm"), "InvalidArgument", "a valid encryption algorithm"),
        (without(trio(), "key"), "InvalidArgument", "an appropriate secret key"),
        (without(trio(), "key-md5"), "InvalidArgument", "the client calculated MD5"),
        (without(trio(), "key", "key-md5"), "InvalidArgument", "an appropriate secret key"),
        (trio(md5="AAAAAAAAAAAAAAAAAAAAAA=="), "InvalidArgument", "calculated MD5 hash"),
        (trio(b"short", md5="AAAAAAAAAAAAAAAAAAAAAA=="), "InvalidArgument", "calculated MD5 hash"),
        (trio(b"short"), "InvalidArgument", "secret key was invalid"),
        (trio() | {f"{C}key": "!"}, "InvalidArgument", "secret key was invalid"),
        ({SSE: ""}, "InvalidArgument", "not supported"),
        ({SSE: "aes:kms"}, "InvalidArgument", "not supported"),
        ({SSE: "aws:kms:dsse"}, "NotImplemented", "aws:kms:dsse"),
        ({SSE: "AES256", f"{SSE}-aws-kms-key-id": "new"}, "InvalidArgument", "requires HTTP header"),
        ({f"{SSE}-aws-kms-key-id": "new"}, "InvalidArgument", "requires HTTP header"),
        ({f"{SSE}-context": CONTEXT}, "InvalidArgument", "requires HTTP header"),
        ({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "nope"}, "KMS.NotFoundException", "Invalid keyId 'nope'"),
        (
            {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "arn:aws:kms:r:1:key/nope"},
            "KMS.NotFoundException",
            "Key 'arn:aws:kms:r:1:key/nope' does not exist",
        ),
        ({SSE: "aws:kms", f"{SSE}-context": "{}"}, "InvalidArgument", "string-string map"),
        ({SSE: "aws:kms", f"{SSE}-context": "e30x"}, "InvalidArgument", "string-string map"),
        (
            {SSE: "aws:kms", f"{SSE}-context": base64.b64encode(b'{"a":1}').decode()},
            "InvalidArgument",
            "string-string map",
        ),
        ({SSE: "aws:kms", f"{SSE}-bucket-key-enabled": "yes"}, "InvalidArgument", "true or false"),
    ],
)
def test_refused(headers: dict[str, str], code: str, words: str) -> None:
    error = refused(headers)
    assert error.spec.code == code
    assert words in error.message
    assert base64.b64encode(KEY).decode() not in f"{error.message}{error.fields}"


def test_a_gateway_without_master_keys_has_customers_keys_only() -> None:
    assert e.asked(raw(trio()), e.NO_DEFAULT, KeyRing()) is not None
    with pytest.raises(S3Error) as caught:
        e.asked(raw({SSE: "AES256"}), e.NO_DEFAULT, KeyRing())
    assert caught.value.spec.code == "NotImplemented"


def test_a_key_of_another_length_is_only_wrong_when_reading() -> None:
    found = e.customer_key(raw(trio(b"short")), reading=True)
    assert found is not None
    assert found.key == b"short"
    assert e.customer_key({}) is None


def test_the_copy_source_has_names_of_its_own() -> None:
    prefix = "x-amz-copy-source-server-side-encryption-customer-"
    found = e.customer_key(raw(trio(prefix=prefix)), e.SOURCE_CUSTOMER)
    assert found is not None
    assert e.customer_key(raw(trio(prefix=prefix))) is None


# --- bucket defaults --------------------------------------------------------------------------------------------------


def document(rule: str, root: str = "ServerSideEncryptionConfiguration") -> str:
    return f'<{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rule}</{root}>'


def by_default(algorithm: str, more: str = "") -> str:
    return (
        f"<ApplyServerSideEncryptionByDefault><SSEAlgorithm>{algorithm}</SSEAlgorithm>{more}"
        "</ApplyServerSideEncryptionByDefault>"
    )


BLOCKED = "<BlockedEncryptionTypes><EncryptionType>SSE-C</EncryptionType></BlockedEncryptionTypes>"


@pytest.mark.parametrize(
    ("rule", "default"),
    [
        (by_default("AES256"), e.DefaultEncryption("AES256")),
        (by_default("aws:kms"), e.DefaultEncryption("aws:kms")),
        (
            by_default("aws:kms", "<KMSMasterKeyID>old</KMSMasterKeyID>") + "<BucketKeyEnabled>true</BucketKeyEnabled>",
            e.DefaultEncryption("aws:kms", "old", True),
        ),
        (BLOCKED, e.DefaultEncryption(blocks_customer_keys=True)),
        (BLOCKED.replace("SSE-C", "NONE"), e.NO_DEFAULT),
    ],
)
def test_default_of_a_bucket(rule: str, default: e.DefaultEncryption) -> None:
    assert e.parse_default_encryption(document(f"<Rule>{rule}</Rule>")) == default
    assert e.parse_default_encryption(e.default_encryption_document(default).decode()) == default


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (document(""), "MalformedXML"),
        (document(f"<Rule>{by_default('AES256')}</Rule>" * 2), "MalformedXML"),
        (document("<Rule></Rule>"), "MalformedXML"),
        (document("<Rule><Other/></Rule>"), "MalformedXML"),
        (document(f"<Rule>{by_default('AES512')}</Rule>"), "MalformedXML"),
        (document(f"<Rule>{by_default('aws:kms:dsse')}</Rule>"), "NotImplemented"),
        (document(f"<Rule>{by_default('AES256', '<KMSMasterKeyID>k</KMSMasterKeyID>')}</Rule>"), "InvalidArgument"),
        (document(f"<Rule>{BLOCKED.replace('SSE-C', 'X')}</Rule>"), "MalformedXML"),
        (document("<Rule><BucketKeyEnabled>1</BucketKeyEnabled></Rule>"), "MalformedXML"),
        (document(f"<Rule>{by_default('AES256')}</Rule>", "Other"), "MalformedXML"),
        ("", "MissingRequestBodyError"),
    ],
)
def test_refused_defaults(text: str, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        e.parse_default_encryption(text)
    assert caught.value.spec.code == code


def test_a_request_outranks_the_default() -> None:
    kms = e.DefaultEncryption("aws:kms", "old", True)
    assert asked({}, kms) == e.Asked("aws:kms", "old", "", True)
    assert asked({f"{SSE}-bucket-key-enabled": "false"}, kms) == e.Asked("aws:kms", "old")
    assert asked({SSE: "aws:kms"}, kms) == e.Asked("aws:kms", "new", "", True)
    assert asked({SSE: "AES256"}, kms) == e.Asked("AES256", "new")
    assert asked({}, e.DefaultEncryption("AES256", bucket_key=True)) == e.Asked("AES256", "new")
    found = asked(trio(), kms)
    assert found is not None
    assert found.mode == "SSE-C"
    assert refused({}, e.DefaultEncryption("aws:kms", "gone")).spec.code == "KMS.NotFoundException"
    assert refused({f"{SSE}-aws-kms-key-id": "new"}, kms).spec.code == "InvalidArgument"


def test_a_bucket_may_refuse_customers_keys() -> None:
    blocking = e.DefaultEncryption(blocks_customer_keys=True)
    assert refused(trio(md5="wrong"), blocking).spec.code == "AccessDenied"
    assert asked({}, blocking) is None


# --- bindings and replies ---------------------------------------------------------------------------------------------


def test_the_order_of_a_context_makes_no_difference() -> None:
    other = base64.b64encode(b'{"a": "1", "b": "2"}').decode()
    assert e.binding("aws:kms", "k", CONTEXT) == e.binding("aws:kms", "k", other)
    assert e.binding("aws:kms", "k", CONTEXT) != e.binding("aws:kms", "k", "")


def test_lines() -> None:
    assert e.encryption_lines(Encryption("AES256", "new")) == f"{SSE}: AES256\r\n"
    kms = Encryption("aws:kms", "k", context=CONTEXT, bucket_key=True)
    assert e.encryption_lines(kms) == (
        f"{SSE}: aws:kms\r\n{SSE}-aws-kms-key-id: k\r\n{SSE}-bucket-key-enabled: true\r\n"
    )
    assert f"{SSE}-context: {CONTEXT}\r\n" in e.encryption_lines(kms, context=True)
    customer = e.customer_key(raw(trio()))
    assert customer is not None
    assert (
        e.encryption_lines(Encryption("SSE-C"), customer) == f"{C}algorithm: AES256\r\n{C}key-md5: {customer.md5}\r\n"
    )


@given(text=st.text(max_size=40), binary=st.binary(max_size=40))
def test_whatever_is_sent_is_read_or_refused(text: str, binary: bytes) -> None:
    for value in (binary, base64.b64encode(binary), text.encode()):
        for name in e.ASKING:
            for base in ({}, {e.SSE: b"aws:kms"}, raw(trio())):
                try:
                    e.asked({**base, name: value}, e.NO_DEFAULT, RING)
                except S3Error:
                    pass
    try:
        e.parse_default_encryption(text)
    except S3Error:
        pass
