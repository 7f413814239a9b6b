"""The policy language of IAM and of bucket policies: parsed, checked as AWS checks it, and judged.

Promise: a document is compiled once for each text; judging one is linear in policy and request, whatever the wildcards.
Owns a bounded memory of compiled texts. Does not know accounts, ACLs, buckets or requests: the values of condition keys
come through a callable. Kind: pure, but for that memory.
Invariants: an explicit deny outranks every allow; what cannot be evaluated (a variable without a value, a key that is
not in the request) never allows anything; texts that a bucket keeps were checked before they were kept.
Spec: AWS IAM User Guide, "IAM JSON policy elements reference", "Policy evaluation logic"; AWS S3 User Guide, "The
meaning of 'public'"; Service Authorization Reference, "Amazon S3".
"""

from __future__ import annotations

import enum
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from s3api.condition import Condition, Context, Pattern, malformed, read_network
from s3api.errors import S3Error
from s3api.identity import Identity

POLICY_BYTES_MAX: Final = 20_480
VERSIONS: Final = ("2012-10-17", "2008-10-17")
"""The first has policy variables; the second is what a document without a version means."""

OBJECT_ACTIONS: Final = frozenset(
    {
        "AbortMultipartUpload", "BypassGovernanceRetention", "DeleteObject", "DeleteObjectTagging", "DeleteObjectVersion",
        "DeleteObjectVersionTagging", "GetObject", "GetObjectAcl", "GetObjectAttributes", "GetObjectLegalHold",
        "GetObjectRetention", "GetObjectTagging", "GetObjectTorrent", "GetObjectVersion", "GetObjectVersionAcl",
        "GetObjectVersionAttributes", "GetObjectVersionForReplication", "GetObjectVersionTagging",
        "GetObjectVersionTorrent", "InitiateReplication", "ListMultipartUploadParts", "ObjectOwnerOverrideToBucketOwner",
        "PutObject", "PutObjectAcl", "PutObjectLegalHold", "PutObjectRetention", "PutObjectTagging",
        "PutObjectVersionAcl", "PutObjectVersionTagging", "ReplicateDelete", "ReplicateObject", "ReplicateTags",
        "RestoreObject", "UpdateObjectEncryption",
    }
)  # fmt: skip
BUCKET_ACTIONS: Final = frozenset(
    {
        "CreateBucket", "CreateBucketMetadataTableConfiguration", "CreateSession", "DeleteBucket",
        "DeleteBucketMetadataTableConfiguration", "DeleteBucketPolicy", "DeleteBucketWebsite", "GetAccelerateConfiguration",
        "GetAnalyticsConfiguration", "GetBucketAbac", "GetBucketAcl", "GetBucketCORS", "GetBucketLocation",
        "GetBucketLogging", "GetBucketMetadataTableConfiguration", "GetBucketNotification",
        "GetBucketObjectLockConfiguration", "GetBucketOwnershipControls", "GetBucketPolicy", "GetBucketPolicyStatus",
        "GetBucketPublicAccessBlock", "GetBucketRequestPayment", "GetBucketTagging", "GetBucketVersioning",
        "GetBucketWebsite", "GetEncryptionConfiguration", "GetIntelligentTieringConfiguration",
        "GetInventoryConfiguration", "GetLifecycleConfiguration", "GetMetricsConfiguration",
        "GetReplicationConfiguration", "ListBucket", "ListBucketMultipartUploads", "ListBucketVersions",
        "ListTagsForResource", "TagResource", "UntagResource",
        "PutAccelerateConfiguration", "PutAnalyticsConfiguration", "PutBucketAbac", "PutBucketAcl", "PutBucketCORS",
        "PutBucketLogging", "PutBucketNotification", "PutBucketObjectLockConfiguration", "PutBucketOwnershipControls",
        "PutBucketPolicy", "PutBucketPublicAccessBlock", "PutBucketRequestPayment", "PutBucketTagging",
        "PutBucketVersioning", "PutBucketWebsite", "PutEncryptionConfiguration", "PutIntelligentTieringConfiguration",
        "PutInventoryConfiguration", "PutLifecycleConfiguration", "PutMetricsConfiguration",
        "PutReplicationConfiguration", "UpdateBucketMetadataInventoryTableConfiguration",
        "UpdateBucketMetadataJournalTableConfiguration",
    }
)  # fmt: skip

