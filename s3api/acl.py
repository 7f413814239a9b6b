"""Access control lists: the document both ways, canned lists, grant headers, the short text that is kept, its judgement.

The kept text is one entry a grant, divided by spaces: a letter for the permission (`F` FULL_CONTROL, `R` READ, `W` WRITE,
`r` READ_ACP, `w` WRITE_ACP), then the grantee: nothing for the owner, `*` all users, `+` authenticated users, `$` log
delivery, else a canonical id. "" is the private list, `F` alone; a list without any grant is `-`.

Owns nothing. Does not know buckets, policies or what operation asks. Kind: pure.
Invariants: every text this module makes can be read by it; a grant whose grantee nobody knows is refused before it is kept.
Spec: AWS S3 User Guide, "Access control list (ACL) overview"; AWS PutBucketAcl, PutObjectAcl, GetObjectAcl.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from s3api import xml
from s3api.errors import S3Error
from s3api.identity import Identity
from s3api.message import Headers

GRANTS_MAX: Final = 100
DOCUMENT: Final = "AccessControlPolicy"

PERMISSIONS: Final = {"FULL_CONTROL": "F", "READ": "R", "WRITE": "W", "READ_ACP": "r", "WRITE_ACP": "w"}
_NAMES: Final = {letter: name for name, letter in PERMISSIONS.items()}

OWNER: Final = ""
EVERYONE: Final = "*"
AUTHENTICATED: Final = "+"
LOG_DELIVERY: Final = "$"
GROUPS: Final = {
    "http://acs.amazonaws.com/groups/global/AllUsers": EVERYONE,
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers": AUTHENTICATED,
    "http://acs.amazonaws.com/groups/s3/LogDelivery": LOG_DELIVERY,
}
_URIS: Final = {sign: uri for uri, sign in GROUPS.items()}
PUBLIC_GROUPS: Final = frozenset({EVERYONE, AUTHENTICATED})

EXEC_READER: Final = "6aa5a366c34c1cbe25dc49211496e913e0351eb0e8c37aa3477e40942ec6b97c"
"""The canonical id that aws-exec-read grants reading to at AWS."""

ANONYMOUS_ID: Final = "65a011a29cdf8ec533ec3d1ccaae921c"
"""The canonical id that owns what nobody in particular wrote, as at AWS."""

_CANNED: Final[Mapping[str, tuple[str, ...]]] = {
    "private": ("F",),
    "public-read": ("F", "R*"),
    "public-read-write": ("F", "R*", "W*"),
    "authenticated-read": ("F", "R+"),
    "aws-exec-read": ("F", f"R{EXEC_READER}"),
    "log-delivery-write": ("F", "W$", "r$"),
}
_CANNED_FOR_OBJECTS: Final = {"bucket-owner-read": "R", "bucket-owner-full-control": "F"}
CANNED: Final = frozenset({*_CANNED, *_CANNED_FOR_OBJECTS})

ACL_HEADER: Final = b"x-amz-acl"
GRANT_HEADERS: Final = {
    b"x-amz-grant-read": "R",
    b"x-amz-grant-write": "W",
    b"x-amz-grant-read-acp": "r",
    b"x-amz-grant-write-acp": "w",
    b"x-amz-grant-full-control": "F",
}
"""In the order their grants are kept and shown in."""
_GRANTEE: Final = re.compile(r'\s*(id|uri|emailAddress)\s*=\s*(?:"([^"]*)"|([^",\s]+))\s*(?:,|\Z)', re.IGNORECASE)
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
TYPE: Final = f"{XSI}}}type"
"""The attribute that says what kind of grantee one is, as a Node has it."""


class Accounts(Protocol):
    """What is known of accounts, by canonical id."""

    def display_name(self, owner_id: str) -> str: ...

    def is_account(self, owner_id: str) -> bool: ...

    def account_of_email(self, email: str) -> str | None:
        """The canonical id; None for an address nobody has."""


class Grant(NamedTuple):
    """`letter`: the permission as it is kept. `grantee`: "" the owner, a group's sign, or a canonical id."""

    letter: str
    grantee: str

    @property
    def permission(self) -> str:
        return _NAMES[self.letter]


# --- the kept text ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def grants(text: str) -> tuple[Grant, ...]:
    """The grants of a kept text, in the order given."""
    if not text:
        return (Grant("F", OWNER),)
    return () if text == "-" else tuple(Grant(entry[0], entry[1:]) for entry in text.split(" "))


