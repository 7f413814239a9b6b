"""The file of accounts and users: read, refused, replaced, and read again; and the commands that change it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gateway import identities
from gateway.commands import parser, run
from gateway.credentials import Credentials
from gateway.identities import Account, Book, Group, Identities, IdentitiesError, Key, User
from tests.support.descriptors import descriptors

ROOT = Credentials("rootkey", "root-secret")
ALT = Account("222222222222", "b" * 64, "alt", "alt@example.com")
KEY = Key("userkey", "user-secret")


def book(**fields: Any) -> Book:
    return Book(**fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identities.json"


def test_no_file_is_root_alone(path: Path) -> None:
    known = Identities(path, ROOT)
    root = known.get("rootkey")
    assert root is not None
    assert root.root and root.owner == "" and root.arn == f"arn:aws:iam::{identities.ROOT_ACCOUNT_ID}:root"
    assert known.get("userkey") is None
    assert known.canonical_id("") == identities.ROOT_CANONICAL_ID
    assert known.display_name("") == "rootkey"


def test_users_are_what_the_file_says(path: Path) -> None:
    users = {
        "boss": User(account="alt", root=True, user_id="AIDA1", keys=(KEY,)),
        "hand": User(account="alt", user_id="AIDA2", keys=(Key("handkey", "hand-secret"),), groups=("team",)),
        "off": User(user_id="AIDA3", enabled=False, keys=(Key("offkey", "off-secret"),)),
        "old": User(user_id="AIDA4", keys=(Key("oldkey", "old-secret", enabled=False),)),
    }
    identities.write(path, book(accounts={"alt": ALT}, users=users, groups={"team": Group(policies=("readonly",))}))
    known = Identities(path, ROOT)
    boss, hand = known.get("userkey"), known.get("handkey")
    assert boss is not None and hand is not None
    assert (boss.root, boss.owner, boss.owner_id, boss.user_name) == (True, "b" * 64, "b" * 64, "")
    assert hand.arn == "arn:aws:iam::222222222222:user/hand"
    assert [json.loads(text)["Statement"][0]["Action"] for text in hand.policies] == [
        ["s3:GetBucketLocation", "s3:GetObject"]
    ]
    assert known.get("offkey") is None and known.get("oldkey") is None
    assert known.account_of_email("ALT@example.com") == "b" * 64
    assert known.account_id("b" * 64) == "222222222222"
    assert known.account_id("nobody") is None
    assert "secret" not in repr(boss) + repr(KEY)


def test_file_is_for_its_owner_alone(path: Path) -> None:
    identities.write(path, Book())
    assert os.stat(path).st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(IdentitiesError, match="mode 0640"):
        identities.read(path)


def test_changes_are_taken_and_faults_are_not(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = Identities(path, ROOT)
    identities.write(path, book(users={"u": User(user_id="AIDA1", keys=(KEY,))}))
    known.refresh()
    assert known.get("userkey") is not None
    path.write_text("{")
    known.refresh()
    assert known.get("userkey") is not None
    assert "stays in force" in caplog.text
    path.unlink()
    known.refresh()
    assert known.get("userkey") is None


def test_a_new_key_is_known_at_once(path: Path) -> None:
    # A command that follows the one that made a user came sooner than the next look at the file, and was refused.
    known = Identities(path, ROOT)
    assert known.get("userkey") is None
    identities.write(path, book(users={"u": User(user_id="AIDA1", keys=(KEY,))}))
    found = known.get("userkey")
    assert found is not None and found.secret_key == KEY.secret_key


def test_a_change_that_cannot_be_read_at_once_is_taken_later(path: Path) -> None:
    identities.write(path, book(users={"u": User(user_id="AIDA1", keys=(KEY,))}))
    known = Identities(path, ROOT)
    identities.write(path, book())
    with descriptors(0):
        known.refresh()
    assert known.get("userkey") is not None
    known.refresh()
    assert known.get("userkey") is None


def test_what_is_left_for_a_restart_is_what_was_in_force(path: Path) -> None:
    kept_fd = os.memfd_create("kept")
    try:
        identities.write(path, book(users={"u": User(user_id="AIDA1", keys=(KEY,))}))
        known = Identities(path, ROOT, kept_fd)
        identities.write(path, book())
        known.refresh()
        path.write_text("{")
        assert Identities(path, ROOT, kept_fd).get("userkey") is None
        os.ftruncate(kept_fd, os.fstat(kept_fd).st_size - 1)  # its writer was killed
        with pytest.raises(IdentitiesError):
            Identities(path, ROOT, kept_fd)
    finally:
        os.close(kept_fd)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (book(users={"a/b": User()}), "names have"),
        (book(users={"u": User(account="none")}), "there is no account none"),
        (book(users={"u": User(groups=("none",))}), "there is no group none"),
        (book(users={"u": User(policies=("none",))}), "there is no policy none"),
        (book(users={"u": User(keys=(KEY,)), "v": User(keys=(KEY,))}), "is given twice"),
        (book(users={"u": User(keys=(Key("a/b", "long-enough"),))}), "printable ASCII"),
        (book(users={"u": User(keys=(Key("abc", "short"),))}), "at least 8"),
        (book(policies={"p": {"Version": "2012-10-17"}}), "Missing required field Statement"),
        (book(policies={"readonly": dict(identities.CANNED["readonly"])}), "that name is taken"),
        (book(accounts={"a": Account("1", "x")}), "twelve digits"),
        (book(accounts={"a": Account("222222222222", "with space")}), "canonical id"),
        (book(accounts={"a": ALT, "b": ALT}), "account's"),
        (book(accounts={"a": Account(identities.ROOT_ACCOUNT_ID, "x")}), "the gateway's own"),
    ],
)
def test_wrong_books_are_not_written(path: Path, wrong: Book, said: str) -> None:
    with pytest.raises(IdentitiesError, match=said):
        identities.write(path, wrong)
    assert not path.exists()


def test_root_of_the_gateway_cannot_be_taken(path: Path) -> None:
    identities.write(path, book(users={"u": User(keys=(Key("rootkey", "another-secret"),))}))
    root = Identities(path, ROOT).get("rootkey")
    assert root is not None and root.secret_key == "root-secret"


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; answers its exit status, output and errors."""
    for name in [name for name in os.environ if name.startswith(("RECALL_", "MINIO_"))]:
        monkeypatch.delenv(name)

    def act(*arguments: str) -> tuple[int, str, str]:
        status = run(parser().parse_args([*arguments, "--data-dir", str(tmp_path)]))
        said = capsys.readouterr()
        return status, said.out, said.err

    return act