_S3_KEYS: Final = frozenset(
    {
        "authtype", "bucketversioning", "dataaccesspointaccount", "dataaccesspointarn", "delimiter", "existingobjecttag",
        "if-match", "if-none-match", "inventoryaccessibleoptionalfields", "locationconstraint", "max-keys",
        "object-lock-legal-hold", "object-lock-mode", "object-lock-remaining-retention-days",
        "object-lock-retain-until-date", "objectcreationoperation", "objectencryptiontype", "prefix", "requestobjecttag",
        "requestobjecttagkeys", "resourceaccount", "signatureage", "signatureversion", "tlsversion", "versionid",
        "x-amz-acl", "x-amz-content-sha256", "x-amz-copy-source", "x-amz-grant-full-control", "x-amz-grant-read",
        "x-amz-grant-read-acp", "x-amz-grant-write", "x-amz-grant-write-acp", "x-amz-metadata-directive",
        "x-amz-object-ownership", "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-server-side-encryption-customer-algorithm", "x-amz-storage-class", "x-amz-website-redirect-location",
    }
)  # fmt: skip
_TAGGED: Final = frozenset({"existingobjecttag", "requestobjecttag", "buckettag"})
"""Keys of `s3:` that name a tag after a slash."""

_FIELDS: Final = frozenset(
    {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
)
_ARN_PRINCIPAL: Final = re.compile(r"arn:aws[a-z-]*:(?:iam|sts)::[^:*?]*:[^*?]+\Z")
_ACCOUNT: Final = re.compile(r"[0-9]{12}\Z", re.ASCII)
_ACTION_TEXT: Final = re.compile(r"[A-Za-z0-9-]+:[A-Za-z0-9*?]+\Z", re.ASCII)


class Verdict(enum.Enum):
    """What one policy says of one request. DELEGATED: it allows the caller's account, which must allow the caller."""

    SILENT = 0
    DELEGATED = 1
    ALLOW = 2
    DENY = 3


# --- principals -------------------------------------------------------------------------------------------------------


class _Principals:
    """Who a statement is about."""

    __slots__ = ("_accounts", "_arns", "_canonical", "_names", "everyone")

    def __init__(self, value: object) -> None:
        self.everyone = False
        self._accounts: set[str] = set()
        self._arns: set[str] = set()
        self._canonical: set[str] = set()
        self._names: set[str] = set()
        if value == "*":
            self.everyone = True
            return
        if not isinstance(value, dict) or not value:
            raise malformed("Invalid principal in policy")
        for kind, given in value.items():
            for text in _texts(given, "Invalid principal in policy"):
                self._add(kind, text)

    def _add(self, kind: str, text: str) -> None:
        if kind == "CanonicalUser":
            self._canonical.add(text)
        elif kind in ("Service", "Federated"):
            self._arns.add(text)  # nobody here is one: the statement is kept, and matches no caller
        elif kind != "AWS":
            raise malformed("Invalid principal in policy")
        elif text == "*":
            self.everyone = True
        elif _ACCOUNT.match(text):
            self._accounts.add(text)
        elif _ARN_PRINCIPAL.match(text):
            account, name = text.split(":", 5)[4:]
            if name == "root":
                self._accounts.add(account)
            elif not account and name.startswith("user/") and name != "user/":
                # Without an account an ARN says nothing at AWS; other S3 servers have such, of users known by name.
                self._names.add(name.removeprefix("user/"))
            else:
                self._arns.add(text)
        else:
            raise malformed("Invalid principal in policy")

    def match(self, who: Identity) -> Verdict:
        """ALLOW where the caller itself is named, DELEGATED where its account is, else SILENT."""
        if self.everyone:
            return Verdict.ALLOW
        if not who.access_key:
            return Verdict.SILENT
        if who.arn in self._arns or (who.parent_arn and who.parent_arn in self._arns):
            return Verdict.ALLOW
        if who.user_name and who.user_name in self._names:
            return Verdict.ALLOW
        # A name may be an account's, whose users it names no more than the account's own ARN does.
        named = bool(self._names) and not self._names.isdisjoint((who.owner_id, who.display_name))
        if named or who.account_id in self._accounts or who.owner_id in self._canonical:
            return Verdict.ALLOW if who.root else Verdict.DELEGATED
        return Verdict.SILENT


# --- statements and policies ------------------------------------------------------------------------------------------


def _texts(value: object, message: str) -> list[str]:
    """One text or a list of texts."""
    found = value if isinstance(value, list) else [value]
    texts = [item for item in found if isinstance(item, str) and item]
    if not texts or len(texts) != len(found):
        raise malformed(message)
    return texts


class Statement:
    """One statement, compiled."""

    __slots__ = (
        "actions",
        "allow",
        "conditions",
        "not_action",
        "not_principal",
        "not_resource",
        "principals",
        "resources",
        "sid",
    )

    def __init__(self, source: Mapping[str, Any], variables: bool) -> None:
        for field in source:
            if field not in _FIELDS:
                raise malformed(f"Unknown field {field[:128]}")
        effect = source.get("Effect")
        if effect is None:
            raise malformed("Missing required field Effect")
        if effect not in ("Allow", "Deny"):
            raise malformed(f"Invalid effect: {str(effect)[:128]}")
        self.allow = effect == "Allow"
        self.sid = source.get("Sid", "")
        if not isinstance(self.sid, str):
            raise malformed("Invalid Sid in policy")
        self.principals, self.not_principal = _principals(source)
        self.not_action, actions = _either(source, "Action", "Policy has invalid action")
        self.actions = [Pattern(_action(text), fold=True) for text in actions]
        self.not_resource, resources = _either(source, "Resource", "Policy has invalid resource")
        self.resources = [Pattern(_resource(text), variables=variables) for text in resources]
        self.conditions = list(_conditions(source.get("Condition", {}), variables))

    def concerns(self, action: str, resource: str, context: Context) -> bool:
        """Whether it is about such a request, whoever makes it. `action` with its service prefix."""
        if any(pattern.match(action, context) for pattern in self.actions) is self.not_action:
            return False
        if any(pattern.match(resource, context) for pattern in self.resources) is self.not_resource:
            return False
        return all(condition.holds(context) for condition in self.conditions)

    def match_principal(self, who: Identity | None) -> Verdict:
        """As `_Principals.match`; `who` None: the policy is the caller's own, and names nobody."""
        if self.principals is None:
            return Verdict.ALLOW if who is None else Verdict.SILENT
        if who is None:
            return Verdict.SILENT
        found = self.principals.match(who)
        if self.not_principal:  # naming the account does not spare its users
            return Verdict.SILENT if found is Verdict.ALLOW else Verdict.ALLOW
        return found

    @property
    def public(self) -> bool:
        """Whether it lets in anybody: an allow of everyone that no condition limits to fixed values."""
        if not self.allow or self.principals is None or not self.principals.everyone:
            return False
        return not any(condition.limits and _limiting(condition) for condition in self.conditions)


def _principals(source: Mapping[str, Any]) -> tuple[_Principals | None, bool]:
    if "Principal" in source and "NotPrincipal" in source:
        raise malformed("Principal and NotPrincipal cannot both be given in one statement")
    if "NotPrincipal" in source:
        if source.get("Effect") == "Allow":
            raise malformed("Allow with NotPrincipal is not allowed.")
        return _Principals(source["NotPrincipal"]), True
    return (_Principals(source["Principal"]), False) if "Principal" in source else (None, False)


def _either(source: Mapping[str, Any], name: str, message: str) -> tuple[bool, list[str]]:
    """(whether it is the Not… form, the texts) of an element that has one."""
    negated = f"Not{name}"
    if name in source and negated in source:
        raise malformed(f"{name} and {negated} cannot both be given in one statement")
    if name not in source and negated not in source:
        raise malformed(f"Missing required field {name}")
    return negated in source, _texts(source.get(name, source.get(negated)), message)


def _action(text: str) -> str:
    if text != "*" and not _ACTION_TEXT.match(text):
        raise malformed("Policy has invalid action")
    return text


def _resource(text: str) -> str:
    if text == "*":
        return text
    fields = text.split(":", 5)
    if len(fields) != 6 or fields[0] != "arn" or not fields[5]:
        raise malformed("Policy has invalid resource")
    if fields[1].startswith("aws"):
        fields[1] = "aws"  # every partition is this one
    return ":".join(fields)


def _conditions(source: object, variables: bool) -> Iterator[Condition]:
    if not isinstance(source, dict):
        raise malformed("Invalid Condition in policy")
    for operator, keys in source.items():
        if not isinstance(keys, dict):
            raise malformed("Invalid Condition in policy")
        for key, given in keys.items():
            _check_key(key)
            values = given if isinstance(given, list) else [given]
            texts = [_scalar(value) for value in values]
            yield Condition(operator, key, texts, variables)


def _scalar(value: object) -> str:
    """A condition's value as text: JSON's numbers and booleans are taken as they are written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise malformed("Invalid value in Condition")


def _check_key(key: str) -> None:
    service, _, name = key.partition(":")
    service, name = service.lower(), name.partition("/")[0].lower()
    tagged = "/" in key
    if service == "s3" and (name not in _S3_KEYS | {"buckettag"} or tagged is not (name in _TAGGED)):
        raise malformed("Policy has an invalid condition key")
    if not service or not name:
        raise malformed("Policy has an invalid condition key")


_LIMITING: Final = frozenset(
    {
        "aws:sourcearn", "aws:sourcevpc", "aws:sourcevpce", "aws:sourceowner", "aws:sourceaccount", "aws:userid",
        "aws:principalorgid", "aws:principalorgpaths", "aws:principalarn", "aws:principalaccount", "aws:username",
        "s3:dataaccesspointarn", "s3:dataaccesspointaccount", "s3:x-amz-server-side-encryption-aws-kms-key-id",
    }
)  # fmt: skip
_BROAD_BITS: Final = {4: 8, 6: 32}
"""Networks wider than this are anybody, by IP version."""


def _limiting(condition: Condition) -> bool:
    """Whether it holds only for fixed values of a key that says who asks, or from where."""
    if condition.key == "aws:sourceip":
        networks = [read_network(value) for value in condition.values]
        return all(network is not None and network.prefixlen >= _BROAD_BITS[network.version] for network in networks)
    if condition.key not in _LIMITING:
        return False
    return all(not any(sign in value for sign in ("*", "?", "${")) for value in condition.values)


class Policy:
    """A whole document, compiled."""

    __slots__ = ("public", "statements")

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.statements = statements
        self.public = any(statement.public for statement in statements)
        """Whether AWS would call it public."""

    def judge(self, who: Identity | None, action: str, resource: str, context: Context) -> Verdict:
        """What it says of `action` (`s3:GetObject`) on `resource` (an ARN). `who`: the caller, for a policy of a
        resource; None for one that is attached to the caller."""
        best = Verdict.SILENT
        for statement in self.statements:
            if statement.allow and best is Verdict.ALLOW:
                continue
            found = statement.match_principal(who)
            if found is Verdict.SILENT or not statement.concerns(action, resource, context):
                continue
            if not statement.allow:
                return Verdict.DENY
            if found is Verdict.ALLOW or best is Verdict.SILENT:
                best = found
        return best


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two members of one name, one would be ignored: which, should not be a guess."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is given twice")
    return found


def _parse(text: str) -> Policy:
    if not text.lstrip().startswith("{"):
        raise malformed("Policies must be valid JSON and the first byte must be '{'")
    try:
        source = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise malformed("This policy contains invalid Json") from None
    for field in source:
        if field not in ("Version", "Id", "Statement"):
            raise malformed(f"Unknown field {field[:128]}")
    version = source.get("Version", VERSIONS[1])
    if version not in VERSIONS:
        raise malformed("The policy must contain a valid version string")
    if not isinstance(source.get("Id", ""), str):
        raise malformed("Invalid Id in policy")
    if "Statement" not in source:
        raise malformed("Missing required field Statement")
    given = source["Statement"]
    statements = given if isinstance(given, list) else [given]
    if not statements:
        raise malformed("Could not parse the policy: Statement is empty!")
    if not all(isinstance(statement, dict) for statement in statements):
        raise malformed("This policy contains invalid Json")
    made = [Statement(statement, version == VERSIONS[0]) for statement in statements]
    named = [statement.sid for statement in made if statement.sid]
    if len(set(named)) != len(named):
        raise malformed("Statement IDs (SID) in a single policy must be unique.")
    return Policy(made)


@functools.lru_cache(maxsize=1024)
def compiled(text: str) -> Policy:
    """The policy of a stored text. Raises MalformedPolicy."""
    return _parse(text)


def check_identity_policy(text: str) -> Policy:
    """A policy to be attached to a user, a group or a session. Raises MalformedPolicy."""
    policy = compiled(text)
    for statement in policy.statements:
        if statement.principals is not None:
            raise malformed("Policy document should not specify a principal.")
    return policy


def check_bucket_policy(text: str, bucket: str) -> Policy:
    """A policy to be kept by `bucket`. Raises MalformedPolicy, PolicyTooLarge."""
    if len(text.encode("utf-8", "surrogatepass")) > POLICY_BYTES_MAX:
        raise S3Error("PolicyTooLarge")
    policy = compiled(text)
    for statement in policy.statements:
        if statement.principals is None:
            raise malformed("Missing required field Principal")
        kinds = set()
        for pattern in statement.resources:
            kinds |= _kinds_inside(pattern.text, bucket)
        if statement.not_action:
            continue
        for pattern in statement.actions:
            applies = _kinds_of_action(pattern)
            if not applies:
                raise malformed("Policy has invalid action")
            if not statement.not_resource and not applies & kinds:
                raise malformed("Action does not apply to any resource(s) in statement")
    return policy


def _kinds_inside(resource: str, bucket: str) -> set[str]:
    """Whether a resource is the bucket, objects of it, or both. Raises MalformedPolicy for one that is not of it."""
    fields = resource.split(":", 5)
    if len(fields) != 6 or fields[2] != "s3" or fields[3] not in ("", "*") or fields[4] not in ("", "*"):
        raise malformed("Policy has invalid resource")
    name, slash, _ = fields[5].partition("/")
    if not Pattern(name).match(bucket, _nothing):
        raise malformed("Policy has invalid resource")
    return {"object"} if slash else {"bucket", "object"} if name.endswith("*") else {"bucket"}


def _kinds_of_action(pattern: Pattern) -> set[str]:
    kinds = set()
    for kind, names in (("object", OBJECT_ACTIONS), ("bucket", BUCKET_ACTIONS)):
        if any(pattern.match(f"s3:{name}", _nothing) for name in names):
            kinds.add(kind)
    return kinds


def _nothing(_: str) -> None:
    return None
