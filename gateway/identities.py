"""Accounts, users, groups and policies: one file, which every worker reads again when it has changed.

Promise: a change is in force everywhere within a second, a new key at once, without a restart; a file that cannot be used
leaves what was known before in force, also in a worker that is started again meanwhile, and says so in the log. A secret is
never in a log line or a repr; a file that others on the machine may read is refused rather than repaired.

The gateway's own account, whose root has the credentials of `gateway.credentials`, is not in the file: its users are those
whose account is "". Others can do what their policies say; the root of an account, everything in it.

Owns the file and, in memory, what was last read of it. Does not know requests or what policies mean (`s3api.policy`).
Kind: owner of one file (processes: workers read, the command line writes, under a lock). Invariants: the file is replaced,
never changed in place; an access key is one user's; every policy in it was checked.
Spec: docs/OPERATIONS.md, "Accounts and users".
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway import secretfile
from gateway.credentials import ACCESS_KEY_CHARACTERS_MIN, SECRET_KEY_CHARACTERS_MIN, Credentials
from gateway.secretfile import SecretFileError, UnreadError
from s3api.errors import S3Error
from s3api.identity import Identity
from s3api.policy import check_identity_policy
from tiering.folder import make_folder

FILE_NAME: Final = "identities.json"
BYTES_MAX: Final = 64 << 20
ROOT_CANONICAL_ID: Final = "02d6176db174dc93cb1b899f7c6078f08654445fe8cf1b6ce98d8855f66bdbf4"
"""Canonical id of the gateway's own account; any 64 hexadecimal digits would do."""
ROOT_ACCOUNT_ID: Final = "100000000001"

_log = logging.getLogger("recall.identities")

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+=,.@-]{0,63}\Z", re.ASCII)
_CANONICAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._$:-]{0,127}\Z", re.ASCII)
_ACCOUNT_ID: Final = re.compile(r"[0-9]{12}\Z", re.ASCII)


