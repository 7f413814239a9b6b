"""Server-side encryption against the real process: what lies on flash and in the backing store, tiers, restarts, keys."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import boto3.s3.transfer
import pytest
from botocore.exceptions import ClientError

from s3api.sealing import PACKAGE_BYTES
from tests.s3.test_boto3 import MIB, content, refused
from tests.support.gateway import Gateway, GatewayFailed

KEY: Final = bytes(range(100, 132))
MODES: Final[dict[str, dict[str, str]]] = {
    "SSE-C": {},
    "AES256": {"ServerSideEncryption": "AES256"},
    "aws:kms": {"ServerSideEncryption": "aws:kms"},
}
OTHER: Final = base64.b64encode(bytes(range(32))).decode()
MARK: Final = b"an unmistakable sentence of the content. "


def customer(mode: str) -> dict[str, Any]:
    if mode != "SSE-C":
        return {}
    # Given with its MD5, the key is sent as it is; botocore would encode text as UTF-8.
    return {
        "SSECustomerAlgorithm": "AES256",
        "SSECustomerKey": base64.b64encode(KEY).decode(),
        "SSECustomerKeyMD5": base64.b64encode(hashlib.md5(KEY).digest()).decode(),
    }


def asking(mode: str) -> dict[str, Any]:
    return customer(mode) or MODES[mode]


def files_with(directory: Path, mark: bytes) -> list[str]:
    """The files below that hold `mark`, wherever in them."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file() and mark in path.read_bytes():
            found.append(str(path.relative_to(directory)))
    return found


