"""Object lock over the handlers: configuration, retention, legal hold, defaults, and what they forbid."""

from __future__ import annotations

import base64
import hashlib

import pytest

from s3api.access import OneAccount, Rights
from s3api.call import Call
from s3api.moment import iso_moment
from tests.unit.handler_harness import ROOT, Harness, Reply
from tiering.contract import ObjectInfo

DAY_MS = 86_400_000
GOVERNANCE = "x-amz-object-lock-mode"
UNTIL = "x-amz-object-lock-retain-until-date"
HOLD = "x-amz-object-lock-legal-hold"
BYPASS = {"x-amz-bypass-governance-retention": "true"}


def md5(body: bytes) -> dict[str, str]:
    return {"content-md5": base64.b64encode(hashlib.md5(body).digest()).decode()}


def send(s3: Harness, path: str, text: str, headers: dict[str, str] | None = None) -> Reply:
    body = text.encode()
    return s3("PUT", path, {**md5(body), **(headers or {})}, body)


def put(s3: Harness, path: str, headers: dict[str, str] | None = None) -> str:
    reply = s3("PUT", path, {**md5(b"data"), **(headers or {})}, b"data")
    assert reply.status == 200, reply.body
    return reply.headers.get("x-amz-version-id", "")


def moment(s3: Harness, days: float) -> str:
    return iso_moment(s3.clock.now_ms() + int(days * DAY_MS))


def retention(s3: Harness, mode: str, days: float) -> str:
    return f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{moment(s3, days)}</RetainUntilDate></Retention>"


def default(period: str, mode: str = "GOVERNANCE") -> str:
    return (
        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
        f"<Mode>{mode}</Mode>{period}</DefaultRetention></Rule></ObjectLockConfiguration>"
    )


ON = "<LegalHold><Status>ON</Status></LegalHold>"
OFF = "<LegalHold><Status>OFF</Status></LegalHold>"


@pytest.fixture
def s3() -> Harness:
    """`locked` has object lock, `plain` has not."""
    harness = Harness()
    assert harness("PUT", "/plain").status == 200
    assert harness("PUT", "/locked", {"x-amz-bucket-object-lock-enabled": "true"}).status == 200
    return harness


# -- the bucket


def test_a_bucket_made_with_object_lock_keeps_versions(s3: Harness) -> None:
    assert s3("GET", "/locked?versioning").xml("VersioningConfiguration").text("Status") == "Enabled"
    root = s3("GET", "/locked?object-lock").xml("ObjectLockConfiguration")
    assert (root.text("ObjectLockEnabled"), root.find("Rule")) == ("Enabled", None)
    body = b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"
    refused = s3("PUT", "/locked?versioning", {}, body)
    assert (refused.status, refused.code) == (409, "InvalidBucketState")


def test_made_without_it_says_so(s3: Harness) -> None:
    assert s3("PUT", "/other", {"x-amz-bucket-object-lock-enabled": "false"}).status == 200
    for bucket in ("plain", "other"):
        missing = s3("GET", f"/{bucket}?object-lock")
        assert (missing.status, missing.code) == (404, "ObjectLockConfigurationNotFoundError")
    assert s3("PUT", "/third", {"x-amz-bucket-object-lock-enabled": "yes"}).code == "InvalidArgument"
    refused = s3("PUT", "/kv-one", {"x-amz-bucket-object-lock-enabled": "true", "x-recall-pool": "kv"})
    assert refused.code == "InvalidBucketState"
    assert s3("GET", "/none?object-lock").code == "NoSuchBucket"


