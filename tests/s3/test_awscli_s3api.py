"""`aws s3api` over every sub-resource of buckets and the access lists of objects: set, read, remove, read again.

A start of the command costs most of a second, so all calls run in one process of its own, by the command's own driver;
each test then looks at what its calls answered.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.support.gateway import Gateway

DRIVER: Final = """
import contextlib, io, json, sys
from awscli.clidriver import create_clidriver

driver = create_clidriver()
answers = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = driver.main(arguments)
        except SystemExit as leaving:
            status = leaving.code
    answers.append((status, out.getvalue(), err.getvalue()))
json.dump(answers, sys.stdout)
"""
LIMIT_S: Final = 120.0


class Case(NamedTuple):
    """`noun`: of the commands. `put`: option → value. `shown`: what a GET then says. `unset`: its error before and after,
    or what it says then. `delete`: whether there is a command to remove it."""

    noun: str
    put: dict[str, Any]
    shown: Any
    unset: Any
    delete: bool = True
    key: str = ""


CORS: Final = {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"], "MaxAgeSeconds": 5}]}
SEALED: Final = {
    "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}]
}
OWNERSHIP: Final = {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
BLOCK: Final = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": False,
    "RestrictPublicBuckets": False,
}
POLICY: Final = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::cli-bucket-policy/x"}
    ],
}
TAGS: Final = {"TagSet": [{"Key": "team", "Value": "ml"}]}
LOGS: Final = {"LoggingEnabled": {"TargetBucket": "cli-bucket-logging", "TargetPrefix": "logs/"}}

CASES: Final = (
    Case("bucket-cors", {"cors-configuration": CORS}, CORS, "NoSuchCORSConfiguration"),
    Case("bucket-tagging", {"tagging": TAGS}, TAGS, "NoSuchTagSet"),
    Case(
        "bucket-encryption",
        {"server-side-encryption-configuration": SEALED},
        {"ServerSideEncryptionConfiguration": SEALED},
        "ServerSideEncryptionConfigurationNotFoundError",
    ),
    Case(
        "public-access-block",
        {"public-access-block-configuration": BLOCK},
        {"PublicAccessBlockConfiguration": BLOCK},
        "NoSuchPublicAccessBlockConfiguration",
    ),
    Case(
        "bucket-ownership-controls",
        {"ownership-controls": OWNERSHIP},
        {"OwnershipControls": OWNERSHIP},
        "OwnershipControlsNotFoundError",
    ),
    Case("bucket-policy", {"policy": POLICY}, {"Policy": json.dumps(POLICY)}, "NoSuchBucketPolicy"),
    Case("bucket-logging", {"bucket-logging-status": LOGS}, LOGS, None, delete=False),
    Case(
        "bucket-request-payment",
        {"request-payment-configuration": {"Payer": "Requester"}},
        {"Payer": "Requester"},
        {"Payer": "BucketOwner"},
        delete=False,
    ),
    Case(
        "bucket-accelerate-configuration",
        {"accelerate-configuration": {"Status": "Enabled"}},
        {"Status": "Enabled"},
        None,
        delete=False,
    ),
)
UNSET: Final = {
    "bucket-website": "NoSuchWebsiteConfiguration",
    "bucket-replication": "ReplicationConfigurationNotFoundError",
    "bucket-policy-status": {"PolicyStatus": {"IsPublic": False}},
}
FAMILIES: Final = ("analytics", "inventory", "metrics", "intelligent-tiering")

Answer = tuple[int, str, str]
Answers = dict[str, list[Answer]]


def _commands() -> dict[str, list[list[str]]]:
    """By name of a test's subject: its calls, in order, of a bucket of its own."""
    found = {}
    for case in CASES:
        bucket = ["--bucket", f"cli-{case.noun}"]
        options = [f"--{name}={json.dumps(value)}" for name, value in case.put.items()]
        get = [f"get-{case.noun}", *bucket]
        calls = [["create-bucket", *bucket], get, [f"put-{case.noun}", *bucket, *options], get]
        found[case.noun] = calls + ([[f"delete-{case.noun}", *bucket], get] if case.delete else [])
    bucket = ["--bucket", "cli-unset"]
    found["unset"] = [["create-bucket", *bucket], *([f"get-{noun}", *bucket] for noun in UNSET)]
    found["families"] = [[f"list-bucket-{family}-configurations", *bucket] for family in FAMILIES]
    bucket = ["--bucket", "cli-acl"]
    found["acl"] = [["create-bucket", *bucket, "--acl", "public-read"], ["put-object", *bucket, "--key", "k"]]
    for noun, target in (("bucket-acl", bucket), ("object-acl", [*bucket, "--key", "k"])):
        found["acl"] += [
            [f"put-{noun}", *target, "--acl", "private"],
            [f"get-{noun}", *target],
            [f"put-{noun}", *target, "--grant-read", 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'],
            [f"get-{noun}", *target],
        ]
    return found


@pytest.fixture(scope="module")
def answers(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What every call answered: status, output, errors."""
    home: Path = tmp_path_factory.mktemp("awscli")
    environment = gateway.aws_environment(home, AWS_MAX_ATTEMPTS="1")
    commands = _commands()
    flat = [["s3api", *call] for calls in commands.values() for call in calls]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        env=environment,
        cwd=home,
        input=json.dumps(flat).encode(),
        capture_output=True,
        timeout=LIMIT_S,
        check=True,
    )
    replies = iter([tuple(answer) for answer in json.loads(done.stdout)])
    return {name: [next(replies) for _ in calls] for name, calls in commands.items()}


def said(answer: Answer) -> Any:
    """The parsed output of a call that succeeded; None for none."""
    status, out, err = answer
    assert status == 0, err
    return json.loads(out) if out.strip() else None


def check_unset(answer: Answer, unset: Any) -> None:
    if isinstance(unset, str):
        assert answer[0] != 0
        assert f"({unset})" in answer[2], answer
    else:
        assert said(answer) == unset


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.noun)
def test_set_read_remove(answers: Answers, case: Case) -> None:
    created, before, put, after, *removed = answers[case.noun]
    said(created)
    check_unset(before, case.unset)
    assert said(put) is None
    assert said(after) == case.shown
    if case.delete:
        assert said(removed[0]) is None
        check_unset(removed[1], case.unset)


def test_what_cannot_be_set(answers: Answers) -> None:
    for answer, unset in zip(answers["unset"][1:], UNSET.values(), strict=True):
        check_unset(answer, unset)
    for answer in answers["families"]:
        assert said(answer)["IsTruncated"] is False


def test_access_lists(answers: Answers) -> None:
    for answer in answers["acl"]:
        said(answer)
    for private, granted in ((3, 5), (7, 9)):  # the answers of the bucket, of the object
        shown = said(answers["acl"][private])
        assert [grant["Permission"] for grant in shown["Grants"]] == ["FULL_CONTROL"]
        assert shown["Grants"][0]["Grantee"]["ID"] == shown["Owner"]["ID"]
        assert [grant["Grantee"]["Type"] for grant in said(answers["acl"][granted])["Grants"]] == ["Group"]
