"""The master keys: where they come from, which is the newest, and what is refused."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from gateway import keys
from gateway.keys import KeysError

A, B, C = (bytes((number,)) * 32 for number in (1, 2, 3))


def line(name: str, key: bytes) -> str:
    return f"{name}:{base64.b64encode(key).decode()}"


def write(path: Path, *lines: str, mode: int = 0o600) -> Path:
    path.write_text("\n".join(lines) + "\n")
    path.chmod(mode)
    return path


def test_the_first_start_makes_a_key_and_the_next_finds_it(tmp_path: Path) -> None:
    made = keys.load(tmp_path, "", {})
    assert len(made.keys) == 1
    assert made.default.startswith("recall-")
    assert len(made.keys[made.default]) == 32
    path = tmp_path / "master.keys"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.load(tmp_path, "", {}) == made


def test_nothing_is_made_where_a_key_is_given(tmp_path: Path) -> None:
    ring = keys.load(tmp_path, "", {"RECALL_KMS_SECRET_KEY": line("mine", A)})
    assert dict(ring.keys) == {"mine": A}
    assert not (tmp_path / "master.keys").exists()
    assert keys.load(tmp_path, "", {"MINIO_KMS_SECRET_KEY": line("theirs", B)}).default == "theirs"
    both = {"RECALL_KMS_SECRET_KEY": line("mine", A), "MINIO_KMS_SECRET_KEY": line("theirs", B)}
    assert keys.load(tmp_path, "", both).keys == {"mine": A}


def test_all_places_open_and_the_last_key_is_the_default(tmp_path: Path) -> None:
    write(tmp_path / "master.keys", "# a comment", "", line("first", A), line("second", B))
    assert keys.load(tmp_path, "", {}).default == "second"
    given = write(tmp_path / "given", line("third", C))
    ring = keys.load(tmp_path, str(given), {})
    assert list(ring.keys) == ["first", "second", "third"]
    again = keys.load(tmp_path, str(given), {"RECALL_KMS_SECRET_KEY": f"{line('x', A)},{line('first', A)}"})
    assert list(again.keys) == ["second", "third", "x", "first"]


@pytest.mark.parametrize(
    "text",
    [
        "no colon",
        ":AAAA",
        "a b:AAAA",
        "-a:AAAA",
        "a:",
        "a:AAAA",
        "a:!!",
        "a/b:AAAA",
        line("a" * 65, A),
        line("a", A[:31]),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(KeysError) as caught:
        keys.load(tmp_path, "", {"RECALL_KMS_SECRET_KEY": text})
    assert "RECALL_KMS_SECRET_KEY, entry 1" in str(caught.value)
    assert base64.b64encode(A[:31]).decode() not in str(caught.value)


def test_a_name_for_two_keys_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "master.keys", line("a", A))
    with pytest.raises(KeysError, match="another key"):
        keys.load(tmp_path, "", {"RECALL_KMS_SECRET_KEY": line("a", B)})


def test_files_others_may_read_and_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "given", line("a", A), mode=0o640)
    with pytest.raises(KeysError, match="0640"):
        keys.load(tmp_path, str(path), {})
    with pytest.raises(KeysError, match="does not exist"):
        keys.load(tmp_path, str(tmp_path / "nowhere"), {})
    path.write_bytes(b"\xff")
    path.chmod(0o600)
    with pytest.raises(KeysError, match="is not text"):
        keys.load(tmp_path, str(path), {})
    with pytest.raises(KeysError, match="cannot be read"):
        keys.load(tmp_path, str(tmp_path), {})


def test_a_first_key_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"none/master\.keys cannot be written: No such file or directory"):
        keys.load(tmp_path / "none", "", {})