def test_object_lock_is_enabled_later_once_there_are_versions(s3: Harness) -> None:
    refused = send(s3, "/plain?object-lock", default("<Days>1</Days>"))
    assert (refused.status, refused.code) == (409, "InvalidBucketState")
    s3("PUT", "/plain?versioning", {}, b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
    assert send(s3, "/plain?object-lock", default("<Days>1</Days>")).status == 200
    root = s3("GET", "/plain?object-lock").xml("ObjectLockConfiguration")
    (rule,) = root.all("Rule")
    (kept,) = rule.all("DefaultRetention")
    assert [(child.name, child.own) for child in kept.children] == [("Mode", "GOVERNANCE"), ("Days", "1")]


def test_configuration_is_replaced_whole(s3: Harness) -> None:
    send(s3, "/locked?object-lock", default("<Years>1</Years>", "COMPLIANCE"))
    bare = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
    assert send(s3, "/locked?object-lock", bare).status == 200
    assert s3("GET", "/locked?object-lock").xml("ObjectLockConfiguration").find("Rule") is None
    assert send(s3, "/locked?object-lock", default("<Days>0</Days>")).code == "InvalidArgument"
    assert send(s3, "/locked?object-lock", default("<Days>1</Days><Years>1</Years>")).code == "MalformedXML"
    assert s3("PUT", "/locked?object-lock", {}, bare.encode()).code == "InvalidRequest"  # without Content-MD5
    assert send(s3, "/none?object-lock", bare).code == "NoSuchBucket"


# -- writing


def test_put_with_a_lock(s3: Harness) -> None:
    until = moment(s3, 1)
    put(s3, "/locked/k", {GOVERNANCE: "GOVERNANCE", UNTIL: until, HOLD: "ON"})
    for method in ("GET", "HEAD"):
        headers = s3(method, "/locked/k").headers
        assert (headers[GOVERNANCE], headers[UNTIL], headers[HOLD]) == ("GOVERNANCE", until, "ON")
    put(s3, "/locked/k")
    assert not {GOVERNANCE, UNTIL, HOLD} & s3("HEAD", "/locked/k").headers.keys()


@pytest.mark.parametrize(
    ("bucket", "headers", "code"),
    [
        ("plain", {HOLD: "ON"}, "InvalidRequest"),
        ("plain", {GOVERNANCE: "GOVERNANCE", UNTIL: "2999-01-01T00:00:00Z"}, "InvalidRequest"),
        ("locked", {GOVERNANCE: "GOVERNANCE"}, "InvalidArgument"),
        ("locked", {UNTIL: "2999-01-01T00:00:00Z"}, "InvalidArgument"),
        ("locked", {GOVERNANCE: "GOVERNANCE", UNTIL: "1999-01-01T00:00:00Z"}, "InvalidArgument"),
        ("locked", {GOVERNANCE: "LOOSE", UNTIL: "2999-01-01T00:00:00Z"}, "InvalidArgument"),
        ("locked", {HOLD: "MAYBE"}, "InvalidArgument"),
    ],
)
def test_bad_locks_store_nothing(s3: Harness, bucket: str, headers: dict[str, str], code: str) -> None:
    sent = {**md5(b"data"), **headers}
    assert s3("PUT", f"/{bucket}/k", sent, b"data").code == code
    assert s3("POST", f"/{bucket}/k?uploads", headers).code == code
    s3("PUT", f"/{bucket}/source", {}, b"data")
    assert s3("PUT", f"/{bucket}/k", {"x-amz-copy-source": f"{bucket}/source", **headers}).code == code
    assert s3("HEAD", f"/{bucket}/k").status == 404


def test_a_locking_put_needs_a_checksum(s3: Harness) -> None:
    refused = s3("PUT", "/locked/k", {HOLD: "ON"}, b"data")
    assert refused.code == "InvalidRequest" and b"Content-MD5" in refused.body
    unsigned = {HOLD: "ON", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    assert s3("PUT", "/locked/k", unsigned, b"data").code == "InvalidRequest"
    signed = {HOLD: "ON", "x-amz-content-sha256": hashlib.sha256(b"data").hexdigest()}
    assert s3("PUT", "/locked/k", signed, b"data").status == 200
    assert s3("PUT", "/locked/k", {HOLD: "ON", "x-amz-checksum-crc32": "rfPzYw=="}, b"data").status == 200


def test_a_default_that_comes_while_an_upload_is_under_way_holds_for_its_object(s3: Harness) -> None:
    begun = [s3("POST", f"/locked/{key}?uploads", {HOLD: hold}) for key, hold in (("a", "ON"), ("b", "OFF"))]
    uploads = [each.xml("InitiateMultipartUploadResult").text("UploadId") for each in begun]
    assert send(s3, "/locked?object-lock", default("<Days>2</Days>", "COMPLIANCE")).status == 200
    for key, upload in zip("ab", uploads, strict=True):
        etag = s3("PUT", f"/locked/{key}?partNumber=1&uploadId={upload}", {}, b"data").headers["etag"]
        body = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
        version = s3("POST", f"/locked/{key}?uploadId={upload}", {}, body.encode()).headers["x-amz-version-id"]
        found = s3("HEAD", f"/locked/{key}").headers
        assert (found[GOVERNANCE], found[UNTIL]) == ("COMPLIANCE", moment(s3, 2))
        assert found[HOLD] == ("ON" if key == "a" else "OFF")
        assert s3("DELETE", f"/locked/{key}?versionId={version}").status == 403


def test_copies_and_uploads_have_their_own_lock(s3: Harness) -> None:
    until = moment(s3, 1)
    lock = {GOVERNANCE: "GOVERNANCE", UNTIL: until}
    put(s3, "/locked/k", lock)
    assert s3("PUT", "/locked/bare", {"x-amz-copy-source": "locked/k"}).status == 200
    assert GOVERNANCE not in s3("HEAD", "/locked/bare").headers
    for directive in ("COPY", "REPLACE"):
        headers = {"x-amz-copy-source": "locked/k", "x-amz-metadata-directive": directive, **lock}
        assert s3("PUT", "/locked/copied", headers).status == 200
        assert s3("HEAD", "/locked/copied").headers[UNTIL] == until
    begun = s3("POST", "/locked/parts?uploads", {**lock, HOLD: "ON"})
    upload = begun.xml("InitiateMultipartUploadResult").text("UploadId")
    etag = s3("PUT", f"/locked/parts?partNumber=1&uploadId={upload}", {}, b"data").headers["etag"]
    body = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    )
    assert s3("POST", f"/locked/parts?uploadId={upload}", {}, body.encode()).status == 200
    headers = s3("HEAD", "/locked/parts").headers
    assert (headers[GOVERNANCE], headers[UNTIL], headers[HOLD]) == ("GOVERNANCE", until, "ON")


def test_the_default_is_for_objects_that_name_no_retention(s3: Harness) -> None:
    send(s3, "/locked?object-lock", default("<Days>2</Days>", "COMPLIANCE"))
    put(s3, "/locked/k")
    assert s3("HEAD", "/locked/k").headers[GOVERNANCE] == "COMPLIANCE"
    assert s3("HEAD", "/locked/k").headers[UNTIL] == moment(s3, 2)
    put(s3, "/locked/own", {GOVERNANCE: "GOVERNANCE", UNTIL: moment(s3, 1)})
    assert s3("HEAD", "/locked/own").headers[GOVERNANCE] == "GOVERNANCE"
    put(s3, "/locked/held", {HOLD: "ON"})
    headers = s3("HEAD", "/locked/held").headers
    assert (headers[GOVERNANCE], headers[HOLD]) == ("COMPLIANCE", "ON")
    s3("PUT", "/locked/copied", {"x-amz-copy-source": "locked/k"})
    assert s3("HEAD", "/locked/copied").headers[UNTIL] == moment(s3, 2)


# -- retention and legal hold of what stands


def test_retention_is_set_and_told(s3: Harness) -> None:
    version = put(s3, "/locked/k")
    missing = s3("GET", "/locked/k?retention")
    assert (missing.status, missing.code) == (404, "NoSuchObjectLockConfiguration")
    assert send(s3, "/locked/k?retention", retention(s3, "GOVERNANCE", 1)).status == 200
    root = s3("GET", f"/locked/k?retention&versionId={version}").xml("Retention")
    assert (root.text("Mode"), root.text("RetainUntilDate")) == ("GOVERNANCE", moment(s3, 1))
    assert send(s3, "/locked/k?retention", retention(s3, "GOVERNANCE", 2)).status == 200
    shorter = send(s3, "/locked/k?retention", retention(s3, "GOVERNANCE", 1))
    assert (shorter.status, shorter.code) == (403, "AccessDenied")
    assert send(s3, "/locked/k?retention", "<Retention/>").code == "AccessDenied"
    assert send(s3, "/locked/k?retention", retention(s3, "COMPLIANCE", 2)).code == "AccessDenied"
    assert send(s3, "/locked/k?retention", retention(s3, "GOVERNANCE", 1), BYPASS).status == 200
    assert send(s3, "/locked/k?retention", "<Retention/>", BYPASS).status == 200
    assert s3("GET", "/locked/k?retention").code == "NoSuchObjectLockConfiguration"
    assert send(s3, "/locked/k?retention", retention(s3, "COMPLIANCE", 1)).status == 200
    assert send(s3, "/locked/k?retention", retention(s3, "GOVERNANCE", 2), BYPASS).code == "AccessDenied"
    assert send(s3, "/locked/k?retention", retention(s3, "COMPLIANCE", 2)).status == 200


def test_legal_hold_is_set_and_told(s3: Harness) -> None:
    version = put(s3, "/locked/k")
    assert s3("GET", "/locked/k?legal-hold").code == "NoSuchObjectLockConfiguration"
    assert send(s3, "/locked/k?legal-hold", ON).status == 200
    assert s3("GET", "/locked/k?legal-hold").xml("LegalHold").text("Status") == "ON"
    assert s3("DELETE", f"/locked/k?versionId={version}", BYPASS).code == "AccessDenied"
    assert send(s3, f"/locked/k?legal-hold&versionId={version}", OFF).status == 200
    assert s3("GET", f"/locked/k?legal-hold&versionId={version}").xml("LegalHold").text("Status") == "OFF"
    assert s3("HEAD", "/locked/k").headers[HOLD] == "OFF"
    assert s3("DELETE", f"/locked/k?versionId={version}").status == 204


@pytest.mark.parametrize("sub", ["retention", "legal-hold"])
def test_locks_of_what_cannot_have_one(s3: Harness, sub: str) -> None:
    text = ON if sub == "legal-hold" else retention(s3, "GOVERNANCE", 1)
    put(s3, "/plain/k")
    for reply in (send(s3, f"/plain/k?{sub}", text), s3("GET", f"/plain/k?{sub}")):
        assert (reply.status, reply.code) == (400, "InvalidRequest")
    for reply in (
        send(s3, f"/locked/none?{sub}", text),
        s3("GET", f"/locked/none?{sub}"),
        s3("GET", f"/plain/none?{sub}"),
    ):
        assert reply.code == "NoSuchKey"
    for reply in (send(s3, f"/none/k?{sub}", text), s3("GET", f"/none/k?{sub}")):
        assert reply.code == "NoSuchBucket"
    for version, code in (("3", "InvalidArgument"), ("", "InvalidArgument"), ("0" * 32, "NoSuchVersion")):
        for reply in (
            send(s3, f"/locked/k?{sub}&versionId={version}", text),
            s3("GET", f"/locked/k?{sub}&versionId={version}"),
        ):
            assert reply.code == code
    put(s3, "/locked/k")
    marker = s3("DELETE", "/locked/k").headers["x-amz-version-id"]
    assert send(s3, f"/locked/k?{sub}&versionId={marker}", text).status == 405
    assert send(s3, f"/locked/k?{sub}", text).status == 404
    assert send(s3, f"/locked/k?{sub}", "").code == "MalformedXML"
    assert s3("PUT", f"/locked/k?{sub}", {}, text.encode()).code == "InvalidRequest"  # without Content-MD5


# -- what a lock forbids


def test_locked_versions_cannot_be_deleted(s3: Harness) -> None:
    version = put(s3, "/locked/k", {GOVERNANCE: "GOVERNANCE", UNTIL: moment(s3, 1)})
    path = f"/locked/k?versionId={version}"
    refused = s3("DELETE", path)
    assert (refused.status, refused.code) == (403, "AccessDenied") and b"object lock" in refused.body
    body = f"<Delete><Object><Key>k</Key><VersionId>{version}</VersionId></Object></Delete>".encode()
    many = s3("POST", "/locked?delete", md5(body), body).xml("DeleteResult")
    assert [each.text("Code") for each in many.all("Error")] == ["AccessDenied"]
    marker = s3("DELETE", "/locked/k").headers["x-amz-version-id"]
    assert s3("DELETE", f"/locked/k?versionId={marker}").status == 204
    assert s3("DELETE", path, {"x-amz-bypass-governance-retention": "false"}).code == "AccessDenied"
    many = s3("POST", "/locked?delete", {**md5(body), **BYPASS}, body).xml("DeleteResult")
    assert len(many.all("Deleted")) == 1
    version = put(s3, "/locked/k", {GOVERNANCE: "COMPLIANCE", UNTIL: moment(s3, 1)})
    assert s3("DELETE", f"/locked/k?versionId={version}", BYPASS).code == "AccessDenied"
    s3.clock.advance(DAY_MS + 1)
    assert s3("DELETE", f"/locked/k?versionId={version}").status == 204


def test_governance_can_only_be_bypassed_where_there_is_object_lock(s3: Harness) -> None:
    put(s3, "/plain/k")
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    for said in ("true", "false"):
        bypass = {"x-amz-bypass-governance-retention": said}
        reply = s3("DELETE", "/plain/k", bypass)
        assert (reply.code, reply.fields["ArgumentName"]) == ("InvalidArgument", "x-amz-bypass-governance-retention")
        assert s3("HEAD", "/plain/k").status == 200
    assert b"<Deleted>" in s3("POST", "/plain?delete", {**md5(body), **bypass}, body).body


class Refusing(Rights):
    """Denies some actions, and allows all others."""

    def __init__(self, *denied: str) -> None:
        super().__init__(OneAccount(ROOT))
        self.denied = denied

    def allows(self, call: Call, action: str, bucket: str, key: str = "", info: ObjectInfo | None = None) -> bool:
        return action not in self.denied

    def judge_unbound(self, call: Call, action: str, resource: str) -> bool:
        return action not in self.denied


def test_rights_beyond_the_operation(s3: Harness) -> None:
    version = put(s3, "/locked/k", {GOVERNANCE: "GOVERNANCE", UNTIL: moment(s3, 1), HOLD: "OFF"})
    s3.access = Refusing("s3:BypassGovernanceRetention")
    assert s3("DELETE", f"/locked/k?versionId={version}", BYPASS).code == "AccessDenied"
    assert send(s3, "/locked/k?retention", "<Retention/>", BYPASS).code == "AccessDenied"
    s3.access = Refusing("s3:GetObjectRetention")
    assert HOLD in s3("HEAD", "/locked/k").headers and GOVERNANCE not in s3("HEAD", "/locked/k").headers
    s3.access = Refusing("s3:GetObjectLegalHold")
    assert HOLD not in s3("HEAD", "/locked/k").headers and GOVERNANCE in s3("HEAD", "/locked/k").headers
    s3.access = Refusing("s3:PutObjectLegalHold")
    assert s3("PUT", "/locked/k", {**md5(b"data"), HOLD: "ON"}, b"data").code == "AccessDenied"
    s3.access = Refusing("s3:PutObjectRetention")
    lock = {GOVERNANCE: "GOVERNANCE", UNTIL: moment(s3, 1)}
    assert s3("PUT", "/locked/k", {**md5(b"data"), **lock}, b"data").code == "AccessDenied"
    s3.access = Refusing("s3:PutBucketObjectLockConfiguration")
    assert s3("PUT", "/another", {"x-amz-bucket-object-lock-enabled": "true"}).code == "AccessDenied"
    s3.access = Refusing("s3:DeleteObjectVersion")
    body = (
        f"<Delete><Object><Key>k</Key><VersionId>{version}</VersionId></Object><Object><Key>k</Key></Object></Delete>"
    )
    many = s3("POST", "/locked?delete", md5(body.encode()), body.encode()).xml("DeleteResult")
    assert ([each.text("Code") for each in many.all("Error")], len(many.all("Deleted"))) == (["AccessDenied"], 1)
