"""The root credentials: from the environment, else from `<data-dir>/credentials.json`, made there on the first start.

Promise: a secret is never in a Settings, an argument vector, a log line or a repr; the file is readable by its owner alone,
and one that is not is refused rather than repaired, because it may have been read already.

Owns `<data-dir>/credentials.json`. Does not know users beyond root. Kind: owner of one file (process: the supervisor and the
command line). Spec: docs/OPERATIONS.md, "Credentials".
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from gateway import secretfile
from gateway.secretfile import SecretFileError

FILE_NAME: Final = "credentials.json"
FILE_BYTES_MAX: Final = 64 << 10
ACCESS_KEY_CHARACTERS_MIN: Final = 3
SECRET_KEY_CHARACTERS_MIN: Final = 8
"""MinIO's minima, so that credentials that work there work here."""
_PAIRS: Final = (("RECALL_ROOT_USER", "RECALL_ROOT_PASSWORD"), ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"))
SECRET_VARIABLES: Final = tuple(name for pair in _PAIRS for name in pair)
"""What is taken out of the environment of child processes: they are told through a descriptor."""


class CredentialsError(Exception):
    """The root credentials cannot be used."""


class Credentials(msgspec.Struct, frozen=True):
    """Root's access key and secret key. `generated`: made by this call, so the secret may be shown, once."""

    access_key: str
    secret_key: str
    generated: bool = False

    def __repr__(self) -> str:
        return f"Credentials({self.access_key!r})"


def load(data_dir: Path, environ: Mapping[str, str], *, generate: bool) -> Credentials:
    """The credentials in force. `generate`: make and store them when there are none. Raises CredentialsError."""
    for user, password in _PAIRS:
        given = [name for name in (user, password) if environ.get(name)]
        if len(given) == 1:
            missing = password if given == [user] else user
            raise CredentialsError(f"{given[0]} is set but {missing} is not: give both or neither")
        if given:
            return _checked(Credentials(environ[user], environ[password]), f"{user} and {password}")
    path = data_dir / FILE_NAME
    stored = _read(path)
    if stored is not None:
        return stored
    if not generate:
        raise CredentialsError(f"no credentials: set RECALL_ROOT_USER and RECALL_ROOT_PASSWORD; {path} does not exist")
    return _make(path)


def _read(path: Path) -> Credentials | None:
    try:
        content = secretfile.read(
            path, FILE_BYTES_MAX, "remove it to get new credentials, or accept them with chmod 600"
        )
    except SecretFileError as error:
        raise CredentialsError(str(error)) from None
    if content is None:
        return None
    try:
        stored = msgspec.json.decode(content, type=Credentials)
    except msgspec.DecodeError as error:
        raise CredentialsError(f"{path} cannot be understood: {error}") from None
    return _checked(msgspec.structs.replace(stored, generated=False), str(path))


def _checked(credentials: Credentials, where: str) -> Credentials:
    if len(credentials.access_key) < ACCESS_KEY_CHARACTERS_MIN:
        raise CredentialsError(f"{where}: the user must have at least {ACCESS_KEY_CHARACTERS_MIN} characters")
    if len(credentials.secret_key) < SECRET_KEY_CHARACTERS_MIN:
        raise CredentialsError(f"{where}: the password must have at least {SECRET_KEY_CHARACTERS_MIN} characters")
    # The access key is a field of the credential scope, `AKID/date/region/service/aws4_request`, in a comma-separated header.
    if not re.fullmatch(r"[!-~]+", credentials.access_key) or set(credentials.access_key) & set("/,="):
        raise CredentialsError(f"{where}: the user must be printable ASCII without spaces and without / , =")
    return credentials


def _make(path: Path) -> Credentials:
    letters = string.ascii_uppercase + string.digits
    made = Credentials("".join(secrets.choice(letters) for _ in range(20)), secrets.token_urlsafe(30))
    content = msgspec.json.encode({"access_key": made.access_key, "secret_key": made.secret_key})
    try:
        secretfile.write(path, content + b"\n")
    except OSError as error:
        raise CredentialsError(f"{path} cannot be written: {error.strerror}") from None
    return msgspec.structs.replace(made, generated=True)
