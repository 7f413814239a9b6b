"""Version ids as requests and replies spell them; the store's null version, "", is `null` there.

Owns nothing. Does not know which versions there are. Kind: pure. Invariants: what is not of the form of a version id is
refused before anything is looked up; `spelled(parse_version(x)) == x`.
Spec: AWS S3 User Guide, "Using versioning in S3 buckets"; DeleteObject, GetObject (`versionId`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from s3api.errors import S3Error
from tiering.contract import BucketInfo

NULL: Final = "null"
PARAMETER: Final = "versionId"

_FORM: Final = re.compile(r"[A-Za-z0-9._-]{26,64}\Z", re.ASCII)
"""Ours have 32 characters. Those of other stores have 26 to 36: asked for here, they are unknown rather than malformed."""


def parse_version(text: str, name: str = PARAMETER) -> str:
    """A version id as the store has it: "" for `null`. Raises InvalidArgument about the parameter `name`."""
    if text == NULL:
        return ""
    if not text:
        raise S3Error("InvalidArgument", "Version id cannot be the empty string", ArgumentName=name, ArgumentValue=text)
    if not _FORM.match(text):
        raise S3Error("InvalidArgument", "Invalid version id specified", ArgumentName=name, ArgumentValue=text[:256])
    return text


def named_version(query: Mapping[str, str]) -> str | None:
    """The version a request is about; None where it names none, and so means the current one."""
    text = query.get(PARAMETER)
    return None if text is None else parse_version(text)


def spelled(version: str) -> str:
    """A version id as replies have it."""
    return version or NULL


def written_line(version: str) -> str:
    """`x-amz-version-id` of what a write made: S3 names a version that is new, and not the null version it wrote over."""
    return f"x-amz-version-id: {version}\r\n" if version else ""


def version_line(version: str, bucket: BucketInfo) -> str:
    """`x-amz-version-id`, where there are versions: nothing in a bucket in which versioning was never enabled."""
    if version:
        return written_line(version)
    return f"x-amz-version-id: {NULL}\r\n" if bucket.versioning else ""
