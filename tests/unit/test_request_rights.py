"""Rights on whole requests: the pipeline with its real handlers over the memory store, and several who ask."""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from s3api import acl
from s3api.config import ApiConfig
from s3api.handlers import HANDLERS
from s3api.identity import Identity
from s3api.message import Request
from s3api.operations import TABLE, Operation
from s3api.pipeline import Pipeline
from s3api.sigv4 import presign, sign_headers
from tests.support.clock import NEW_YEAR_MS, ManualClock
from tests.unit.handler_harness import Body, Reply, content_of
from tests.unit.test_access import People, policy, text
from tiering.contract import (
    BucketChange,
    BucketInfo,
    ListOptions,
    ListVersionsOptions,
    Lock,
    PutOptions,
    PutResult,
    ReadOptions,
)
from tiering.memory import MemoryStore

MAIN = "1" * 12
ALT = "2" * 12


def someone(name: str, *, owner: str = "", root: bool = False) -> Identity:
    account = ALT if owner else MAIN
    arn = f"arn:aws:iam::{account}:{'root' if root else 'user/' + name}"
    return Identity(
        name, "topsecret", owner or "main-id", root=root, owner=owner, account_id=account, arn=arn,
        user_name="" if root else name,
    )  # fmt: skip


WHO = {
    each.access_key: each
    for each in (someone("main", root=True), someone("user"), someone("alt", owner="alt-id", root=True))
}


