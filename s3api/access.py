"""Who may do what to which bucket or object: the one judgement of a request's rights.

Promise: explicit deny wins, then an allow of identity policy, bucket policy or ACL, else denied, as AWS evaluates them.
Owns nothing. Does not know how a caller proved who it is. Kind: pure.
Spec: AWS IAM User Guide, "Policy evaluation logic"; AWS S3 User Guide, "How Amazon S3 authorizes a request".
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from s3api.call import Call, Identity
from tiering.contract import BucketInfo

ENFORCED: Final = "BucketOwnerEnforced"
PREFERRED: Final = "BucketOwnerPreferred"
WRITER: Final = "ObjectWriter"
OWNERSHIPS: Final = (ENFORCED, PREFERRED, WRITER)


def ownership_of(bucket: BucketInfo) -> str:
    """Who owns what others write, and whether access lists count: the kept document is the bare word.

    A bucket without the document is as AWS's were before it had the setting: the writer owns, and lists count.
    """
    return bucket.documents.get("ownershipControls", WRITER)


class PublicAccessBlock(NamedTuple):
    """The four settings of a bucket's public access block."""

    block_acls: bool = False  # BlockPublicAcls: public lists are refused
    ignore_acls: bool = False  # IgnorePublicAcls: public grants do not count
    block_policy: bool = False  # BlockPublicPolicy: public policies are refused
    restrict: bool = False  # RestrictPublicBuckets: a public policy is for the owner's account alone


PUBLIC_ACCESS_NAMES: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
"""The elements of the document, in the order of `PublicAccessBlock`'s fields."""
_UNBLOCKED: Final = PublicAccessBlock()


def public_access_of(bucket: BucketInfo) -> PublicAccessBlock:
    """The settings in force; the kept document is the names of those that are on, divided by spaces."""
    text = bucket.documents.get("publicAccessBlock")
    return _UNBLOCKED if text is None else _public_access(text)


@functools.lru_cache(maxsize=16)
def _public_access(text: str) -> PublicAccessBlock:
    named = text.split(" ")
    return PublicAccessBlock(*(name in named for name in PUBLIC_ACCESS_NAMES))


class OneAccount:
    """The judgement where there is one account, which may do everything."""

    def __init__(self, root: Identity) -> None:
        self._root = root

    def allows(
        self, call: Call, action: str, bucket: str, key: str = "", version: str | None = None, **context: str
    ) -> bool:
        return True

    def display_name(self, owner_id: str) -> str:
        return self._root.display_name

    def canonical_id(self, owner_id: str) -> str:
        return owner_id or self._root.owner_id

    def is_account(self, owner_id: str) -> bool:
        return owner_id == self._root.owner_id

    def account_of_email(self, email: str) -> str | None:
        return None
