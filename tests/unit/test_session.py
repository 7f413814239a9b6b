"""Sessions: what their tokens carry, and which tokens are refused."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api.errors import S3Error
from s3api.identity import Identity
from s3api.session import Sessions

BOB = Identity(
    "bobkey", "bob-secret", "canon", account_id="111122223333", arn="arn:aws:iam::111122223333:user/bob",
    user_name="bob", user_id="AIDA1",
)  # fmt: skip
SESSIONS = Sessions("root-secret", {"bobkey": BOB}.get)
NOW_S = 1_800_000_000


def code(token: str, now_s: int = NOW_S, sessions: Sessions = SESSIONS) -> str:
    with pytest.raises(S3Error) as caught:
        sessions.open(token, now_s)
    return caught.value.spec.code


def test_session_is_its_beginner_under_other_credentials() -> None:
    begun = SESSIONS.begin(BOB, 900, '{"x":1}', "s1", NOW_S)
    found = SESSIONS.open(begun.token, NOW_S + 899)
    assert (found.access_key, found.secret_key) == (begun.access_key, begun.secret_key)
    assert (found.session_policy, found.session_token) == ('{"x":1}', begun.token)
    assert (found.owner_id, found.user_name, found.parent_arn) == ("canon", "bob", BOB.arn)
    assert found.arn == "arn:aws:sts::111122223333:assumed-role/bob/s1"
    assert begun.secret_key not in begun.token and begun.secret_key not in repr(found)


def test_any_process_with_the_key_knows_it() -> None:
    begun = SESSIONS.begin(BOB, 900, "", "s1", NOW_S)
    assert Sessions("root-secret", {"bobkey": BOB}.get).open(begun.token, NOW_S).secret_key == begun.secret_key
    assert code(begun.token, sessions=Sessions("other-secret", {"bobkey": BOB}.get)) == "InvalidToken"


def test_it_ends() -> None:
    begun = SESSIONS.begin(BOB, 900, "", "s1", NOW_S)
    assert code(begun.token, NOW_S + 900) == "ExpiredToken"
    assert code(begun.token, sessions=Sessions("root-secret", {}.get)) == "InvalidToken"


def test_it_has_the_rights_its_beginner_has_now() -> None:
    begun = SESSIONS.begin(BOB, 900, "", "s1", NOW_S)
    later = msgspec.structs.replace(BOB, policies=("{}",))
    assert Sessions("root-secret", {"bobkey": later}.get).open(begun.token, NOW_S).policies == ("{}",)


def test_it_ends_when_its_beginner_gets_another_secret() -> None:
    begun = SESSIONS.begin(BOB, 900, "", "s1", NOW_S)
    later = msgspec.structs.replace(BOB, secret_key="rotated-secret")
    assert code(begun.token, sessions=Sessions("root-secret", {"bobkey": later}.get)) == "InvalidToken"


@given(st.integers(0, 200), st.integers(1, 255))
def test_changed_tokens_are_refused(at: int, change: int) -> None:
    token = SESSIONS.begin(BOB, 900, "", "s1", NOW_S).token
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[at % len(raw)] ^= change
    assert code(base64.urlsafe_b64encode(raw).decode()) == "InvalidToken"


@given(st.text(max_size=60))
def test_any_text_is_refused(token: str) -> None:
    assert code(token) == "InvalidToken"