def kept(entries: Iterable[Grant]) -> str:
    """The text to keep. Raises MalformedACLError above GRANTS_MAX."""
    found = list(dict.fromkeys(entries))
    if len(found) > GRANTS_MAX:
        raise S3Error("MalformedACLError", f"An access control list can have up to {GRANTS_MAX} grants.")
    if found == [("F", OWNER)]:
        return ""
    return " ".join(letter + grantee for letter, grantee in found) or "-"


@functools.lru_cache(maxsize=4096)
def is_public(text: str) -> bool:
    """Whether it grants anything to everyone, or to everyone who has an account anywhere."""
    return any(grant.grantee in PUBLIC_GROUPS for grant in grants(text))


def permits(text: str, letter: str, who: Identity, owner_id: str, *, ignore_public: bool = False) -> bool:
    """Whether a list kept with something of `owner_id` grants the caller's account a permission, by its letter."""
    if not text:
        return bool(who.access_key) and who.owner_id == owner_id
    for granted, grantee in grants(text):
        if granted not in ("F", letter):
            continue
        if grantee in PUBLIC_GROUPS:
            if not ignore_public and (grantee == EVERYONE or who.access_key):
                return True
        elif who.access_key and who.owner_id == (grantee or owner_id):
            return True
    return False


# --- from a request ---------------------------------------------------------------------------------------------------


def asked(headers: Headers) -> bool:
    """Whether a request says anything of an access list in its headers."""
    return bool(named(headers)) or not GRANT_HEADERS.keys().isdisjoint(headers)


def named(headers: Headers) -> str:
    """The canned list of a request, "" for none: some clients send the header empty when they mean none."""
    return headers.get(ACL_HEADER, b"").decode("latin-1").strip()


def from_headers(
    headers: Headers, accounts: Accounts, owner_id: str, bucket_owner_id: str, *, of_object: bool
) -> str | None:
    """The text to keep of x-amz-acl or x-amz-grant-…; None when neither is there.

    `owner_id`: of the bucket or object the list is for. Raises InvalidRequest for both at once, InvalidArgument,
    UnresolvableGrantByEmailAddress, MalformedACLError.
    """
    granting = [name for name in GRANT_HEADERS if name in headers]
    if canned_name := named(headers):
        if granting:
            raise S3Error("InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed")
        return canned(canned_name, owner_id, bucket_owner_id, of_object=of_object)
    if not granting:
        return None
    return kept(
        Grant(GRANT_HEADERS[name], _own(grantee, owner_id))
        for name in granting
        for grantee in _header_grantees(name.decode(), headers[name].decode("latin-1"), accounts)
    )


def canned(name: str, owner_id: str, bucket_owner_id: str, *, of_object: bool) -> str:
    """The text of a canned list. Raises InvalidArgument."""
    entries = _CANNED.get(name)
    if entries is not None:
        return kept(Grant(entry[0], entry[1:]) for entry in entries)
    letter = _CANNED_FOR_OBJECTS.get(name)
    if letter is None:
        raise S3Error("InvalidArgument", ArgumentName="x-amz-acl", ArgumentValue=name[:256])
    if not of_object or owner_id == bucket_owner_id:  # of a bucket, AWS ignores what is about its owner
        return ""
    return kept((Grant("F", OWNER), Grant(letter, bucket_owner_id)))


def _own(grantee: str, owner_id: str) -> str:
    return OWNER if grantee == owner_id else grantee


def _header_grantees(name: str, value: str, accounts: Accounts) -> Iterator[str]:
    at = 0
    if not value.strip():
        raise S3Error("InvalidArgument", "Argument format not recognized", ArgumentName=name, ArgumentValue="")
    while at < len(value):
        match = _GRANTEE.match(value, at)
        if match is None:
            raise S3Error(
                "InvalidArgument", "Argument format not recognized", ArgumentName=name, ArgumentValue=value[:256]
            )
        at = match.end()
        kind, text = match.group(1).lower(), match.group(2) if match.group(2) is not None else match.group(3)
        if kind == "id":
            yield _canonical(text, accounts, "id")
        elif kind == "uri":
            yield _group(text)
        else:
            yield _by_email(text, accounts)