class Edge:
    """A gateway of two accounts, and a user of the first without policies; the bucket `b` is the first's."""

    def __init__(self, versioning: str = "", **documents: str) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        asyncio.run(self.store.create_bucket(BucketInfo(name="b", created_ms=0, pool="")))
        change = BucketChange(documents, versioning=versioning) if versioning else BucketChange(documents)
        asyncio.run(self.store.change_bucket("b", change))
        self.pipeline = Pipeline(self.store, ApiConfig(), WHO.get, HANDLERS, self.clock, directory=People())

    def put(self, key: str, data: bytes = b"data", **options: Any) -> str:
        writer: Any = self.store.put("b", key, len(data), PutOptions(**options))
        writer.write(data)
        return str(asyncio.run(writer.commit(PutResult())).version)

    def versions(self) -> list[tuple[str, str, bool]]:
        found = self.store.list_versions("b", ListVersionsOptions()).versions
        return [(each.key, each.info.version, each.info.marker) for each in found]

    def allow(self, who: Any, *actions: str, **fields: Any) -> None:
        statement = policy(action=list(actions), principal=who, **fields)  # type: ignore[arg-type]  # a list of them
        asyncio.run(self.store.change_bucket("b", BucketChange({"policy": text(statement)})))

    def __call__(
        self,
        who: str,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        return asyncio.run(self.send(self.request(who, method, path, headers, body)))

    def request(
        self, who: str, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Request:
        raw_path, _, query = path.encode().partition(b"?")
        raw = {b"host": b"h:9000"} | {name.encode(): value.encode() for name, value in (headers or {}).items()}
        if method in ("PUT", "POST"):
            raw.setdefault(b"content-length", b"%d" % len(body))
        if who:
            now_s = NEW_YEAR_MS // 1000
            raw = sign_headers(method, raw_path, query, raw, access_key=who, secret_key="topsecret", now_s=now_s)
        return Request(method, raw_path, query, raw, Body(body))

    async def send(self, request: Request) -> Reply:
        handled = self.pipeline.handle(request)
        response = await handled if inspect.isawaitable(handled) else handled
        content = await content_of(response.body)
        _, _, rest = content.partition(b"<Code>")
        code = rest.partition(b"</Code>")[0].decode() if response.status >= 300 else ""
        return Reply(response.status, response.headers, content, response.length, code)


USER = {"AWS": f"arn:aws:iam::{MAIN}:user/user"}


# --- deleting what is not there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["", "alt"])
def test_who_may_only_list_cannot_hide_keys_that_are_not_there(who: str) -> None:
    edge = Edge("Enabled", acl="F R*")
    assert edge(who, "DELETE", "/b/none").status == 403
    assert edge.versions() == []


def test_user_who_may_only_list_cannot_hide_keys_that_are_not_there() -> None:
    edge = Edge("Enabled", acl="F R*")
    edge.allow(USER, "s3:ListBucket")
    assert edge("user", "DELETE", "/b/none").status == 403
    assert edge.versions() == []


def test_whom_a_list_lets_write_may_delete_what_is_not_there() -> None:
    edge = Edge(acl="F W*")
    assert edge("alt", "DELETE", "/b/none").status == 204
    assert edge("", "DELETE", "/b/none").status == 204


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/b/k"), ("GET", "/b/k?acl"), ("PUT", "/b/k?acl"), ("DELETE", "/b/k")]
)
def test_object_that_comes_while_its_caller_is_judged_is_not_touched(
    method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = Edge(acl="F R*")
    looked = edge.store.open

    def missing_once(bucket: str, key: str, options: ReadOptions) -> Any:
        monkeypatch.setattr(edge.store, "open", looked)
        try:
            return looked(bucket, key, options)
        finally:
            edge.store._objects[bucket][key] = kept

    edge.put("k", b"secret")
    kept = edge.store._objects["b"].pop("k")
    monkeypatch.setattr(edge.store, "open", missing_once)
    assert edge("alt", method, path, {"x-amz-acl": "public-read"}).status in (403, 404)
    assert [(info.acl, key) for key, info in edge.store.list("b", ListOptions()).objects] == [("", "k")]


def test_list_goes_to_the_object_that_was_judged_and_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge()
    edge.put("k", owner="alt-id")
    change = edge.store.change

    async def written_first(*arguments: Any) -> Any:
        edge.store._objects["b"].pop("k")
        edge.clock.advance(2)
        writer: Any = edge.store.put("b", "k", 6, PutOptions())
        writer.write(b"secret")
        await writer.commit(PutResult())
        return await change(*arguments)

    monkeypatch.setattr(edge.store, "change", written_first)
    assert edge("alt", "PUT", "/b/k?acl", {"x-amz-acl": "public-read"}).code == "OperationAborted"
    assert edge("", "GET", "/b/k").code == "AccessDenied"


# --- lives and deletes ------------------------------------------------------------------------------------------------


def test_a_deadline_for_a_version_is_the_right_to_delete_it() -> None:
    edge = Edge("Enabled")
    first = edge.put("k")
    edge.put("k", b"newer")
    edge.allow(USER, "s3:PutObject", "s3:PutObjectTagging", "s3:PutObjectVersionTagging", "s3:DeleteObject")
    ttl = {"x-recall-ttl": "1"}
    tags = b"<Tagging><TagSet><Tag><Key>recall:ttl</Key><Value>1</Value></Tag></TagSet></Tagging>"
    touch = json.dumps({"keys": ["k"], "ttl": 1}).encode()
    for path, headers, body in (
        (f"/b/k?recall&versionId={first}", ttl, b""),
        ("/b/k?recall", ttl, b""),
    ):
        assert edge("user", "POST", path, headers, body).code == "AccessDenied"
    for path in ("/b/k?tagging", f"/b/k?tagging&versionId={first}"):
        assert edge("user", "PUT", path, {}, tags).code == "AccessDenied"
    assert json.loads(edge("user", "POST", "/b?recall=touch", {}, touch).body)["objects"][0]["code"] == "AccessDenied"
    edge.clock.advance(5)
    assert len(edge.versions()) == 2
    edge.allow(USER, "s3:PutObject", "s3:PutObjectTagging", "s3:DeleteObjectVersion")
    assert edge("user", "POST", "/b/k?recall", ttl).status == 200
    assert edge("user", "PUT", "/b/k?tagging", {}, tags).status == 200
    assert json.loads(edge("user", "POST", "/b?recall=touch", {}, touch).body)["objects"] == [{}]


def test_tags_that_pin_or_expire_need_the_right_to_write() -> None:
    edge = Edge()
    edge.put("k")
    edge.allow(USER, "s3:PutObjectTagging")
    for tag in ("recall:ttl", "recall:pin"):
        document = f"<Tagging><TagSet><Tag><Key>{tag}</Key><Value>1</Value></Tag></TagSet></Tagging>".encode()
        assert edge("user", "PUT", "/b/k?tagging", {}, document).code == "AccessDenied"
    plain = b"<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    assert edge("user", "PUT", "/b/k?tagging", {}, plain).status == 200
    edge.allow(USER, "s3:PutObjectTagging", "s3:PutObject")
    assert edge("user", "PUT", "/b/k?tagging", {}, document).status == 200
    edge.allow(USER, "s3:DeleteObjectTagging")
    assert edge("user", "DELETE", "/b/k?tagging").code == "AccessDenied"


# --- logs -------------------------------------------------------------------------------------------------------------


def test_a_log_goes_only_where_its_asker_may_write() -> None:
    edge = Edge()
    other = BucketInfo(name="target", created_ms=0, pool="")
    asyncio.run(edge.store.create_bucket(other))
    edge.allow(USER, "s3:PutBucketLogging")
    everyone = f'<Grantee xmlns:xsi="{acl.XSI}" xsi:type="Group"><URI>{next(iter(acl.GROUPS))}</URI></Grantee>'
    grants = f"<TargetGrants><Grant>{everyone}<Permission>READ</Permission></Grant></TargetGrants>"

    def asked(who: str, grants: str = "") -> str:
        inner = f"<TargetBucket>target</TargetBucket><TargetPrefix>p/</TargetPrefix>{grants}"
        body = f"<BucketLoggingStatus><LoggingEnabled>{inner}</LoggingEnabled></BucketLoggingStatus>"
        return edge(who, "PUT", "/b?logging", {}, body.encode()).code

    def let_in(*actions: str) -> None:
        statement = policy(action=list(actions), principal=USER, Resource="arn:aws:s3:::target/p/*")  # type: ignore[arg-type]
        asyncio.run(edge.store.change_bucket("target", BucketChange({"policy": text(statement)})))

    assert asked("user") == "AccessDenied"
    let_in("s3:PutObject")
    assert (asked("user"), asked("user", grants)) == ("", "AccessDenied")
    let_in("s3:PutObject", "s3:PutObjectAcl")
    assert asked("user", grants) == ""
    asyncio.run(edge.store.change_bucket("target", BucketChange({"publicAccessBlock": "BlockPublicAcls"})))
    assert (asked("main"), asked("main", grants)) == ("", "AccessDenied")


# --- forms ------------------------------------------------------------------------------------------------------------


def form(**fields: str) -> tuple[dict[str, str], bytes]:
    parts = [
        f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    parts.append('--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nbytes\r\n--B--\r\n')
    return {"content-type": "multipart/form-data; boundary=B"}, "".join(parts).encode()


TAGS = "<Tagging><TagSet><Tag><Key>level</Key><Value>{}</Value></Tag></TagSet></Tagging>"


def test_tags_of_a_form_need_their_right() -> None:
    edge = Edge()
    edge.allow("*", "s3:PutObject")
    assert edge("", "POST", "/b", *form(key="k")).status == 204
    assert edge("", "POST", "/b", *form(key="k", tagging=TAGS.format("high"))).code == "AccessDenied"
    edge.allow(
        "*", "s3:PutObject", "s3:PutObjectTagging", Condition={"StringEquals": {"s3:RequestObjectTag/level": "low"}}
    )
    assert edge("", "POST", "/b", *form(key="k", tagging=TAGS.format("high"))).code == "AccessDenied"
    assert edge("", "POST", "/b", *form(key="k", tagging=TAGS.format("low"))).status == 204


def test_whom_a_list_lets_write_may_tag_what_it_makes_and_no_more() -> None:
    edge = Edge(acl="F W*")
    edge.put("mains")
    assert edge("alt", "PUT", "/b/k", {"x-amz-tagging": "level=high"}, b"x").status == 200
    assert edge("", "POST", "/b", *form(key="t", tagging=TAGS.format("high"))).status == 204
    assert edge("alt", "PUT", "/b/mains?tagging", {}, TAGS.format("high").encode()).code == "AccessDenied"


# --- conditions of policies -------------------------------------------------------------------------------------------


def test_policy_that_forbids_to_overwrite_holds_for_batches_and_renames() -> None:
    edge = Edge()
    edge.put("k")
    edge.put("from")
    statements = (
        policy(action="s3:*", principal=USER),
        policy(
            "Deny", "s3:PutObject", "*",
            Condition={"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}},
        ),
    )  # fmt: skip
    asyncio.run(edge.store.change_bucket("b", BucketChange({"policy": text(*statements)})))
    table = json.dumps({"objects": [{"key": "k", "size": 1}]}).encode()
    batch = len(table).to_bytes(4, "little") + table + b"x"
    assert edge("user", "PUT", "/b/k", {}, b"x").code == "AccessDenied"
    assert edge("user", "PUT", "/b/k?renameObject", {"x-amz-rename-source": "from"}).code == "AccessDenied"
    found = edge("user", "POST", "/b?recall=put", {}, batch)
    assert json.loads(found.body)["objects"][0]["code"] == "AccessDenied"


# --- what others own --------------------------------------------------------------------------------------------------


def test_conditions_tell_nothing_of_an_object_that_may_not_be_read() -> None:
    edge = Edge()
    edge.allow(USER, "s3:GetObject")
    edge.put("k", owner="alt-id")
    for headers in (
        {"if-none-match": "*"},
        {"if-modified-since": "Fri, 01 Jan 2038 00:00:00 GMT"},
        {"if-match": '"other"'},
        {"range": "bytes=100-"},
    ):
        assert edge("user", "GET", "/b/k", headers).code == "AccessDenied", headers
        assert edge("main", "GET", "/b/k", headers).code == "AccessDenied", headers


def test_copy_takes_the_object_that_was_judged_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge(acl="F W*")
    edge.put("k", b"open", acl="F R*")
    copy = edge.store.copy

    async def written_first(*arguments: Any) -> Any:
        writer: Any = edge.store.put("b", "k", 6, PutOptions())
        writer.write(b"secret")
        await writer.commit(PutResult())
        return await copy(*arguments)

    assert edge("alt", "PUT", "/b/to", {"x-amz-copy-source": "/b/k"}).status == 200
    monkeypatch.setattr(edge.store, "copy", written_first)
    assert edge("alt", "PUT", "/b/to", {"x-amz-copy-source": "/b/k"}).code == "OperationAborted"


def test_rename_of_a_missing_key_tells_only_who_may_list_it() -> None:
    edge = Edge()
    prefix = {"Condition": {"StringLike": {"s3:prefix": "mine/*"}}}
    rights = policy(action=["s3:PutObject", "s3:GetObject", "s3:DeleteObject"], principal=USER)  # type: ignore[arg-type]
    listing = policy(action="s3:ListBucket", principal=USER, **prefix)
    asyncio.run(edge.store.change_bucket("b", BucketChange({"policy": text(rights, listing)})))
    for source, code in (("mine/none", "NoSuchKey"), ("others/none", "AccessDenied")):
        headers = {"x-amz-rename-source": source}
        assert edge("user", "PUT", "/b/mine/k?renameObject", headers).code == code
        assert edge("user", "PUT", "/b/mine/k", {"x-amz-copy-source": f"/b/{source}"}).code == code


def test_batch_gives_the_object_that_was_judged_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge(acl="F R*")
    edge.put("k", b"open", acl="F R*")
    looked = edge.store.look

    def written_after(bucket: str, keys: Any) -> Any:
        found = looked(bucket, keys)
        edge.store._objects["b"].pop("k")
        edge.store._store("b", "k", b"secret", 0, PutOptions())
        return found

    document = json.dumps({"keys": ["k"]}).encode()
    assert edge("", "POST", "/b?recall=get", {}, document).body.endswith(b"open")
    monkeypatch.setattr(edge.store, "look", written_after)
    reply = edge("", "POST", "/b?recall=get", {}, document)
    assert b"secret" not in reply.body and reply.body[:2] == (403).to_bytes(2, "little")


@pytest.mark.parametrize(
    ("query", "documents", "refused"),
    [
        ("recall=delete", {}, True),
        ("recall=put", {}, True),
        ("recall=pin", {"acl": "F R*"}, False),  # a list may let everyone write, so that each key is judged
        ("delete", {}, True),
        ("delete", {"policy": text(policy(principal="*"))}, False),
        ("recall=get", {}, False),  # an object's own list may let everyone read it
        ("recall=get", {"ownershipControls": "BucketOwnerEnforced"}, True),
        ("recall=get", {"publicAccessBlock": "IgnorePublicAcls"}, True),
    ],
)
def test_nobodys_batch_is_refused_before_its_body_is_read_where_nobody_can_have_a_right(
    query: str, documents: dict[str, str], refused: bool
) -> None:
    edge = Edge(**documents)
    request = edge.request("", "POST", f"/b?{query}", {}, b"not a document")
    reply = asyncio.run(edge.send(request))
    assert (reply.code == "AccessDenied") is refused
    if refused:
        assert request.body.reads == 0  # type: ignore[attr-defined]  # the harness's body counts


# --- presigned URLs ---------------------------------------------------------------------------------------------------


def url_of(who: str, method: str, path: str, query: str) -> str:
    """The query of a presigned URL."""
    now_s = NEW_YEAR_MS // 1000
    signed = presign(
        method, path.encode(), query.encode(), {b"host": b"h:9000"},
        access_key=who, secret_key="topsecret", now_s=now_s, expires_s=60,
    )  # fmt: skip
    return f"{path}?{signed.decode()}"


def test_headers_in_a_presigned_query_count_and_need_their_rights() -> None:
    edge = Edge("Enabled")
    edge.put("k")
    asyncio.run(edge.store.change_bucket("b", BucketChange(object_lock=True)))
    wanted = (
        "x-amz-acl=public-read&X-Amz-Object-Lock-Mode=COMPLIANCE&X-Amz-Object-Lock-Retain-Until-Date=2100-01-01T00%3A00%3A00Z"
        "&x-amz-meta-a=b&x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32&x-id=PutObject"
    )
    edge.allow(USER, "s3:PutObject")
    assert edge("", "PUT", url_of("user", "PUT", "/b/k", wanted), {}, b"data").code == "AccessDenied"
    assert edge("", "PUT", url_of("main", "PUT", "/b/k", wanted), {"content-md5": MD5}, b"data").status == 200
    info = edge.store.open("b", "k", ReadOptions(head=True)).info
    assert info.lock is not None and (info.lock.mode, info.acl, info.metadata) == ("COMPLIANCE", "F R*", {"a": "b"})
    copied = edge("", "PUT", url_of("main", "PUT", "/b/to", "x-amz-copy-source=b%2Fk"))
    assert b"<CopyObjectResult" in copied.body
    url = url_of("main", "GET", "/b/k", "x-amz-expected-bucket-owner=999999999999")
    assert edge("", "GET", url).code == "AccessDenied"


def test_headers_in_a_query_count_only_where_they_are_signed() -> None:
    edge = Edge()
    url = url_of("main", "PUT", "/b/k", "")
    assert edge("", "PUT", f"{url}&x-amz-acl=public-read", {}, b"x").code == "SignatureDoesNotMatch"
    edge.allow("*", "s3:PutObject")
    assert edge("", "PUT", "/b/k?x-amz-acl=public-read", {}, b"x").status == 200
    assert edge("main", "PUT", "/b/k2?x-amz-acl=public-read", {}, b"x").status == 200
    assert [info.acl for _, info in edge.store.list("b", ListOptions()).objects] == ["", ""]


MD5 = base64.b64encode(hashlib.md5(b"data", usedforsecurity=False).digest()).decode()


# --- every operation --------------------------------------------------------------------------------------------------

DOCUMENTS = {
    "DeleteObjects": b"<Delete><Object><Key>k</Key></Object></Delete>",
    "PutObjectTagging": TAGS.format("high").encode(),
    "PutObjectLegalHold": b"<LegalHold><Status>ON</Status></LegalHold>",
    "RestoreObject": b"<RestoreRequest><Days>1</Days></RestoreRequest>",
    "PutBucketVersioning": b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>",
    "PostObject": form(key="k")[1],
}
ASKED = [row for row in TABLE if row.served and row.scope != "service" and row.name != "CreateBucket"]


def state(edge: Edge) -> Any:
    uploads = {key: len(pending.parts) for key, pending in edge.store._uploads.items()}
    return edge.store._objects, edge.store._buckets, uploads


def attempts(edge: Edge, who: str) -> Iterator[tuple[Operation, str, Reply]]:
    """Every operation, of what is there and what is not; each must leave everything as it was."""
    version = edge.put("k", b"secret", tags={"a": "secret"}, metadata={"m": "secret"}) or "null"
    upload = asyncio.run(edge.store.begin_upload("b", "k", PutOptions())).upload_id
    given = {"uploadId": upload, "versionId": version, "partNumber": "1", "id": "1"}
    table = json.dumps({"objects": [{"key": "k", "size": 1}]}).encode()
    documents = DOCUMENTS | {"BatchPut": len(table).to_bytes(4, "little") + table + b"x"}
    keys = json.dumps({"keys": ["k"]}).encode()
    before = copy.deepcopy(state(edge))
    for row in ASKED:
        headers = {"x-amz-copy-source": "/b/k"} if row.copy else {}
        headers |= {"x-amz-rename-source": "k"} if row.name == "RenameObject" else {}
        headers |= form()[0] if row.name == "PostObject" else {}
        for names in (row.query, (*row.query, "versionId")) if "versionId" in row.allow else (row.query,):
            query = "&".join(f"{name}={row.values.get(name, given.get(name, ''))}" for name in names)
            for key in ("/k", "/none") if row.scope == "object" else ("",):
                path = f"/b{key}?{query}"
                yield (
                    row,
                    path,
                    edge(who, row.method, path, headers, documents.get(row.name, keys if row.by_key else b"")),
                )
                assert state(edge) == before, (row.name, path)


@pytest.mark.parametrize("who", ["", "user", "alt"])
@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize("documents", [{}, {"acl": "F"}, {"acl": "-"}, {"ownershipControls": "BucketOwnerEnforced"}])
def test_without_any_right_no_operation_does_or_tells_anything(
    who: str, versioning: str, documents: dict[str, str]
) -> None:
    for row, path, reply in attempts(Edge(versioning, **documents), who):
        assert reply.status == 403 or (row.by_key and reply.status in (200, 400)), (row.name, path, reply.status)
        assert b"secret" not in reply.body and "etag" not in reply.headers, row.name


@pytest.mark.parametrize("who", ["", "alt"])
@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
@pytest.mark.parametrize("acl", ["F R*", "F R+ r+", "F r*"])
def test_who_may_only_list_does_nothing_else(who: str, versioning: str, acl: str) -> None:
    for row, path, reply in attempts(Edge(versioning, acl=acl), who):
        allowed = row.action in (
            "s3:ListBucket",
            "s3:ListBucketVersions",
            "s3:ListBucketMultipartUploads",
            "s3:GetBucketAcl",
        )
        missing = reply.status in (404, 405) and "/none" in path
        assert reply.status == 403 or row.by_key or allowed or missing, (row.name, path, reply.status)
        assert b"secret" not in reply.body, row.name


@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize("row", ASKED, ids=lambda row: row.name)
def test_what_another_account_owns_is_not_read_by_the_bucket_s_owner(row: Operation, versioning: str) -> None:
    edge = Edge(versioning)
    version = edge.put("k", b"secret", owner="alt-id") or "null"
    upload = asyncio.run(edge.store.begin_upload("b", "to", PutOptions())).upload_id
    headers = {"x-amz-copy-source": "/b/k"} if row.copy else {}
    headers |= {"x-amz-rename-source": "k"} if row.name == "RenameObject" else {}
    taken = bool(headers)
    key = "/to" if taken else "/k" if row.scope == "object" else ""
    headers |= {"x-amz-object-attributes": "ETag"} if row.name == "GetObjectAttributes" else {}
    given = {"uploadId": upload, "versionId": version, "partNumber": "1"}
    for names in (row.query, (*row.query, "versionId")) if "versionId" in row.allow else (row.query,):
        query = "&".join(f"{name}={row.values.get(name, given.get(name, ''))}" for name in names)
        document = json.dumps({"keys": ["k"]}).encode() if row.by_key else DOCUMENTS.get(row.name, b"")
        reply = edge("main", row.method, f"/b{key}?{query}", headers, document)
        assert b"secret" not in reply.body
        if taken or row.name in ("GetObject", "HeadObject", "GetObjectAcl", "PutObjectAcl", "GetObjectAttributes"):
            assert reply.status == 403
    assert all(info.owner for _, info in edge.store.list("b", ListOptions()).objects if info.size == len(b"secret"))
    assert not any(pending.parts for pending in edge.store._uploads.values())


TTL = b"<Tagging><TagSet><Tag><Key>recall:ttl</Key><Value>1</Value></Tag></TagSet></Tagging>"
SHORTER = (
    b"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2099-01-01T00:00:00Z</RetainUntilDate></Retention>",
    b"<Retention></Retention>",
)
LIFTED = b"<LegalHold><Status>OFF</Status></LegalHold>"


@pytest.mark.parametrize("lock", [Lock("COMPLIANCE", 1 << 43), Lock("GOVERNANCE", 1 << 43), Lock(legal_hold=True)])
@pytest.mark.parametrize("row", ASKED, ids=lambda row: row.name)
def test_nothing_the_account_does_takes_a_locked_version_away(row: Operation, lock: Lock) -> None:
    edge = Edge("Enabled")
    asyncio.run(edge.store.change_bucket("b", BucketChange(object_lock=True)))
    version = edge.put("k", b"locked", lock=lock)
    if row.name == "PutObjectLegalHold" and lock.legal_hold:
        return  # lifting it is what the right is for
    upload = asyncio.run(edge.store.begin_upload("b", "k", PutOptions())).upload_id
    given = {"uploadId": upload, "versionId": version, "partNumber": "1"}
    headers = {"x-amz-copy-source": "/b/k", "x-amz-metadata-directive": "REPLACE"} if row.copy else {}
    headers |= {"x-amz-rename-source": "k"} if row.name == "RenameObject" else {}
    headers |= form()[0] if row.name == "PostObject" else {}
    headers |= {"x-recall-ttl": "1"} if row.name in ("ChangeObject", "PutObject", "CopyObject") else {}
    if lock.mode == "COMPLIANCE":
        headers["x-amz-bypass-governance-retention"] = "true"
    delete = f"<Delete><Object><Key>k</Key><VersionId>{version}</VersionId></Object></Delete>".encode()
    documents = {"PutObjectTagging": (TTL,), "PutObjectRetention": SHORTER, "PutObjectLegalHold": (LIFTED,)}
    documents |= {"DeleteObjects": (delete,), "BatchTouch": (b'{"keys": ["k"], "ttl": 1}',)}
    keys = b'{"keys": ["k"]}' if row.by_key else DOCUMENTS.get(row.name, b"")
    for names in (row.query, (*row.query, "versionId")) if "versionId" in row.allow else (row.query,):
        query = "&".join(f"{name}={row.values.get(name, given.get(name, ''))}" for name in names)
        path = f"/b{'/k' if row.scope == 'object' else ''}?{query}"
        for document in documents.get(row.name, (keys,)):
            md5 = base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
            edge("main", row.method, path, headers | {"content-md5": md5}, document)
            edge.clock.advance(60)
            assert edge.store.bucket("b").object_lock
            kept = edge.store.open("b", "k", ReadOptions(head=True, version=version)).info
            assert kept.size == len(b"locked") and kept.lock is not None
            if lock.mode:
                assert (kept.lock.mode, kept.lock.until_ms) == (lock.mode, lock.until_ms)
            else:
                assert kept.lock.legal_hold
