"""Root credentials: where they come from, and what is refused."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from gateway import credentials
from gateway.credentials import Credentials, CredentialsError


def test_load_generates_once_and_keeps(tmp_path: Path) -> None:
    first = credentials.load(tmp_path, {}, generate=True)
    second = credentials.load(tmp_path, {}, generate=True)
    assert (first.generated, second.generated) == (True, False)
    assert (first.access_key, first.secret_key) == (second.access_key, second.secret_key)
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["credentials.json"]


def test_load_generates_different_ones_for_different_directories(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    made = [credentials.load(tmp_path / name, {}, generate=True) for name in ("a", "b")]
    assert made[0].access_key != made[1].access_key
    assert made[0].secret_key != made[1].secret_key
    assert min(len(one.secret_key) for one in made) >= 40


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_load_refuses_a_file_others_may_read(tmp_path: Path, mode: int) -> None:
    credentials.load(tmp_path, {}, generate=True)
    (tmp_path / "credentials.json").chmod(mode)
    with pytest.raises(CredentialsError, match=f"{mode:04o}"):
        credentials.load(tmp_path, {}, generate=True)


@pytest.mark.parametrize("prefix", ["RECALL", "MINIO"])
def test_load_takes_the_environment_before_the_file(tmp_path: Path, prefix: str) -> None:
    credentials.load(tmp_path, {}, generate=True)
    environ = {f"{prefix}_ROOT_USER": "alice", f"{prefix}_ROOT_PASSWORD": "wonderland"}
    assert credentials.load(tmp_path, environ, generate=True) == Credentials("alice", "wonderland")


def test_load_writes_no_file_for_the_environment(tmp_path: Path) -> None:
    credentials.load(tmp_path, {"RECALL_ROOT_USER": "alice", "RECALL_ROOT_PASSWORD": "wonderland"}, generate=True)
    assert not list(tmp_path.iterdir())


def test_load_prefers_our_own_names(tmp_path: Path) -> None:
    environ = {
        "RECALL_ROOT_USER": "ours",
        "RECALL_ROOT_PASSWORD": "our-secret",
        "MINIO_ROOT_USER": "theirs",
        "MINIO_ROOT_PASSWORD": "their-secret",
    }
    assert credentials.load(tmp_path, environ, generate=True).access_key == "ours"


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"RECALL_ROOT_USER": "alice"}, "RECALL_ROOT_PASSWORD is not"),
        ({"RECALL_ROOT_PASSWORD": "wonderland"}, "RECALL_ROOT_USER is not"),
        ({"MINIO_ROOT_USER": "alice", "RECALL_ROOT_PASSWORD": "wonderland"}, "both or neither"),
        ({"RECALL_ROOT_USER": "al", "RECALL_ROOT_PASSWORD": "wonderland"}, "at least 3"),
        ({"RECALL_ROOT_USER": "alice", "RECALL_ROOT_PASSWORD": "1234567"}, "at least 8"),
        ({"RECALL_ROOT_USER": "al/ice", "RECALL_ROOT_PASSWORD": "wonderland"}, "printable ASCII"),
        ({"RECALL_ROOT_USER": "al ice", "RECALL_ROOT_PASSWORD": "wonderland"}, "printable ASCII"),
        ({"RECALL_ROOT_USER": "alícia", "RECALL_ROOT_PASSWORD": "wonderland"}, "printable ASCII"),
    ],
)
def test_load_refuses_the_environment(tmp_path: Path, environ: dict[str, str], fault: str) -> None:
    with pytest.raises(CredentialsError, match=fault) as caught:
        credentials.load(tmp_path, environ, generate=True)
    assert environ.get("RECALL_ROOT_PASSWORD", "\0") not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"access_key": "alice"}', '{"access_key": 1, "secret_key": 2}'])
def test_load_refuses_a_file_it_cannot_understand(tmp_path: Path, content: str) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(CredentialsError, match="cannot be understood"):
        credentials.load(tmp_path, {}, generate=True)


def test_load_judges_the_file_as_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps({"access_key": "alice", "secret_key": "short"}))
    path.chmod(0o600)
    with pytest.raises(CredentialsError, match="at least 8"):
        credentials.load(tmp_path, {}, generate=True)


def test_load_without_generating_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="set RECALL_ROOT_USER and RECALL_ROOT_PASSWORD"):
        credentials.load(tmp_path, {}, generate=False)
    assert not list(tmp_path.iterdir())


def test_the_secret_is_in_no_repr() -> None:
    assert "wonderland" not in repr(Credentials("alice", "wonderland"))
    assert "wonderland" not in f"{[Credentials('alice', 'wonderland')]}"


def test_load_says_that_it_cannot_write_what_it_made(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"none/credentials\.json cannot be written: No such file or directory"):
        credentials.load(tmp_path / "none", {}, generate=True)
