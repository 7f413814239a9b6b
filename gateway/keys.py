"""The master keys of sealed objects: from the data directory, from the file of `kms_key_file`, from the environment.

Promise: a key is never in a Settings, an argument vector, a log line or a repr; a file that others may read is refused
rather than repaired. A gateway that is given no key makes one at its first start, so that encryption works out of the box.

Owns `<data-dir>/master.keys`. Does not know what keys are used for. Kind: owner of one file (process: the supervisor).
Spec: docs/OPERATIONS.md, "Master keys".
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from gateway import secretfile
from gateway.secretfile import SecretFileError
from s3api.sealing import KEY_BYTES, KeyRing

FILE_NAME: Final = "master.keys"
FILE_BYTES_MAX: Final = 1 << 20
SECRET_VARIABLES: Final = ("RECALL_KMS_SECRET_KEY", "MINIO_KMS_SECRET_KEY")
"""The first that is set counts. They are taken out of the environment of child processes."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class KeysError(Exception):
    """The master keys cannot be used."""


def load(data_dir: Path, key_file: str, environ: Mapping[str, str]) -> KeyRing:
    """The keys of all places, the newest last; made and stored where there is none. Raises KeysError."""
    found: dict[str, bytes] = {}
    own = data_dir / FILE_NAME
    places = [(str(own), _read(own, required=False))]
    if key_file:
        places.append((key_file, _read(Path(key_file), required=True)))
    for variable in SECRET_VARIABLES:
        if environ.get(variable):
            places.append((variable, environ[variable].split(",")))
            break
    for where, lines in places:
        for name, key in _parse(lines, where):
            if found.setdefault(name, key) != key:
                raise KeysError(f"{where}: {name} stands for another key elsewhere")
            found[name] = found.pop(name)  # named again, it is as new as its last place
    return KeyRing(found or _make(own))


def _read(path: Path, required: bool) -> list[str]:
    try:
        content = secretfile.read(path, FILE_BYTES_MAX, "accept that with chmod 600, and add a new key at its end")
    except SecretFileError as error:
        raise KeysError(str(error)) from None
    if content is None:
        if required:
            raise KeysError(f"kms_key_file: {path} does not exist")
        return []
    try:
        return content.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise KeysError(f"{path} is not text") from None


def _parse(lines: list[str], where: str) -> Iterator[tuple[str, bytes]]:
    """Each `name:key`; empty lines and comments are passed over. Errors name the place and never the key."""
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, colon, encoded = text.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise KeysError(
                f"{where}, entry {number}: write it as name:key, the name of up to 64 letters, digits and -_."
            )
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise KeysError(f"{where}, entry {number}: the key of {name} must be {KEY_BYTES} bytes in base64")
        yield name, key


def _make(path: Path) -> dict[str, bytes]:
    """A first key, under a name that no other gateway's has: a key that was lost is then missed by name."""
    name, key = f"recall-{secrets.token_hex(4)}", secrets.token_bytes(KEY_BYTES)
    # On the device before any object needs the key: a power loss must not take the one and leave the other.
    comment = "# Master keys of this gateway. Without them encrypted objects cannot be read: back this file up.\n"
    try:
        secretfile.write(path, f"{comment}{name}:{base64.b64encode(key).decode()}\n".encode())
    except OSError as error:
        raise KeysError(f"{path} cannot be written: {error.strerror}") from None
    return {name: key}