def _statement(*actions: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": ["arn:aws:s3:::*"]}


def _document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


CANNED: Final[Mapping[str, Mapping[str, Any]]] = {
    "readonly": _document(_statement("s3:GetBucketLocation", "s3:GetObject")),
    "writeonly": _document(_statement("s3:PutObject")),
    "readwrite": _document(_statement("s3:*")),
    "diagnostics": _document(
        _statement(
            "admin:BandwidthMonitor",
            "admin:ConsoleLog",
            "admin:OBDInfo",
            "admin:Profiling",
            "admin:Prometheus",
            "admin:ServerInfo",
            "admin:ServerTrace",
            "admin:TopLocksInfo",
        )
    ),
    "consoleAdmin": _document(_statement("admin:*"), _statement("kms:*"), _statement("s3:*")),
}
"""Policies that are always there, by the names MinIO gives them."""


class IdentitiesError(Exception):
    """The file cannot be used, or a change cannot be made."""


class Key(msgspec.Struct, frozen=True):
    """One pair of credentials."""

    access_key: str
    secret_key: str
    enabled: bool = True

    def __repr__(self) -> str:
        return f"Key({self.access_key!r})"


class Account(msgspec.Struct, frozen=True):
    """`canonical_id`: what owners and grantees are called by; `account_id`: twelve digits, for ARNs."""

    account_id: str
    canonical_id: str
    display_name: str = ""
    email: str = ""


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """`account` "" is the gateway's own. `root`: speaks for the account itself, and needs no policy."""

    account: str = ""
    root: bool = False
    user_id: str = ""
    enabled: bool = True
    keys: tuple[Key, ...] = ()
    policies: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class Group(msgspec.Struct, frozen=True, omit_defaults=True):
    """What its members may do, beside what they may themselves."""

    policies: tuple[str, ...] = ()


class Book(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of the file."""

    accounts: dict[str, Account] = {}
    users: dict[str, User] = {}
    groups: dict[str, Group] = {}
    policies: dict[str, dict[str, Any]] = {}

    def policy_text(self, name: str) -> str | None:
        """A policy's document; None for a name nobody knows."""
        document = self.policies.get(name) or CANNED.get(name)
        return None if document is None else json.dumps(document, separators=(",", ":"))


# --- the file ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> Book:
    """What the file says; an empty book where there is none. Raises IdentitiesError."""
    try:
        content = secretfile.read(path, BYTES_MAX, "give its users new keys, or accept them with chmod 600")
    except SecretFileError as error:
        raise IdentitiesError(str(error)) from error
    if content is None:
        return Book()
    try:
        book = msgspec.json.decode(content, type=Book)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IdentitiesError(f"{path} cannot be understood: {error}") from None
    faults = list(_faults(book))
    if faults:
        raise IdentitiesError(f"{path} cannot be used: " + "; ".join(faults))
    return book


def write(path: Path, book: Book) -> None:
    """Replaces the file. Raises IdentitiesError for a book that could not be read again."""
    faults = list(_faults(book))
    if faults:
        raise IdentitiesError("; ".join(faults))
    try:
        secretfile.write(path, msgspec.json.format(msgspec.json.encode(book), indent=2) + b"\n")
    except OSError as error:
        raise IdentitiesError(f"{path} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One change of the file at a time."""
    try:
        make_folder(path.parent)
        fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise IdentitiesError(f"{path} cannot be locked: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _faults(book: Book) -> Iterator[str]:
    """Everything that is wrong with a book."""
    for kind, names in (
        ("account", book.accounts),
        ("user", book.users),
        ("group", book.groups),
        ("policy", book.policies),
    ):
        for name in names:
            if not _NAME.match(name):
                yield f"{kind} {name!r}: names have up to 64 letters, digits and any of _+=,.@-"
    yield from _account_faults(book)
    seen: set[str] = set()
    for name, user in book.users.items():
        if user.account and user.account not in book.accounts:
            yield f"user {name}: there is no account {user.account}"
        for key in user.keys:
            if key.access_key in seen:
                yield f"user {name}: access key {key.access_key} is given twice"
            seen.add(key.access_key)
            yield from (f"user {name}: {fault}" for fault in key_faults(key))
        for group in user.groups:
            if group not in book.groups:
                yield f"user {name}: there is no group {group}"
    holders: list[tuple[str, User | Group]] = [(f"user {name}", user) for name, user in book.users.items()]
    holders += [(f"group {name}", group) for name, group in book.groups.items()]
    for holder, attached in holders:
        for policy in attached.policies:
            if policy not in book.policies and policy not in CANNED:
                yield f"{holder}: there is no policy {policy}"
    for name in book.policies:
        if name in CANNED:
            yield f"policy {name}: that name is taken"
        try:
            check_identity_policy(book.policy_text(name) or "")
        except S3Error as error:
            yield f"policy {name}: {error.message}"


def _account_faults(book: Book) -> Iterator[str]:
    seen: dict[str, str] = {ROOT_ACCOUNT_ID: "the gateway's own", ROOT_CANONICAL_ID: "the gateway's own"}
    for name, account in book.accounts.items():
        if not _ACCOUNT_ID.match(account.account_id):
            yield f"account {name}: an account id has twelve digits"
        if not _CANONICAL.match(account.canonical_id):
            yield f"account {name}: a canonical id has up to 128 letters, digits and any of ._$:-"
        for text in filter(None, (account.account_id, account.canonical_id, account.email.lower())):
            if text in seen:
                yield f"account {name}: {text} is {seen[text]} account's"
            seen[text] = name


def key_faults(key: Key) -> Iterator[str]:
    """What is wrong with a pair of credentials."""
    if len(key.access_key) < ACCESS_KEY_CHARACTERS_MIN:
        yield f"an access key has at least {ACCESS_KEY_CHARACTERS_MIN} characters"
    # It is a field of the credential scope, `AKID/date/region/service/aws4_request`, in a comma-separated header.
    elif not re.fullmatch(r"[!-~]+", key.access_key) or set(key.access_key) & set("/,="):
        yield "an access key is printable ASCII without spaces and without / , ="
    if len(key.secret_key) < SECRET_KEY_CHARACTERS_MIN:
        yield f"a secret key has at least {SECRET_KEY_CHARACTERS_MIN} characters"


def new_id(prefix: str) -> str:
    """A unique id as IAM has them."""
    letters = string.ascii_uppercase + string.digits
    return prefix + "".join(secrets.choice(letters) for _ in range(17))


def new_account_id() -> str:
    return str(secrets.randbelow(9 * 10**11) + 10**11)


def new_secret() -> str:
    return secrets.token_urlsafe(30)


# --- what outlives a worker --------------------------------------------------------------------------------------------


def _keep(fd: int, book: Book) -> None:
    """Replaces what the file in memory has. Cut short, it says nothing: better than of somebody who was taken out."""
    content = msgspec.json.encode(book)
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        with open(fd, "wb", closefd=False) as stream:
            stream.seek(0)
            stream.write(hashlib.sha256(content).digest() + content)


def _kept(fd: int) -> Book | None:
    if fd < 0:
        return None
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    digest, content = content[:32], content[32:]
    return msgspec.json.decode(content, type=Book) if hashlib.sha256(content).digest() == digest else None


# --- who is who -------------------------------------------------------------------------------------------------------


class Identities:
    """What one worker knows of who is who. Implements `s3api.access.Directory`."""

    def __init__(self, path: Path, credentials: Credentials, kept_fd: int = -1) -> None:
        """`kept_fd`: a file in memory where what is in force is left for the worker that is started in this one's place.
        Raises IdentitiesError."""
        self._path = path
        self._kept_fd = kept_fd
        self._root = Identity(
            credentials.access_key,
            credentials.secret_key,
            ROOT_CANONICAL_ID,
            credentials.access_key,
            root=True,
            account_id=ROOT_ACCOUNT_ID,
            arn=f"arn:aws:iam::{ROOT_ACCOUNT_ID}:root",
            user_id=ROOT_ACCOUNT_ID,
        )
        self._known: dict[str, Identity] = {}
        self._accounts: dict[str, Account] = {}
        self._emails: dict[str, str] = {}
        self._seen: tuple[int, ...] = self._look()
        try:
            self._learn(read(path))
        except IdentitiesError as error:
            kept = _kept(kept_fd)
            if kept is None:
                raise
            self._say(error)
            self._take(kept)
            if isinstance(error.__cause__, UnreadError):
                self._seen = ()

    def get(self, access_key: str) -> Identity | None:
        """Who has an access key; None for nobody, or nobody who may use it.

        The file is looked at for a key that is not known: who has just been made can come at once.
        """
        found = self._known.get(access_key)
        if found is None:
            self.refresh()
            found = self._known.get(access_key)
        return found

    def refresh(self) -> None:
        """Reads the file again if it has changed: one look at it otherwise."""
        seen = self._look()
        if seen == self._seen:
            return
        try:
            self._learn(read(self._path))
        except IdentitiesError as error:
            self._say(error)
            if isinstance(error.__cause__, UnreadError):
                return  # and tried again next time: no descriptor may be left just now, and a user taken out stay in force
        self._seen = seen

    def _look(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode

    @staticmethod
    def _say(error: IdentitiesError) -> None:
        said = str(error)
        _log.error("what was known before stays in force", extra={"error": said, "once": f"identities {said}"})

    def _learn(self, book: Book) -> None:
        self._take(book)
        if self._kept_fd >= 0:
            _keep(self._kept_fd, book)

    def _take(self, book: Book) -> None:
        own = Account(ROOT_ACCOUNT_ID, ROOT_CANONICAL_ID, self._root.display_name)
        accounts = {account.canonical_id: account for account in book.accounts.values()}
        accounts[ROOT_CANONICAL_ID] = own
        known: dict[str, Identity] = {}
        for name, user in book.users.items():
            account = book.accounts[user.account] if user.account else own
            names = (*user.policies, *(policy for group in user.groups for policy in book.groups[group].policies))
            texts = tuple(text for text in (book.policy_text(policy) for policy in dict.fromkeys(names)) if text)
            subject = "root" if user.root else f"user/{name}"
            for key in user.keys if user.enabled else ():
                if key.enabled:
                    known[key.access_key] = Identity(
                        key.access_key,
                        key.secret_key,
                        account.canonical_id,
                        account.display_name,
                        root=user.root,
                        owner=account.canonical_id if user.account else "",
                        account_id=account.account_id,
                        arn=f"arn:aws:iam::{account.account_id}:{subject}",
                        user_id=account.account_id if user.root else user.user_id,
                        user_name="" if user.root else name,
                        policies=texts,
                    )
        known[self._root.access_key] = self._root  # no file can take the gateway from its root
        self._known, self._accounts = known, accounts
        self._emails = {account.email.lower(): account.canonical_id for account in accounts.values() if account.email}

    # accounts

    def display_name(self, owner_id: str) -> str:
        account = self._accounts.get(owner_id or ROOT_CANONICAL_ID)
        return "" if account is None else account.display_name

    def canonical_id(self, owner_id: str) -> str:
        return owner_id or ROOT_CANONICAL_ID

    def account_id(self, owner_id: str) -> str | None:
        account = self._accounts.get(owner_id or ROOT_CANONICAL_ID)
        return None if account is None else account.account_id

    def account_of_email(self, email: str) -> str | None:
        return self._emails.get(email.lower())
