"""The aws command line against the gateway, configured by nothing but its environment."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.gateway import Gateway

AWS: Final = Path(sys.executable).with_name("aws")
MIB: Final = 1 << 20
LIMIT_S: Final = 60.0
WRITTEN_S: Final = 1_700_000_000

Aws = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def aws(gateway: Gateway, tmp_path: Path) -> Aws:
    """Runs `aws …`; a non-zero status fails unless `fails` says what stderr must hold."""
    environment = gateway.aws_environment(tmp_path / "home", AWS_MAX_ATTEMPTS="1")

    def run(*arguments: str, fails: str = "", stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [str(AWS), *arguments],
            env=environment,
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        text = done.stderr.decode()
        if fails:
            assert done.returncode != 0 and fails in text, (done.returncode, text)
        else:
            assert done.returncode == 0, text
        return done

    return run


def random_file(path: Path, size: int) -> bytes:
    data = random.Random(f"awscli {path.name} {size}").randbytes(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    # `sync` compares with Last-Modified in whole seconds: a file younger than that would look newer than its copy.
    os.utime(path, (WRITTEN_S, WRITTEN_S))
    return data


def answer(done: subprocess.CompletedProcess[bytes]) -> Any:
    return json.loads(done.stdout)


def test_mb_cp_ls_rm_rb(aws: Aws, tmp_path: Path) -> None:
    aws("s3", "mb", "s3://cli-life")
    small = random_file(tmp_path / "small", 10)
    large = random_file(tmp_path / "large", 20 * MIB)  # above the command's multipart threshold
    aws("s3", "cp", "small", "s3://cli-life/dir/small")
    aws("s3", "cp", "large", "s3://cli-life/dir/large")
    aws("s3", "cp", "-", "s3://cli-life/stdin", stdin=b"from a pipe")
    listed = aws("s3", "ls", "s3://cli-life", "--recursive").stdout.decode().split("\n")
    assert [line.split()[2:] for line in listed if line] == [
        [str(len(large)), "dir/large"],
        ["10", "dir/small"],
        ["11", "stdin"],
    ]
    shallow = aws("s3", "ls", "s3://cli-life/").stdout.decode()
    assert "PRE dir/" in shallow and "stdin" in shallow
    assert b" cli-life\n" in aws("s3", "ls").stdout
    aws("s3", "cp", "s3://cli-life/dir/large", "back")
    assert (tmp_path / "back").read_bytes() == large
    assert aws("s3", "cp", "s3://cli-life/dir/small", "-").stdout == small
    aws("s3", "rb", "s3://cli-life", fails="BucketNotEmpty")
    aws("s3", "rm", "s3://cli-life", "--recursive")
    aws("s3", "rb", "s3://cli-life")
    aws("s3", "ls", "s3://cli-life", fails="NoSuchBucket")


def test_sync_both_ways(aws: Aws, bucket: str, tmp_path: Path) -> None:
    tree = {f"a/{n}": random_file(tmp_path / "up" / "a" / str(n), 1000 + n) for n in range(5)}
    tree["b c/ü@1"] = random_file(tmp_path / "up" / "b c" / "ü@1", 9 * MIB)
    first = aws("s3", "sync", "up", f"s3://{bucket}/tree").stdout.decode()
    assert first.count("upload:") == len(tree)
    assert aws("s3", "sync", "up", f"s3://{bucket}/tree").stdout.strip() == b"", "nothing is sent twice"
    aws("s3", "sync", f"s3://{bucket}/tree", "down")
    found = {
        str(p.relative_to(tmp_path / "down")): p.read_bytes() for p in (tmp_path / "down").rglob("*") if p.is_file()
    }
    assert found == tree
    (tmp_path / "up" / "a" / "0").unlink()
    aws("s3", "sync", "up", f"s3://{bucket}/tree", "--delete")
    assert "a/0" not in aws("s3", "ls", f"s3://{bucket}/tree/", "--recursive").stdout.decode()


def test_copy_and_move_between_objects(aws: Aws, bucket: str, s3: Any, tmp_path: Path) -> None:
    data = random_file(tmp_path / "large", 12 * MIB)
    aws("s3", "cp", "large", f"s3://{bucket}/one", "--metadata", "recall-ttl=3600,who=me")
    assert "x-recall-expires" in s3.head_object(Bucket=bucket, Key="one")["ResponseMetadata"]["HTTPHeaders"]
    aws("s3", "cp", f"s3://{bucket}/one", f"s3://{bucket}/two")  # by UploadPartCopy at this size
    aws("s3", "mv", f"s3://{bucket}/two", f"s3://{bucket}/three")
    assert s3.get_object(Bucket=bucket, Key="three")["Body"].read() == data
    assert [row["Key"] for row in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["one", "three"]


@pytest.mark.parametrize(("region", "mark"), [("us-east-1", "AWSAccessKeyId="), ("eu-central-1", "X-Amz-Signature=")])
def test_presigned_url_opens_in_anything(aws: Aws, bucket: str, s3: Any, region: str, mark: str) -> None:
    """For us-east-1 this version of the command still signs with version 2."""
    s3.put_object(Bucket=bucket, Key="a b/ü+@", Body=b"shared")
    presign = ("--region", region, "s3", "presign", f"s3://{bucket}/a b/ü+@", "--expires-in", "60")
    url = aws(*presign).stdout.decode().strip()
    assert mark in url
    with urllib.request.urlopen(url, timeout=20) as reply:
        assert reply.read() == b"shared"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url + "0", timeout=20)
    with refused.value:
        assert refused.value.code == 403


def test_multipart_by_hand(aws: Aws, bucket: str, tmp_path: Path) -> None:
    pieces = [random_file(tmp_path / "p1", 5 * MIB), random_file(tmp_path / "p2", 33)]
    at = ("--bucket", bucket, "--key", "by-hand")
    upload = answer(aws("s3api", "create-multipart-upload", *at, "--checksum-algorithm", "SHA256"))["UploadId"]
    of = (*at, "--upload-id", upload)
    parts = []
    for number in (1, 2):
        body = ("--part-number", str(number), "--body", f"p{number}", "--checksum-algorithm", "SHA256")
        part = answer(aws("s3api", "upload-part", *of, *body))
        parts.append({"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]})
    listed = answer(aws("s3api", "list-parts", *of))["Parts"]
    assert [(row["PartNumber"], row["Size"]) for row in listed] == [(1, 5 * MIB), (2, 33)]
    assert [
        row["UploadId"] for row in answer(aws("s3api", "list-multipart-uploads", "--bucket", bucket))["Uploads"]
    ] == [upload]
    done = answer(aws("s3api", "complete-multipart-upload", *of, "--multipart-upload", json.dumps({"Parts": parts})))
    assert done["ETag"].endswith('-2"') and done["ChecksumSHA256"].endswith("-2")
    aws("s3api", "get-object", *at, "whole")
    assert (tmp_path / "whole").read_bytes() == b"".join(pieces)


def test_multipart_aborted_by_hand(aws: Aws, bucket: str, tmp_path: Path) -> None:
    random_file(tmp_path / "p1", 100)
    at = ("--bucket", bucket, "--key", "dropped")
    upload = answer(aws("s3api", "create-multipart-upload", *at))["UploadId"]
    aws("s3api", "upload-part", *at, "--upload-id", upload, "--part-number", "1", "--body", "p1")
    aws("s3api", "abort-multipart-upload", *at, "--upload-id", upload)
    aws("s3api", "list-parts", *at, "--upload-id", upload, fails="NoSuchUpload")


def test_object_calls(aws: Aws, bucket: str, tmp_path: Path) -> None:
    data = random_file(tmp_path / "body", 1000)
    at = ("--bucket", bucket, "--key", "k")
    put = answer(aws("s3api", "put-object", *at, "--body", "body", "--if-none-match", "*", "--tagging", "a=1"))
    assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    aws("s3api", "put-object", *at, "--body", "body", "--if-none-match", "*", fails="PreconditionFailed")
    head = answer(aws("s3api", "head-object", *at, "--checksum-mode", "ENABLED"))
    assert (head["ContentLength"], head["ETag"]) == (1000, put["ETag"])
    assert answer(aws("s3api", "get-object-tagging", *at))["TagSet"] == [{"Key": "a", "Value": "1"}]
    aws("s3api", "get-object", *at, "--range", "bytes=10-19", "part")
    assert (tmp_path / "part").read_bytes() == data[10:20]
    restored = ("--restore-request", "Days=2")
    aws("s3api", "restore-object", *at, *restored)
    assert 'ongoing-request="false"' in answer(aws("s3api", "head-object", *at))["Restore"]
    aws("s3api", "head-object", "--bucket", bucket, "--key", "none", fails="Not Found")
