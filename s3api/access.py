"""Who may do what to which bucket or object: the one judgement of a request's rights.

Promise: explicit deny wins, then an allow of identity policy, bucket policy or ACL, else denied, as AWS evaluates them.
Owns nothing. Does not know how a caller proved who it is. Kind: pure.
Spec: AWS IAM User Guide, "Policy evaluation logic"; AWS S3 User Guide, "How Amazon S3 authorizes a request".
"""

from __future__ import annotations

from s3api.call import Call, Identity


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
