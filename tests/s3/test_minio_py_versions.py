"""minio-py over versions and object lock on a running gateway."""

from __future__ import annotations

import io
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from minio import Minio
from minio.commonconfig import ENABLED, GOVERNANCE, CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.retention import Retention
from minio.versioningconfig import SUSPENDED, VersioningConfig

from tests.s3.test_minio_py import minio, read

_numbers = itertools.count(1)
__all__ = ["minio"]


def put(client: Minio, bucket: str, key: str, data: bytes) -> str:
    version = client.put_object(bucket, key, io.BytesIO(data), len(data)).version_id
    assert version is not None
    return version


def test_versions(minio: Minio, bucket: str) -> None:
    assert not minio.get_bucket_versioning(bucket).status
    minio.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    assert minio.get_bucket_versioning(bucket).status == "Enabled"
    ids = [put(minio, bucket, "k", bytes([n])) for n in range(3)]
    assert [read(minio, bucket, "k", version_id=each) for each in ids] == [b"\0", b"\1", b"\2"]
    assert minio.stat_object(bucket, "k", version_id=ids[0]).version_id == ids[0]
    minio.remove_object(bucket, "k")
    listed = list(minio.list_objects(bucket, include_version=True))
    assert {each.version_id for each in listed if not each.is_delete_marker} == set(ids)
    assert [each.is_latest == "true" for each in listed if each.is_delete_marker] == [True]
    marker = next(each for each in listed if each.is_delete_marker)
    with pytest.raises(S3Error) as refused:
        minio.stat_object(bucket, "k")
    assert refused.value.code == "NoSuchKey"
    minio.remove_object(bucket, "k", version_id=marker.version_id)
    copied = minio.copy_object(bucket, "to", CopySource(bucket, "k", version_id=ids[1]))
    assert copied.version_id and read(minio, bucket, "to") == b"\1"
    tags = Tags.new_object_tags()
    tags["a"] = "b"
    minio.set_object_tags(bucket, "k", tags, version_id=ids[0])
    assert dict(minio.get_object_tags(bucket, "k", version_id=ids[0]) or {}) == {"a": "b"}
    assert not minio.get_object_tags(bucket, "k")
    minio.set_bucket_versioning(bucket, VersioningConfig(SUSPENDED))
    gone = [
        DeleteObject(each.object_name or "", each.version_id)
        for each in minio.list_objects(bucket, include_version=True)
    ]
    assert list(minio.remove_objects(bucket, gone)) == []
    minio.remove_bucket(bucket)


def test_object_lock(minio: Minio) -> None:
    bucket = f"minio-locked-{next(_numbers)}"
    minio.make_bucket(bucket, object_lock=True)
    assert minio.get_object_lock_config(bucket).mode is None
    minio.set_object_lock_config(bucket, ObjectLockConfig(GOVERNANCE, 1, DAYS))
    config = minio.get_object_lock_config(bucket)
    assert (config.mode, config.duration) == (GOVERNANCE, 1)
    minio.delete_object_lock_config(bucket)
    assert minio.get_object_lock_config(bucket).mode is None
    version = put(minio, bucket, "k", b"data")
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    minio.set_object_retention(bucket, "k", Retention(GOVERNANCE, until))
    kept = minio.get_object_retention(bucket, "k", version_id=version)
    assert kept is not None and (kept.mode, kept.retain_until_date) == (GOVERNANCE, until)
    assert not minio.is_object_legal_hold_enabled(bucket, "k")
    minio.enable_object_legal_hold(bucket, "k")
    assert minio.is_object_legal_hold_enabled(bucket, "k")
    with pytest.raises(S3Error) as refused:
        minio.remove_object(bucket, "k", version_id=version)
    assert refused.value.code == "AccessDenied"
    minio.disable_object_legal_hold(bucket, "k", version_id=version)
    data = b"locked"
    held = minio.put_object(
        bucket, "held", io.BytesIO(data), len(data), retention=Retention(GOVERNANCE, until), legal_hold=True
    )
    assert minio.is_object_legal_hold_enabled(bucket, "held", version_id=held.version_id)
    errors = list(minio.remove_objects(bucket, [DeleteObject("k", version)], bypass_governance_mode=True))
    assert errors == []