def test_a_new_user_is_shown_its_secret_once(recall: Any, path: Path) -> None:
    status, out, _ = recall("user", "add", "u", "--policy", "readonly")
    assert status == 0
    key = identities.read(path).users["u"].keys[0]
    assert key.access_key in out and key.secret_key in out
    assert key.secret_key not in recall("user", "info", "u")[1] + recall("user", "list")[1]


def test_account_of_chosen_ids(recall: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECALL_USER_SECRET_KEY", "chosen-secret")
    status, out, _ = recall(
        "user", "add", "alt", "--account", "alt", "--access-key", "ALTKEY", "--canonical-id", "c" * 64,
        "--account-id", "333333333333", "--display-name", "john.doe", "--email", "john.doe@example.com",
    )  # fmt: skip
    assert status == 0 and "chosen-secret" not in out
    made = identities.read(path)
    assert made.accounts["alt"] == Account("333333333333", "c" * 64, "john.doe", "john.doe@example.com")
    assert made.users["alt"].root and made.users["alt"].keys == (Key("ALTKEY", "chosen-secret"),)
    monkeypatch.setenv("RECALL_USER_SECRET_KEY", "other-secret")
    assert recall("user", "add", "hand", "--account", "alt")[0] == 0
    assert not identities.read(path).users["hand"].root
    assert "ids, display name" in recall("user", "add", "x", "--account", "alt", "--email", "x@example.com")[2]
    assert "has users" in recall("account", "rm", "alt")[2]
    for name in ("alt", "hand"):
        assert recall("user", "rm", name)[0] == 0
    assert recall("account", "rm", "alt")[0] == 0


def test_groups_and_policies(recall: Any, path: Path, tmp_path: Path) -> None:
    document = tmp_path / "p.json"
    document.write_text(
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
    )
    recall("user", "add", "u")
    assert recall("group", "add", "team", "u")[0] == 0
    assert recall("policy", "add", "all", str(document))[0] == 0
    assert recall("policy", "attach", "all", "--group", "team")[0] == 0
    assert recall("policy", "attach", "readonly", "--user", "u")[0] == 0
    assert json.loads(recall("group", "info", "team")[1]) == {"group": "team", "policies": ["all"], "users": ["u"]}
    assert "policy all is held by group team" in recall("policy", "rm", "all")[2]
    assert recall("policy", "detach", "all", "--group", "team")[0] == 0
    assert recall("policy", "rm", "all")[0] == 0
    assert recall("group", "rm", "team")[0] == 0
    assert identities.read(path).users["u"].groups == ()
    assert "consoleAdmin" in recall("policy", "list")[1]
    assert json.loads(recall("policy", "info", "readwrite")[1])["Statement"][0]["Action"] == ["s3:*"]


def test_keys_come_and_go(recall: Any, path: Path) -> None:
    recall("user", "add", "u", "--access-key", "first")
    assert recall("user", "key", "add", "u", "--access-key", "second")[0] == 0
    assert recall("user", "key", "rm", "u", "first")[0] == 0
    assert [key.access_key for key in identities.read(path).users["u"].keys] == ["second"]
    assert "no access key first" in recall("user", "key", "rm", "u", "first")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ("user", "rm", "nobody"),
        ("user", "info", "nobody"),
        ("user", "add", "bad/name"),
        ("user", "add", "u", "--root"),
        ("user", "add", "u", "--policy", "none"),
        ("user", "add", "u", "--access-key", "x"),
        ("policy", "add", "p", "/no/such/file"),
        ("policy", "attach", "readonly"),
        ("policy", "attach", "readonly", "--user", "u", "--group", "g"),
        ("policy", "rm", "readonly"),
        ("group", "add", "g", "nobody"),
    ],
)
def test_refused_commands_change_nothing(recall: Any, path: Path, arguments: tuple[str, ...]) -> None:
    status, out, err = recall(*arguments)
    assert (status, out) == (2, "") and err.startswith("recall: ")
    assert identities.read(path) == Book()


@pytest.mark.parametrize(
    "content", [b"{", b'{"users":[]}', b'{"users":{"\xff":{}}}', b'{"policies":{"p":{"a":' + b"[" * 100_000]
)
def test_a_file_that_is_no_book_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentitiesError, match="cannot be understood"):
        identities.read(path)