def _canonical(text: str, accounts: Accounts, argument: str) -> str:
    if text not in (EXEC_READER, ANONYMOUS_ID) and not accounts.is_account(text):
        raise S3Error("InvalidArgument", "Invalid id", ArgumentName=argument, ArgumentValue=text[:256])
    return text


def _group(text: str) -> str:
    found = GROUPS.get(text)
    if found is None:
        raise S3Error("InvalidArgument", "Invalid group uri", ArgumentName="uri", ArgumentValue=text[:256])
    return found


def _by_email(text: str, accounts: Accounts) -> str:
    found = accounts.account_of_email(text)
    if found is None:
        raise S3Error("UnresolvableGrantByEmailAddress")
    return found


def from_document(body: bytes, accounts: Accounts, owner_id: str) -> str:
    """The text to keep of an AccessControlPolicy document for something of `owner_id`.

    Raises MalformedACLError, InvalidArgument, UnresolvableGrantByEmailAddress; AccessDenied where the document names
    another account as owner: ownership cannot be given away.
    """
    try:
        root = xml.parse(body, DOCUMENT)
        owner = root.find("Owner")
        named = None if owner is None else owner.required("ID").strip()
        holder = root.find("AccessControlList")
        if named is None or holder is None or any(child.name != "Grant" for child in holder.children):
            raise S3Error("MalformedACLError")
        nodes = [(node.required("Permission").strip(), node.find("Grantee")) for node in holder.children]
    except S3Error as error:
        if error.spec.code == "MalformedXML":
            raise S3Error("MalformedACLError") from None
        raise
    if len(nodes) > GRANTS_MAX:
        raise S3Error("MalformedACLError")
    if named != owner_id:
        _canonical(named, accounts, "CanonicalUser/ID")
        raise S3Error("AccessDenied")
    return kept(document_grants(nodes, accounts, owner_id))


def document_grants(nodes: Iterable[tuple[str, xml.Node | None]], accounts: Accounts, owner_id: str) -> Iterator[Grant]:
    """The grants of permissions with their Grantee elements. Raises as `from_document`, but for owners."""
    for permission, grantee in nodes:
        letter = PERMISSIONS.get(permission)
        if letter is None or grantee is None:
            raise S3Error("MalformedACLError")
        try:
            match grantee.attributes.get(TYPE, ""):
                case "CanonicalUser":
                    found = _canonical(grantee.required("ID").strip(), accounts, "CanonicalUser/ID")
                case "Group":
                    found = _group(grantee.required("URI").strip())
                case "AmazonCustomerByEmail":
                    found = _by_email(grantee.required("EmailAddress").strip(), accounts)
                case _:
                    raise S3Error("MalformedACLError")
        except S3Error as error:
            if error.spec.code == "MalformedXML":
                raise S3Error("MalformedACLError") from None
            raise
        yield Grant(letter, _own(found, owner_id))


# --- the document -----------------------------------------------------------------------------------------------------


def write_user(writer: xml.XmlWriter, accounts: Accounts, owner_id: str) -> None:
    """ID and, where one is known, DisplayName."""
    writer.leaf("ID", owner_id)
    writer.leaf("DisplayName", accounts.display_name(owner_id) or None)


def document(text: str, accounts: Accounts, owner_id: str) -> bytes:
    """The AccessControlPolicy of a kept text: groups, then accounts, as clients that put such lists in order expect."""
    writer = xml.XmlWriter(DOCUMENT)
    with writer.nested("Owner"):
        write_user(writer, accounts, owner_id)
    with writer.nested("AccessControlList"):
        for grant in sorted(grants(text), key=lambda grant: grant.grantee not in _URIS):
            with writer.nested("Grant"):
                write_grantee(writer, accounts, grant.grantee or owner_id)
                writer.leaf("Permission", grant.permission)
    return writer.finish()


def write_grantee(writer: xml.XmlWriter, accounts: Accounts, grantee: str, element: str = "Grantee") -> None:
    """One grantee, a group's sign or a canonical id, with its type."""
    uri = _URIS.get(grantee)
    kind = "CanonicalUser" if uri is None else "Group"
    with writer.nested(element, f'xmlns:xsi="{XSI}" xsi:type="{kind}"'):
        if uri is None:
            write_user(writer, accounts, grantee)
        else:
            writer.leaf("URI", uri)
