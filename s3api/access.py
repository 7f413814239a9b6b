"""Who may do what to which bucket or object: the one judgement of a request's rights.

Promise: explicit deny wins, then an allow of identity policy, bucket policy or access list, else denied, as AWS evaluates
them. Within an account one allow is enough; over accounts both sides must allow. An account that calls for itself needs
nobody's leave for what it owns, unless its bucket's policy denies it, and may always read, write and remove that policy.

Owns nothing. Does not know how a caller proved who it is. Kind: pure. Invariants: a caller without a name is nobody's
account; what an object's owner, list or tags decide is never allowed without having seen the object.
Spec: AWS IAM User Guide, "Policy evaluation logic"; AWS S3 User Guide, "How Amazon S3 authorizes a request",
"Controlling ownership of objects", "Blocking public access".
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple, Protocol

from s3api import acl
from s3api.call import Call
from s3api.errors import S3Error
from s3api.facts import Facts
from s3api.identity import Begun, Identity
from s3api.policy import Verdict, compiled
from s3api.session import Sessions
from tiering.contract import BucketInfo, ObjectInfo

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


# --- which grant of a list stands for which right ---------------------------------------------------------------------

_BUCKET_LETTERS: Final = {
    "s3:ListBucket": "R",
    "s3:ListBucketVersions": "R",
    "s3:ListBucketMultipartUploads": "R",
    "s3:PutObject": "W",
    "s3:DeleteObject": "W",
    "s3:PutObjectTagging": "W",
    "s3:GetBucketAcl": "r",
    "s3:PutBucketAcl": "w",
}
_OBJECT_LETTERS: Final = {
    "s3:GetObject": "R",
    "s3:GetObjectVersion": "R",
    "s3:GetObjectAcl": "r",
    "s3:GetObjectVersionAcl": "r",
    "s3:PutObjectAcl": "w",
    "s3:PutObjectVersionAcl": "w",
}
"""Rights to an object that its own list, and its own owner, decide."""
_OF_OWN: Final = frozenset({"s3:DeleteObject", "s3:PutObjectTagging"})
"""Rights that a bucket's list gives to what the grantee makes or owns, and to nothing else."""
_OWN_RIGHTS: Final = frozenset({"s3:PutObjectAcl", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"})
"""Rights to what another account makes in a bucket, which that account has without the bucket's leave."""
READS: Final = frozenset({"s3:GetObject", "s3:GetObjectVersion"})
_TAG_JUDGED: Final = frozenset(
    {
        *_OBJECT_LETTERS,
        "s3:GetObjectAttributes",
        "s3:GetObjectTagging",
        "s3:GetObjectVersionAttributes",
        "s3:GetObjectVersionTagging",
        "s3:PutObjectTagging",
        "s3:PutObjectVersionTagging",
        "s3:DeleteObjectTagging",
        "s3:DeleteObjectVersionTagging",
    }
)
"""Rights that may depend on tags the object has (`s3:ExistingObjectTag`)."""
_POLICY_RIGHTS: Final = frozenset({"s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"})


class Directory(Protocol):
    """What is known of accounts, by canonical id; "" is the gateway's own account."""

    def display_name(self, owner_id: str) -> str: ...

    def canonical_id(self, owner_id: str) -> str: ...

    def account_id(self, owner_id: str) -> str | None:
        """Its twelve digits; None where nobody is known by that id."""

    def account_of_email(self, email: str) -> str | None: ...


class OneAccount:
    """A Directory of one account, for gateways (and tests) without any other."""

    def __init__(self, root: Identity) -> None:
        self._root = root

    def display_name(self, owner_id: str) -> str:
        return self._root.display_name if owner_id in ("", self._root.owner_id) else ""

    def canonical_id(self, owner_id: str) -> str:
        return owner_id or self._root.owner_id

    def account_id(self, owner_id: str) -> str | None:
        return self._root.account_id if owner_id in ("", self._root.owner_id) else None

    def account_of_email(self, email: str) -> str | None:
        return None


class Rights:
    """The judgement, under one directory of accounts. Implements `s3api.call.Access`."""

    __slots__ = ("_directory", "_sessions")

    def __init__(self, directory: Directory, sessions: Sessions | None = None) -> None:
        self._directory = directory
        self._sessions = sessions

    # who is who

    def display_name(self, owner_id: str) -> str:
        return self._directory.display_name(owner_id)

    def canonical_id(self, owner_id: str) -> str:
        return self._directory.canonical_id(owner_id)

    def is_account(self, owner_id: str) -> bool:
        return bool(owner_id) and self._directory.account_id(owner_id) is not None

    def account_of_email(self, email: str) -> str | None:
        return self._directory.account_of_email(email)

    def check_owner(self, header: str, stated: str, bucket: BucketInfo) -> None:
        """Raises AccessDenied where a request states another owner of a bucket than it has."""
        if stated not in (self._directory.account_id(bucket.owner), self._directory.canonical_id(bucket.owner)):
            raise S3Error("AccessDenied", f"The bucket is not owned by the account that {header} names.")

    def begin_session(self, who: Identity, duration_s: int, policy: str, name: str, now_s: int) -> Begun:
        """See `Access`."""
        if self._sessions is None:
            raise S3Error("NotImplemented")
        return self._sessions.begin(who, duration_s, policy, name, now_s)

    def open_session(self, token: str, now_s: int) -> Identity:
        """The identity of a session's token. Raises InvalidToken, ExpiredToken."""
        if self._sessions is None:
            raise S3Error("InvalidToken")
        return self._sessions.open(token, now_s)

    # who may do what

    def is_plain(self, who: Identity, action: str, bucket: BucketInfo) -> bool:
        """Whether nothing needs judging: an account at its own bucket, without a policy. The usual case, and cheap.

        Of an object that somebody else owns, what it grants is then judged when it is opened (`Call.check_object`).
        """
        return (
            who.root  # never of a caller without a name
            and who.owner == bucket.owner
            and not who.session_policy
            and "policy" not in bucket.documents
            and (action not in _OBJECT_LETTERS or action in READS or ownership_of(bucket) == ENFORCED)
        )

    def by_list(self, action: str, bucket: BucketInfo) -> bool:
        """Whether the object's own list may decide `action`."""
        return action in _OBJECT_LETTERS and ownership_of(bucket) != ENFORCED

    def by_owner(self, action: str, bucket: BucketInfo) -> bool:
        """Whether it may matter that the caller owns the object: deleting is for owners among those a list lets write."""
        return action == "s3:DeleteObject" and "acl" in bucket.documents

    def by_tags(self, who: Identity, action: str, bucket: BucketInfo) -> bool:
        """Whether the object's tags may decide `action`."""
        if action not in _TAG_JUDGED:
            return False
        texts = (bucket.documents.get("policy", ""), who.session_policy, *who.policies)
        return any("existingobjecttag" in text.lower() for text in texts)

    def by_request_tags(self, who: Identity, bucket: BucketInfo) -> bool:
        """Whether the tags that a request brings may decide anything."""
        texts = (bucket.documents.get("policy", ""), who.session_policy, *who.policies)
        return any("requestobjecttag" in text.lower() for text in texts)

    def by_location(self, who: Identity) -> bool:
        """Whether where a bucket is made may decide whether it is."""
        return any("locationconstraint" in text.lower() for text in (who.session_policy, *who.policies))

    def shuts_out_strangers(self, action: str, bucket: BucketInfo) -> bool:
        """Whether who has no name may surely do `action` to no key of the bucket, whatever stands there."""
        if "policy" in bucket.documents:
            return False
        if ownership_of(bucket) == ENFORCED or public_access_of(bucket).ignore_acls:
            return True
        return action not in _OBJECT_LETTERS and not acl.is_public(bucket.documents.get("acl", ""))

    def allows(self, call: Call, action: str, bucket: str, key: str = "", info: ObjectInfo | None = None) -> bool:
        """See `Access`."""
        return self.judge(call, action, call.store.bucket(bucket), key, info)

    def judge(
        self,
        call: Call,
        action: str,
        bucket: BucketInfo,
        key: str = "",
        info: ObjectInfo | None = None,
        own: bool = False,
    ) -> bool:
        """Whether the caller may do `action` in `bucket`; `info`: the object, None where it is not there, or not seen.

        `own`: it is about what the caller makes, or began to make, in the bucket.
        """
        who = call.identity
        own_account = bool(who.access_key) and who.owner == bucket.owner
        writer_id = "" if info is None else info.owner
        if own_account and who.root and not who.session_policy and not writer_id and "policy" not in bucket.documents:
            return True
        canonical = self._directory.canonical_id(bucket.owner)
        owner_id = writer_id or canonical
        foreign = owner_id != canonical and ownership_of(bucket) != ENFORCED
        context = Facts(call, self._directory.account_id(bucket.owner) or "", info)
        resource = f"arn:aws:s3:::{bucket.name}/{key}" if key else f"arn:aws:s3:::{bucket.name}"
        verdict = _of_bucket_policy(who, action, bucket, resource, context)
        if verdict is Verdict.DENY:
            return own_account and who.root and not who.session_policy and action in _POLICY_RIGHTS
        restricted = not own_account and public_access_of(bucket).restrict
        if restricted and verdict is not Verdict.SILENT and compiled(bucket.documents["policy"]).public:
            verdict = Verdict.SILENT
        said = _of_identity(who, action, resource, context)
        if said is Verdict.DENY or not _within_session(who, action, resource, context):
            return False
        if own_account:
            if foreign and action in _OBJECT_LETTERS:  # a bucket's owner is not the owner of all that is in it
                return said is Verdict.ALLOW and self._listed(who, action, bucket, info, owner_id)
            return said is Verdict.ALLOW or verdict is Verdict.ALLOW
        if foreign and action in _OBJECT_LETTERS:  # its policy is for what the bucket's owner owns
            verdict = Verdict.SILENT
        granted = (
            verdict is not Verdict.SILENT
            or self._listed(who, action, bucket, info, owner_id, own)
            or (own and action in _OWN_RIGHTS and ownership_of(bucket) != ENFORCED)
        )
        return granted and (said is Verdict.ALLOW or not who.access_key)

    def judge_unbound(self, call: Call, action: str, resource: str) -> bool:
        """Whether the caller may do what is about no standing bucket: list its buckets, make one."""
        who = call.identity
        context = Facts(call, who.account_id)
        return (
            bool(who.access_key)
            and _of_identity(who, action, resource, context) is Verdict.ALLOW
            and _within_session(who, action, resource, context)
        )

    def _listed(
        self,
        who: Identity,
        action: str,
        bucket: BucketInfo,
        info: ObjectInfo | None,
        owner_id: str,
        own: bool = False,
    ) -> bool:
        """Whether an access list grants it: the bucket's, or the object's own. `own` as for `judge`."""
        if ownership_of(bucket) == ENFORCED:
            return False
        ignore = public_access_of(bucket).ignore_acls
        letter = _OBJECT_LETTERS.get(action)
        if letter is None:
            letter = _BUCKET_LETTERS.get(action)
            owns = own or (info is not None and bool(info.owner) and info.owner == who.owner_id)
            if action in _OF_OWN and not owns:
                return False
            text = bucket.documents.get("acl", "")
            owner_id = self._directory.canonical_id(bucket.owner)
            return letter is not None and acl.permits(text, letter, who, owner_id, ignore_public=ignore)
        if info is None:
            return False
        if letter in ("r", "w") and who.access_key and who.owner_id == owner_id:
            return True  # an owner can always see and mend the list of what it owns
        return acl.permits(info.acl, letter, who, owner_id, ignore_public=ignore)


def _of_bucket_policy(who: Identity, action: str, bucket: BucketInfo, resource: str, context: Facts) -> Verdict:
    text = bucket.documents.get("policy")
    return compiled(text).judge(who, action, resource, context) if text else Verdict.SILENT


def _of_identity(who: Identity, action: str, resource: str, context: Facts) -> Verdict:
    """What the caller's own policies say; an account needs none."""
    if not who.access_key:
        return Verdict.SILENT
    if who.root:
        return Verdict.ALLOW
    best = Verdict.SILENT
    for text in who.policies:
        found = compiled(text).judge(None, action, resource, context)
        if found is Verdict.DENY:
            return found
        if found is Verdict.ALLOW:
            best = found
    return best


def _within_session(who: Identity, action: str, resource: str, context: Facts) -> bool:
    """Whether the policy a session was begun with, if any, allows it too."""
    if not who.session_policy:
        return True
    return compiled(who.session_policy).judge(None, action, resource, context) is Verdict.ALLOW


# --- what is kept with a new object -----------------------------------------------------------------------------------


class Ownership(NamedTuple):
    """What a write keeps: `owner` "" is the bucket's, `acl` "" is private."""

    owner: str = ""
    acl: str = ""


_BUCKETS_OWN: Final = Ownership()
_FULL_CONTROL: Final = "bucket-owner-full-control"


def ownership_for(call: Call, bucket: BucketInfo) -> Ownership:
    """Owner and list of an object that `call` writes into `bucket`. Cheap where neither is in question.

    What nobody in particular writes belongs to the bucket's owner. # differs from AWS: there it is nobody's, and the
    bucket's owner cannot read it.
    Raises AccessControlListNotSupported, AccessDenied (public lists are blocked), and what `acl.from_headers` does.
    """
    headers = call.request.headers
    who = call.identity
    own_account = not who.access_key or who.owner == bucket.owner
    asked = acl.asked(headers)
    if own_account and not asked:
        return _BUCKETS_OWN
    rule = ownership_of(bucket)
    bucket_owner = call.access.canonical_id(bucket.owner)
    gives = acl.named(headers) == _FULL_CONTROL
    if rule == ENFORCED:
        if asked and not gives:
            text = acl.from_headers(headers, call.access, bucket_owner, bucket_owner, of_object=True)
            if text or acl.named(headers):
                raise S3Error("AccessControlListNotSupported")
        return _BUCKETS_OWN
    owner_id = bucket_owner if own_account or (rule == PREFERRED and gives) else who.owner_id
    text = acl.from_headers(headers, call.access, owner_id, bucket_owner, of_object=True) or ""
    check_public_list(text, bucket)
    return Ownership("" if owner_id == bucket_owner else owner_id, text)


def is_listed_publicly(bucket: BucketInfo) -> bool:
    """Whether the bucket's own list lets everyone in, where such lists count."""
    if ownership_of(bucket) == ENFORCED or public_access_of(bucket).ignore_acls:
        return False
    return acl.is_public(bucket.documents.get("acl", ""))


def check_public_list(text: str, bucket: BucketInfo) -> None:
    """Raises AccessDenied for a public list where the bucket blocks them."""
    if public_access_of(bucket).block_acls and acl.is_public(text):
        raise S3Error("AccessDenied")
