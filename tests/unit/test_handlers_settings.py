"""The documents of buckets through the handlers: what is kept, read back, refused and removed."""

from __future__ import annotations

import pytest

from s3api import acl, settings, xml
from s3api.encryption import DefaultEncryption, parse_default_encryption
from s3api.handlers.settings import DOCUMENT_BYTES_MAX, SETTINGS
from s3api.operations import BY_NAME
from tests.unit.handler_harness import Harness

NS = f'xmlns="{xml.NAMESPACE}"'


@pytest.fixture
def s3() -> Harness:
    harness = Harness()
    harness("PUT", "/bucket")
    return harness


def tagging(*pairs: tuple[str, str]) -> str:
    tags = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in pairs)
    return f"<Tagging><TagSet>{tags}</TagSet></Tagging>"


def cors(rule: str) -> str:
    return f"<CORSConfiguration><CORSRule>{rule}</CORSRule></CORSConfiguration>"


UNBLOCKED = "<BlockedEncryptionTypes><EncryptionType>NONE</EncryptionType></BlockedEncryptionTypes>"


def encryption(default: str, rest: str = "") -> str:
    inner = f"<ApplyServerSideEncryptionByDefault>{default}</ApplyServerSideEncryptionByDefault>{rest}"
    return f"<ServerSideEncryptionConfiguration><Rule>{inner}</Rule></ServerSideEncryptionConfiguration>"


def ownership(value: str) -> str:
    rule = f"<Rule><ObjectOwnership>{value}</ObjectOwnership></Rule>"
    return f"<OwnershipControls>{rule}</OwnershipControls>"


def blocks(inner: str) -> str:
    return f"<PublicAccessBlockConfiguration>{inner}</PublicAccessBlockConfiguration>"


def logging(inner: str) -> str:
    return f"<BucketLoggingStatus><LoggingEnabled>{inner}</LoggingEnabled></BucketLoggingStatus>"


def granted(kind: str, who: str, permission: str = "READ") -> str:
    grantee = f'<Grantee xmlns:xsi="{acl.XSI}" xsi:type="{kind}">{who}</Grantee>'
    return f"<TargetGrants><Grant>{grantee}<Permission>{permission}</Permission></Grant></TargetGrants>"


MINIMAL = "<AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>"
PAYER = "<RequestPaymentConfiguration><Payer>{}</Payer></RequestPaymentConfiguration>"
ACCELERATE = "<AccelerateConfiguration><Status>{}</Status></AccelerateConfiguration>"
ABAC = "<AbacStatus><Status>{}</Status></AbacStatus>"
TARGET = "<TargetBucket>bucket</TargetBucket><TargetPrefix>logs/</TargetPrefix>"

