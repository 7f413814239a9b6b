"""Files that hold secrets: read only where nobody else can have read them, and replaced as a whole.

Promise: a file that others on the machine may read is refused rather than repaired, because it may have been read already;
a reader sees a file as it was or as it is, never half of it; what was written survives a power loss.
Owns nothing. Does not know what the secrets are. Kind: shell (plain file calls).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tiering.folder import sync_folder


class SecretFileError(Exception):
    """The file cannot be used."""


class UnreadError(SecretFileError):
    """It could not be read just now: what is in it is not known."""


def read(path: Path, bytes_max: int, advice: str) -> bytes | None:
    """All of the file; None where there is none. Raises SecretFileError; `advice`: what to do where others may read it."""
    try:
        with open(path, "rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            content = stream.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadError(f"{path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise SecretFileError(f"{path} has mode {mode:04o}, so others on this machine may have read it: {advice}")
    if len(content) > bytes_max:
        raise SecretFileError(f"{path} is longer than {bytes_max} bytes")
    return content


def write(path: Path, content: bytes) -> None:
    """Makes or replaces the file, readable by its owner alone. Raises OSError. Two writers at once are the caller's matter."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)
