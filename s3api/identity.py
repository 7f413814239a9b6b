"""Who calls: an identity as the pipeline found it, and the credentials of a session it began.

Owns nothing. Does not know signatures, nor what an identity may do. Kind: value types.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Identity(msgspec.Struct, frozen=True):
    """Who calls. `access_key` "" is anonymous. `owner_id` is the canonical id of the account, shown in listings.

    `owner`: the account as the store keeps it in `BucketInfo.owner`, "" for the gateway's own. `root`: the account itself,
    which needs nobody's leave for what it owns; others may do what `policies`, IAM policy texts, say. `session_policy`
    narrows both; `parent_arn`: the user that a session is of. `session_token`: what the credentials are sent with.
    """

    access_key: str
    secret_key: str = ""
    owner_id: str = ""
    display_name: str = ""
    root: bool = False
    owner: str = ""
    account_id: str = ""
    arn: str = ""
    user_id: str = ""
    user_name: str = ""
    policies: tuple[str, ...] = ()
    session_policy: str = ""
    parent_arn: str = ""
    session_token: str = ""

    def __repr__(self) -> str:
        return f"Identity({self.access_key!r}, {self.arn!r})"


class Begun(NamedTuple):
    """A new session's credentials."""

    access_key: str
    secret_key: str
    token: str
    expires_s: int
