"""Files that hold secrets: who may read them, and how they are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import secretfile
from gateway.secretfile import SecretFileError


def test_what_is_written_is_read_and_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert secretfile.read(path, 10, "") is None
    (tmp_path / "a.json.new").write_text("what a crash left")
    for content in (b"one", b"two"):
        secretfile.write(path, content)
        assert secretfile.read(path, 10, "") == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o601])
def test_a_file_that_others_may_use_is_refused_with_advice(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a"
    secretfile.write(path, b"secret")
    path.chmod(mode)
    with pytest.raises(SecretFileError, match=f"has mode {mode:04o}.*: make new ones") as refused:
        secretfile.read(path, 10, "make new ones")
    assert "secret" not in str(refused.value)


def test_a_file_that_is_too_long_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    secretfile.write(tmp_path / "a", b"secret")
    with pytest.raises(SecretFileError, match="longer than 5 bytes"):
        secretfile.read(tmp_path / "a", 5, "")
    with pytest.raises(SecretFileError, match="cannot be read"):
        secretfile.read(tmp_path, 5, "")