@pytest.fixture(scope="module")
def sealing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of its own, without any key given, over a directory."""
    with Gateway(data_dir=tmp_path_factory.mktemp("sealing") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def s3(sealing: Gateway) -> Any:
    client = sealing.boto3_client()
    client.create_bucket(Bucket="box")
    return client


def get(s3: Any, key: str, mode: str, **how: Any) -> bytes:
    return bytes(s3.get_object(Bucket="box", Key=key, **customer(mode), **how)["Body"].read())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0, 1, 13, 1024, PACKAGE_BYTES, MIB, 9 * MIB + 1])
def test_transfers(s3: Any, mode: str, size: int) -> None:
    data = content(size, mode)
    reply = s3.put_object(Bucket="box", Key="k", Body=data, **asking(mode))
    assert (reply["ETag"] == f'"{hashlib.md5(data).hexdigest()}"') == (mode == "AES256")
    assert get(s3, "k", mode) == data
    head = s3.head_object(Bucket="box", Key="k", **customer(mode))
    assert head["ContentLength"] == size
    assert head.get("ServerSideEncryption") == (None if mode == "SSE-C" else mode)
    assert head.get("SSECustomerKeyMD5") == customer(mode).get("SSECustomerKeyMD5")
    if size > 10:
        for start, stop in ((0, 1), (size - 9, size), (size // 2, size)):
            assert get(s3, "k", mode, Range=f"bytes={start}-{stop - 1}") == data[start:stop]
    listed = s3.list_objects_v2(Bucket="box", Prefix="k")["Contents"]
    assert [each["Size"] for each in listed] == [size]


def test_no_content_lies_on_flash_or_in_the_backing_store(sealing: Gateway, s3: Any) -> None:
    data = MARK * 20_000
    s3.put_object(Bucket="box", Key="plain", Body=data)
    assert files_with(sealing.data_dir / "pools", MARK), "what is not encrypted would be found"
    s3.delete_object(Bucket="box", Key="plain")
    for mode in MODES:
        other = MARK.replace(b"sentence", mode.encode())
        s3.put_object(Bucket="box", Key=mode, Body=other * 20_000, **asking(mode))
        assert sealing.command("demote", f"box/{mode}").returncode == 0
        assert files_with(sealing.data_dir, other) == []
        assert files_with(sealing.data_dir, KEY) == []
        assert get(s3, mode, mode) == other * 20_000


@pytest.mark.parametrize("mode", MODES)
def test_tiers(sealing: Gateway, s3: Any, mode: str) -> None:
    data = content(5 * MIB + 12_345, mode)
    etag = s3.put_object(Bucket="box", Key="tier", Body=data, **asking(mode))["ETag"]
    for _ in range(2):
        assert sealing.command("evict", "box/tier").returncode == 0
        assert get(s3, "tier", mode, Range="bytes=70000-4000000") == data[70_000:4_000_001]
        assert get(s3, "tier", mode) == data
    assert sealing.command("evict", "box/tier").returncode == 0
    copied = s3.copy_object(Bucket="box", Key="copy", CopySource="box/tier", **source(mode), **MODES["AES256"])
    assert copied["CopyObjectResult"]["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert get(s3, "copy", "") == data
    assert s3.head_object(Bucket="box", Key="tier", **customer(mode))["ETag"] == etag


def source(mode: str) -> Mapping[str, str]:
    return {f"CopySource{name}": value for name, value in customer(mode).items()}


@pytest.mark.parametrize("mode", MODES)
def test_uploads_by_the_transfer_manager(sealing: Gateway, s3: Any, mode: str) -> None:
    data = content(17 * MIB + 5, mode)
    config = boto3.s3.transfer.TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.upload_fileobj(io.BytesIO(data), "box", "parts", ExtraArgs=asking(mode), Config=config)
    head = s3.head_object(Bucket="box", Key="parts", **customer(mode))
    assert head["ContentLength"] == len(data)
    assert head["ETag"].endswith('-4"')
    out = io.BytesIO()
    s3.download_fileobj("box", "parts", out, ExtraArgs=customer(mode), Config=config)
    assert out.getvalue() == data
    assert sealing.command("evict", "box/parts").returncode == 0
    third = s3.get_object(Bucket="box", Key="parts", PartNumber=3, **customer(mode))
    assert third["Body"].read() == data[10 * MIB : 15 * MIB]
    assert third["ContentRange"] == f"bytes {10 * MIB}-{15 * MIB - 1}/{len(data)}"
    attributes = s3.get_object_attributes(
        Bucket="box", Key="parts", ObjectAttributes=["ObjectSize", "ObjectParts"], **customer(mode)
    )
    assert attributes["ObjectSize"] == len(data)


def test_an_object_larger_than_the_tier(s3: Any) -> None:
    data = content(80 * MIB)
    assert len(data) > 64 * MIB, "the capacity of the pool"
    s3.put_object(Bucket="box", Key="large", Body=data, ServerSideEncryption="AES256")
    assert get(s3, "large", "", Range=f"bytes={70 * MIB}-{70 * MIB + 999}") == data[70 * MIB : 70 * MIB + 1000]
    assert get(s3, "large", "") == data
    s3.delete_object(Bucket="box", Key="large")


def test_a_bucket_seals_by_default(s3: Any) -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}
    s3.create_bucket(Bucket="safe")
    s3.put_bucket_encryption(Bucket="safe", ServerSideEncryptionConfiguration={"Rules": [rule]})
    found = s3.get_bucket_encryption(Bucket="safe")["ServerSideEncryptionConfiguration"]["Rules"]
    assert found[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert s3.put_object(Bucket="safe", Key="k", Body=b"x")["ServerSideEncryption"] == "AES256"
    assert s3.copy_object(Bucket="safe", Key="k", CopySource="safe/k")["ServerSideEncryption"] == "AES256"
    kms = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}, "BucketKeyEnabled": True}
    s3.put_bucket_encryption(Bucket="safe", ServerSideEncryptionConfiguration={"Rules": [kms]})
    reply = s3.put_object(Bucket="safe", Key="k", Body=b"x")
    assert (reply["ServerSideEncryption"], reply["BucketKeyEnabled"]) == ("aws:kms", True)
    assert reply["SSEKMSKeyId"].startswith("recall-")
    s3.delete_bucket_encryption(Bucket="safe")
    assert "ServerSideEncryption" not in s3.put_object(Bucket="safe", Key="k", Body=b"x")


def test_wrong_keys(s3: Any) -> None:
    s3.put_object(Bucket="box", Key="mine", Body=b"x", **customer("SSE-C"))
    wrong = {
        "SSECustomerAlgorithm": "AES256",
        "SSECustomerKey": OTHER,
        "SSECustomerKeyMD5": base64.b64encode(hashlib.md5(bytes(range(32))).digest()).decode(),
    }
    with refused("InvalidRequest", 400):
        s3.get_object(Bucket="box", Key="mine")
    with refused("AccessDenied", 403):
        s3.get_object(Bucket="box", Key="mine", **wrong)
    with refused("KMS.NotFoundException", 400):
        s3.put_object(Bucket="box", Key="k", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId="nobody")
    with pytest.raises(ClientError) as caught:
        s3.head_object(Bucket="box", Key="mine")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_keys_rotate_and_a_rebuild_needs_them(tmp_path: Path) -> None:
    """One life of a gateway: a first key, a newer one, the index lost, the keys lost."""
    cold, data = tmp_path / "cold", content(3 * MIB)
    backing = f"file://{cold}?create=true"
    with Gateway(data_dir=tmp_path / "data", backing=backing) as first:
        s3 = first.boto3_client()
        s3.create_bucket(Bucket="box")
        old = s3.put_object(Bucket="box", Key="old", Body=data, ServerSideEncryption="aws:kms")["SSEKMSKeyId"]
        s3.put_object(Bucket="box", Key="mine", Body=data, **customer("SSE-C"))
        upload = s3.create_multipart_upload(Bucket="box", Key="parts", ServerSideEncryption="AES256")["UploadId"]
        part = {"Bucket": "box", "Key": "parts", "UploadId": upload}
        etags = [s3.upload_part(**part, PartNumber=1, Body=data + data)["ETag"]]
    newer = {"RECALL_KMS_SECRET_KEY": f"newer:{OTHER}"}
    with Gateway(data_dir=tmp_path / "data", backing=backing, env=newer) as second:
        s3 = second.boto3_client()
        assert OTHER not in second.log
        assert (
            s3.put_object(Bucket="box", Key="new", Body=data, ServerSideEncryption="aws:kms")["SSEKMSKeyId"] == "newer"
        )
        etags.append(s3.upload_part(**part, PartNumber=2, Body=data)["ETag"])
        named = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, start=1)]
        s3.complete_multipart_upload(**part, MultipartUpload={"Parts": named})
        assert get(s3, "parts", "") == data * 3
        head = s3.head_object(Bucket="box", Key="old")
        assert (head["SSEKMSKeyId"], get(s3, "old", "")) == (old, data)
        for key in ("old", "new", "mine", "parts"):
            assert second.command("evict", f"box/{key}").returncode == 0
    rebuilt = tmp_path / "rebuilt"
    rebuilt.mkdir(mode=0o700)
    (rebuilt / "master.keys").write_bytes((tmp_path / "data" / "master.keys").read_bytes())
    (rebuilt / "master.keys").chmod(0o600)
    third = Gateway(data_dir=rebuilt, backing=backing, env=newer)
    done = third.command("rebuild", "--backing", backing)
    assert done.returncode == 0, done.stderr
    with third:
        s3 = third.boto3_client()
        for key, mode in (("old", ""), ("new", ""), ("mine", "SSE-C"), ("parts", "")):
            assert get(s3, key, mode) == data * (3 if key == "parts" else 1), key
        checked = third.command("check", "--backing", backing)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    (rebuilt / "master.keys").unlink()
    with Gateway(data_dir=rebuilt, backing=backing, env=newer) as fourth:
        s3 = fourth.boto3_client()
        with refused("KMS.NotFoundException", 400):
            get(s3, "old", "")
        assert get(s3, "new", "") == data
        assert get(s3, "mine", "SSE-C") == data


def test_a_key_file_others_may_read_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a:{OTHER}\n")
    path.chmod(0o644)
    gateway = Gateway(data_dir=tmp_path / "data", settings={"kms_key_file": str(path)})
    with pytest.raises(GatewayFailed), gateway:
        pass
    assert "0644" in gateway.log
    assert OTHER not in gateway.log
    path.chmod(0o600)
    with gateway:
        s3 = gateway.boto3_client()
        s3.create_bucket(Bucket="box")
        assert s3.put_object(Bucket="box", Key="k", Body=b"x", ServerSideEncryption="aws:kms")["SSEKMSKeyId"] == "a"