KEPT = [
    ("tagging", tagging(("team", "ml"), ("empty", "")), tagging(("team", "ml"), ("empty", ""))),
    (
        "cors",
        cors("<AllowedMethod>GET</AllowedMethod><AllowedOrigin>http://*.x</AllowedOrigin><AllowedOrigin>b</AllowedOrigin>"
             "<ID>one</ID><MaxAgeSeconds>9</MaxAgeSeconds><ExposeHeader>ETag</ExposeHeader><AllowedHeader>*</AllowedHeader>"),
        cors("<ID>one</ID><AllowedHeader>*</AllowedHeader><AllowedMethod>GET</AllowedMethod>"
             "<AllowedOrigin>http://*.x</AllowedOrigin><AllowedOrigin>b</AllowedOrigin>"
             "<ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>9</MaxAgeSeconds>"),
    ),
    ("cors", cors("<AllowedOrigin/><AllowedMethod>GET</AllowedMethod>"),
     cors("<AllowedMethod>GET</AllowedMethod><AllowedOrigin></AllowedOrigin>")),
    ("encryption", encryption("<SSEAlgorithm>AES256</SSEAlgorithm>"),
     encryption("<SSEAlgorithm>AES256</SSEAlgorithm>", "<BucketKeyEnabled>false</BucketKeyEnabled>")),
    ("encryption", encryption("<KMSMasterKeyID>k1</KMSMasterKeyID><SSEAlgorithm>aws:kms</SSEAlgorithm>",
                              "<BucketKeyEnabled>TRUE</BucketKeyEnabled>" + UNBLOCKED),
     encryption("<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>k1</KMSMasterKeyID>",
                "<BucketKeyEnabled>true</BucketKeyEnabled>")),
    ("ownershipControls", ownership("ObjectWriter"), ownership("ObjectWriter")),
    ("publicAccessBlock", blocks("<BlockPublicPolicy>true</BlockPublicPolicy>"),
     blocks("<BlockPublicAcls>false</BlockPublicAcls><IgnorePublicAcls>false</IgnorePublicAcls>"
            "<BlockPublicPolicy>true</BlockPublicPolicy><RestrictPublicBuckets>false</RestrictPublicBuckets>")),
    ("logging", logging(TARGET), logging(TARGET)),
    ("logging", logging(TARGET + "<TargetGrants/><TargetObjectKeyFormat><SimplePrefix/></TargetObjectKeyFormat>"),
     logging(TARGET + "<TargetObjectKeyFormat><SimplePrefix></SimplePrefix></TargetObjectKeyFormat>")),
    ("logging", logging(TARGET + granted("CanonicalUser", "<ID>owner-id</ID><DisplayName>x</DisplayName>")),
     logging(TARGET + granted("CanonicalUser", "<ID>owner-id</ID>"))),
    ("logging",
     logging(TARGET + "<TargetObjectKeyFormat><PartitionedPrefix/></TargetObjectKeyFormat>"),
     logging(TARGET + "<TargetObjectKeyFormat><PartitionedPrefix><PartitionDateSource>DeliveryTime</PartitionDateSource>"
                      "</PartitionedPrefix></TargetObjectKeyFormat>")),
    ("requestPayment", PAYER.format("Requester"), PAYER.format("Requester")),
    ("accelerate", ACCELERATE.format("Suspended"), ACCELERATE.format("Suspended")),
    ("abac", ABAC.format("Disabled"), ABAC.format("Disabled")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sent", "kept"), KEPT)
def test_a_document_is_read_back_as_aws_writes_it(s3: Harness, name: str, sent: str, kept: str) -> None:
    reply = s3("PUT", f"/bucket?{name}", {}, sent.encode())
    assert reply.status == 200, reply.body
    reply = s3("GET", f"/bucket?{name}")
    root, tag, rest = kept.partition(">")
    assert reply.body.decode() == f"{xml.HEAD}{root} {NS}{tag}{rest}"
    assert reply.headers == {"content-type": "application/xml"}
    assert s3("PUT", f"/bucket?{name}", {}, reply.body).status == 200
    assert s3("GET", f"/bucket?{name}").body == reply.body


UNSET = {
    "tagging": "NoSuchTagSet",
    "cors": "NoSuchCORSConfiguration",
    "encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "ownershipControls": "OwnershipControlsNotFoundError",
    "publicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
}


@pytest.mark.parametrize("name", UNSET)
def test_what_is_removed_is_as_never_set(s3: Harness, name: str) -> None:
    kept = next(sent for each, sent, _ in KEPT if each == name)
    for _ in range(2):
        reply = s3("GET", f"/bucket?{name}")
        assert (reply.status, reply.code, reply.fields) == (404, UNSET[name], {"BucketName": "bucket"})
        assert s3("PUT", f"/bucket?{name}", {}, kept.encode()).code == ""
        assert s3("DELETE", f"/bucket?{name}").status == 204
        assert s3("DELETE", f"/bucket?{name}").status == 204


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("logging", "<BucketLoggingStatus/>"),
        ("accelerate", "<AccelerateConfiguration/>"),
        ("requestPayment", PAYER.format("BucketOwner")),
        ("abac", ABAC.format("Disabled")),
    ],
)
def test_what_is_never_removed_has_a_blank_document(s3: Harness, name: str, document: str) -> None:
    assert xml.parse(s3("GET", f"/bucket?{name}").body, document.partition(">")[0].strip("</")).own == ""
    assert s3("DELETE", f"/bucket?{name}").code in ("MethodNotAllowed", "InvalidRequest")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_needs_its_bucket_and_its_root(s3: Harness, setting: object) -> None:
    assert hasattr(setting, "name")
    name = BY_NAME[f"Get{setting.name}"].query[0]
    for method in ("GET", "PUT"):
        assert s3(method, f"/none?{name}", {}, b"<x/>" if method == "PUT" else b"").code == "NoSuchBucket"
    assert s3("PUT", f"/bucket?{name}", {}, b"<Other/>").code == "MalformedXML"
    assert s3("PUT", f"/bucket?{name}", {}, b"<").code == "MalformedXML"
    assert s3("PUT", f"/bucket?{name}").code == "MissingRequestBodyError"
    assert s3("PUT", f"/bucket?{name}", {}, b" " * (DOCUMENT_BYTES_MAX + 1)).code == "MaxMessageLengthExceeded"
    assert s3("PUT", f"/bucket?{name}", {"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, b"<x/>").code == "BadDigest"


TAG = ("k", "v")
BAD = [
    ("tagging", "<Tagging/>", "MalformedXML"),
    ("tagging", "<Tagging><Tags/></Tagging>", "MalformedXML"),
    ("tagging", "<Tagging><TagSet><Tag><Key>k</Key></Tag></TagSet></Tagging>", "MalformedXML"),
    ("tagging", "<Tagging><TagSet><Tag><Key>k</Key><Value/><X/></Tag></TagSet></Tagging>", "MalformedXML"),
    ("tagging", tagging(TAG, TAG), "InvalidTag"),
    ("tagging", tagging(("", "v")), "InvalidTag"),
    ("tagging", tagging(("k" * 129, "v")), "InvalidTag"),
    ("tagging", tagging(("k", "v" * 257)), "InvalidTag"),
    ("tagging", tagging(("a,b", "v")), "InvalidTag"),
    ("tagging", tagging(("k", "a,b")), "InvalidTag"),
    ("tagging", tagging(("aws:x", "v")), "InvalidTag"),
    ("tagging", tagging(*((str(number), "") for number in range(51))), "BadRequest"),
    ("cors", "<CORSConfiguration/>", "MalformedXML"),
    ("cors", cors(""), "MalformedXML"),
    ("cors", cors("<AllowedOrigin>*</AllowedOrigin>"), "MalformedXML"),
    ("cors", cors("<AllowedMethod>GET</AllowedMethod>"), "MalformedXML"),
    ("cors", cors(MINIMAL + "<Other/>"), "MalformedXML"),
    ("cors", cors(MINIMAL + "<MaxAgeSeconds>x</MaxAgeSeconds>"), "MalformedXML"),
    ("cors", cors(MINIMAL + "<MaxAgeSeconds>--1</MaxAgeSeconds>"), "MalformedXML"),
    ("cors", cors(MINIMAL + "<MaxAgeSeconds>1</MaxAgeSeconds>" * 2), "MalformedXML"),
    ("cors", cors(MINIMAL + "<ID>a</ID><ID>b</ID>"), "MalformedXML"),
    ("cors", cors(MINIMAL + f"<ID>{'a' * 256}</ID>"), "InvalidRequest"),
    ("cors", cors(MINIMAL + "<AllowedMethod>OPTIONS</AllowedMethod>"), "InvalidRequest"),
    ("cors", cors(MINIMAL + "<AllowedMethod>get</AllowedMethod>"), "InvalidRequest"),
    ("cors", cors(MINIMAL + "<AllowedMethod/>"), "InvalidRequest"),
    ("cors", cors(MINIMAL + "<AllowedOrigin>*a*</AllowedOrigin>"), "InvalidRequest"),
    ("cors", cors(MINIMAL + "<AllowedHeader>*a*</AllowedHeader>"), "InvalidRequest"),
    ("cors", cors(MINIMAL + "<AllowedHeader>a b</AllowedHeader>"), "InvalidRequest"),
    ("cors", cors(MINIMAL + "<ExposeHeader>x-*</ExposeHeader>"), "InvalidRequest"),
    ("cors", cors(MINIMAL + "<ExposeHeader>a\r\nb</ExposeHeader>"), "InvalidRequest"),
    ("cors", f"<CORSConfiguration>{f'<CORSRule>{MINIMAL}</CORSRule>' * 101}</CORSConfiguration>", "InvalidRequest"),
    ("encryption", "<ServerSideEncryptionConfiguration/>", "MalformedXML"),
    ("encryption", "<ServerSideEncryptionConfiguration><Rule/></ServerSideEncryptionConfiguration>", "MalformedXML"),
    ("encryption", encryption(""), "MalformedXML"),
    ("encryption", encryption("<SSEAlgorithm>aes256</SSEAlgorithm>"), "MalformedXML"),
    ("encryption", encryption("<SSEAlgorithm>aws:kms:dsse</SSEAlgorithm>"), "NotImplemented"),
    ("encryption", encryption("<SSEAlgorithm>AES256</SSEAlgorithm><KMSMasterKeyID>k</KMSMasterKeyID>"), "InvalidArgument"),
    ("encryption", encryption("<SSEAlgorithm>AES256</SSEAlgorithm>", "<BucketKeyEnabled>1</BucketKeyEnabled>"), "MalformedXML"),
    ("encryption", encryption("<SSEAlgorithm>AES256</SSEAlgorithm>").replace("<Rule>", "<Rule/><Rule>"), "MalformedXML"),
    ("encryption", encryption("<SSEAlgorithm>AES256</SSEAlgorithm>",
     "<BlockedEncryptionTypes><EncryptionType>SSE-X</EncryptionType></BlockedEncryptionTypes>"), "MalformedXML"),
    ("ownershipControls", "<OwnershipControls/>", "MalformedXML"),
    ("ownershipControls", "<OwnershipControls><Rule/></OwnershipControls>", "MalformedXML"),
    ("ownershipControls", ownership("Other"), "MalformedXML"),
    ("ownershipControls", ownership("ObjectWriter").replace("<Rule>", "<Rule/><Rule>"), "MalformedXML"),
    ("publicAccessBlock", blocks(""), "InvalidRequest"),
    ("publicAccessBlock", blocks("<BlockPublicAcls>yes</BlockPublicAcls>"), "MalformedXML"),
    ("publicAccessBlock", blocks("<BlockAll>true</BlockAll>"), "MalformedXML"),
    ("logging", "<BucketLoggingStatus><Other/></BucketLoggingStatus>", "MalformedXML"),
    ("logging", logging("<TargetBucket>bucket</TargetBucket>"), "MalformedXML"),
    ("logging", logging("<TargetPrefix/>"), "MalformedXML"),
    ("logging", logging(TARGET.replace(">bucket", ">none")), "InvalidTargetBucketForLogging"),
    ("logging", logging(TARGET + "<TargetGrants><Grant/></TargetGrants>"), "MalformedXML"),
    ("logging", logging(TARGET + granted("CanonicalUser", "<ID>owner-id</ID>", "READ_ACP")), "MalformedXML"),
    ("logging", logging(TARGET + granted("CanonicalUser", "<ID>nobody</ID>")), "InvalidArgument"),
    ("logging", logging(TARGET + granted("CanonicalUser", "<URI>x</URI>")), "MalformedXML"),
    ("logging", logging(TARGET + granted("Group", "<URI>http://x</URI>")), "InvalidArgument"),
    ("logging", logging(TARGET + granted("AmazonCustomerByEmail", "<EmailAddress>a</EmailAddress>")), "NotImplemented"),
    ("logging", logging(TARGET + "<TargetObjectKeyFormat/>"), "MalformedXML"),
    ("requestPayment", PAYER.format("Nobody"), "MalformedXML"),
    ("requestPayment", "<RequestPaymentConfiguration/>", "MalformedXML"),
    ("accelerate", ACCELERATE.format("enabled"), "MalformedXML"),
    ("abac", ABAC.format("Enabled"), "NotImplemented"),
    ("abac", ABAC.format("x"), "MalformedXML"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sent", "code"), BAD)
def test_what_is_refused_is_not_kept(s3: Harness, name: str, sent: str, code: str) -> None:
    before = s3("GET", f"/bucket?{name}").body
    assert s3("PUT", f"/bucket?{name}", {}, sent.encode()).code == code
    assert s3("GET", f"/bucket?{name}").body == before


def test_empty_documents_unset(s3: Harness) -> None:
    for name, full, empty, unset in (
        ("tagging", tagging(TAG), tagging(), "NoSuchTagSet"),
        ("logging", logging(TARGET), "<BucketLoggingStatus/>", ""),
    ):
        assert s3("PUT", f"/bucket?{name}", {}, full.encode()).code == ""
        assert s3("PUT", f"/bucket?{name}", {}, empty.encode()).code == ""
        assert s3("GET", f"/bucket?{name}").code == unset
        assert name not in s3.store.bucket("bucket").documents


def test_acceleration_is_not_for_names_with_dots(s3: Harness) -> None:
    s3("PUT", "/a.bucket")
    assert s3("PUT", "/a.bucket?accelerate", {}, ACCELERATE.format("Enabled").encode()).code == "InvalidRequest"


def test_what_cannot_be_set_is_removed_without_a_word(s3: Harness) -> None:
    for name in ("website", "replication"):
        assert s3("DELETE", f"/bucket?{name}").status == 204
        assert s3("DELETE", f"/none?{name}").code == "NoSuchBucket"


def stored(s3: Harness, name: str, sent: str) -> str:
    assert s3("PUT", f"/bucket?{name}", {}, sent.encode()).code == ""
    return s3.store.bucket("bucket").documents[name]


def test_stored_documents_are_read(s3: Harness) -> None:
    assert stored(s3, "ownershipControls", ownership("ObjectWriter")) == "ObjectWriter"
    two = "<RestrictPublicBuckets>true</RestrictPublicBuckets><BlockPublicAcls>true</BlockPublicAcls>"
    assert stored(s3, "publicAccessBlock", blocks(two)) == "BlockPublicAcls RestrictPublicBuckets"
    assert stored(s3, "publicAccessBlock", blocks("<BlockPublicAcls>false</BlockPublicAcls>")) == ""
    assert s3("GET", "/bucket?publicAccessBlock").status == 200
    kms = encryption("<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>k1</KMSMasterKeyID>")
    assert parse_default_encryption(stored(s3, "encryption", kms)) == DefaultEncryption("aws:kms", "k1")
    assert settings.bucket_logging(stored(s3, "logging", logging(TARGET))) == settings.Logging("bucket", "logs/")
    assert settings.bucket_logging("") is None
    users = "<URI>http://acs.amazonaws.com/groups/global/AuthenticatedUsers</URI>"
    found = settings.bucket_logging(stored(s3, "logging", logging(TARGET + granted("Group", users))))
    assert found == settings.Logging("bucket", "logs/", acl="F R+")


def test_a_log_grants_nothing_where_lists_do_not_count(s3: Harness) -> None:
    s3("PUT", "/bucket?ownershipControls", {}, ownership("BucketOwnerEnforced").encode())
    sent = logging(TARGET + granted("CanonicalUser", "<ID>owner-id</ID>"))
    assert s3("PUT", "/bucket?logging", {}, sent.encode()).code == "AccessControlListNotSupported"
    assert s3("PUT", "/bucket?logging", {}, logging(TARGET).encode()).status == 200
