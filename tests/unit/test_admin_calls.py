"""The questions of MinIO's admin tools: who is answered, and with what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.admin.calls import PATHS, AdminCalls, Facts, PoolFacts
from gateway.identities import CANNED
from s3api.identity import Identity
from s3api.message import Request, Response
from s3api.sigv4 import sign_headers
from tests.unit.test_metrics import NoBody

NOW_S = 1_800_000_000


def unless(operator: str, key: str, value: str) -> str:
    """A policy that denies all where the condition holds."""
    condition = {operator: {key: value}}
    statement = {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def from_elsewhere(network: str) -> str:
    return unless("NotIpAddress", "aws:SourceIp", network)


POLICIES = {name: json.dumps(document) for name, document in CANNED.items()}
PEOPLE = {
    "root": Identity("root", "root-secret", root=True),
    "other": Identity("other", "other-secret", root=True, owner="other-account"),
    "asks": Identity("asks", "asks-secret", policies=(POLICIES["diagnostics"],)),
    "reads": Identity("reads", "reads-secret", policies=(POLICIES["readwrite"],)),
    "near": Identity("near", "near-secret", policies=(POLICIES["diagnostics"], from_elsewhere("10.0.0.0/8"))),
    "far": Identity("far", "far-secret", policies=(POLICIES["diagnostics"], from_elsewhere("192.0.2.0/24"))),
    "coded": Identity(
        "coded", "coded-secret", policies=(POLICIES["diagnostics"], unless("Bool", "aws:SecureTransport", "false"))
    ),
}
FACTS = Facts(
    endpoint="gw:9000",
    secure=False,
    region="us-east-1",
    version="1.0",
    up_s=60,
    buckets=2,
    pools=(PoolFacts("standard", "/d/standard", 100, 40, 3, 500, True), PoolFacts("kv", "/d/kv", 10, 10, 0, 0, False)),
    webhooks=("audit",),
)
CALLS = AdminCalls(PEOPLE.get, lambda host: "bound" if host == b"bound" else "", lambda _: FACTS, lambda: NOW_S)


def ask(
    who: str, call: str = "info", *, host: str = "gw:9000", method: str = "GET", region: str = "", secret: str = ""
) -> Response | None:
    path = f"/minio/admin/v3/{call}".encode()
    headers = sign_headers(
        method,
        path,
        b"",
        {b"host": host.encode()},
        access_key=who,
        secret_key=secret or f"{who}-secret",
        now_s=NOW_S,
        region=region,
    )
    return CALLS.answer(Request(method, path, b"", headers, NoBody(), peer="10.1.2.3"))


def told(response: Response | None) -> tuple[int, Any]:
    assert response is not None and isinstance(response.body, bytes)
    return response.status, json.loads(response.body)


@pytest.mark.parametrize("region", ["", "us-east-1"])
def test_root_is_told_what_mc_prints(region: str) -> None:
    status, info = told(ask("root", region=region))
    assert status == 200
    assert (info["buckets"], info["objects"], info["usage"]) == ({"count": 2}, {"count": 3}, {"size": 500})
    (server,) = info["servers"]
    assert (server["state"], server["endpoint"], server["uptime"]) == ("online", "gw:9000", 60)
    assert [(drive["state"], drive["usedspace"]) for drive in server["drives"]] == [("ok", 60), ("faulty", 0)]
    assert info["backend"]["totalDrivesPerSet"] == [len(server["drives"])], (
        "mc takes a drive's place as an index into this"
    )
    assert info["sqsARN"] == ["arn:minio:sqs:us-east-1:audit:webhook"]
    assert told(ask("root", "datausageinfo"))[1]["usedCapacity"] == 60
    assert len(told(ask("root", "storageinfo"))[1]["Disks"]) == 2


@pytest.mark.parametrize(
    ("who", "secret", "expected"),
    [
        ("asks", "", (200, None)),
        ("reads", "", (403, "AccessDenied")),
        ("near", "", (200, None)),
        ("far", "", (403, "AccessDenied")),
        ("coded", "", (403, "AccessDenied")),
        ("other", "", (403, "AccessDenied")),
        ("root", "wrong-secret", (403, "SignatureDoesNotMatch")),
        ("nobody", "", (403, "InvalidAccessKeyId")),
    ],
)
def test_who_may_ask(who: str, secret: str, expected: tuple[int, str | None]) -> None:
    status, said = told(ask(who, secret=secret))
    assert (status, said.get("Code")) == expected


def test_without_a_signature_nothing_is_told() -> None:
    for path in PATHS:
        assert told(CALLS.answer(Request("GET", path, b"", {b"host": b"gw:9000"}, NoBody())))[0] == 403


def test_an_object_of_that_name_is_the_applications() -> None:
    assert ask("root", host="bound") is None
    assert ask("root", method="PUT") is None
