"""Access control lists: the document both ways, the headers, the kept text and what it permits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api import acl, xml
from s3api.errors import S3Error
from s3api.identity import Identity

ME, YOU, THEM = "a" * 64, "b" * 64, "c" * 64
ALL = "http://acs.amazonaws.com/groups/global/AllUsers"


class Known:
    def display_name(self, owner_id: str) -> str:
        return {ME: "me", YOU: "you"}.get(owner_id, "")

    def is_account(self, owner_id: str) -> bool:
        return owner_id in (ME, YOU, THEM)

    def account_of_email(self, email: str) -> str | None:
        return {"you@example.com": YOU}.get(email)


KNOWN = Known()


def caller(owner_id: str) -> Identity:
    return Identity("key", owner_id=owner_id)


NOBODY = Identity("")


def of_headers(headers: dict[bytes, bytes], owner: str = ME, bucket_owner: str = ME) -> str | None:
    return acl.from_headers(headers, KNOWN, owner, bucket_owner, of_object=True)


def code_of(body: str | bytes) -> str:
    with pytest.raises(S3Error) as caught:
        acl.from_document(body if isinstance(body, bytes) else body.encode(), KNOWN, ME)
    return caught.value.spec.code


def document(*grants: tuple[str, str, str], owner: str = ME) -> str:
    """(type, element with text, permission) each."""
    rows = "".join(
        f'<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="{kind}">{inside}</Grantee>'
        f"<Permission>{permission}</Permission></Grant>"
        for kind, inside, permission in grants
    )
    return (
        f'<AccessControlPolicy xmlns="{xml.NAMESPACE}"><Owner><ID>{owner}</ID></Owner>'
        f"<AccessControlList>{rows}</AccessControlList></AccessControlPolicy>"
    )


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("private", ""),
        ("public-read", "F R*"),
        ("public-read-write", "F R* W*"),
        ("authenticated-read", "F R+"),
        ("log-delivery-write", "F W$ r$"),
        ("aws-exec-read", f"F R{acl.EXEC_READER}"),
        ("bucket-owner-read", f"F R{YOU}"),
        ("bucket-owner-full-control", f"F F{YOU}"),
    ],
)
def test_canned(name: str, kept: str) -> None:
    assert of_headers({b"x-amz-acl": name.encode()}, ME, YOU) == kept


def test_canned_about_the_bucket_owner_says_nothing_of_its_own() -> None:
    assert of_headers({b"x-amz-acl": b"bucket-owner-full-control"}) == ""
    assert acl.from_headers({b"x-amz-acl": b"bucket-owner-read"}, KNOWN, ME, YOU, of_object=False) == ""


def test_no_header_is_none() -> None:
    assert of_headers({}) is None
    assert not acl.asked({}) and acl.asked({b"x-amz-grant-read": b""})
    empty = {b"x-amz-acl": b" "}  # as s3fs sends it
    assert of_headers(empty) is None and not acl.asked(empty)


def test_grant_headers() -> None:
    headers = {
        b"x-amz-grant-full-control": f'id="{ME}", id={YOU}'.encode(),
        b"x-amz-grant-read": f'uri="{ALL}"'.encode(),
        b"x-amz-grant-write-acp": b'emailAddress="you@example.com"',
    }
    assert of_headers(headers) == f"R* w{YOU} F F{YOU}"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({b"x-amz-acl": b"mine"}, "InvalidArgument"),
        ({b"x-amz-acl": b"private", b"x-amz-grant-read": b"id=1"}, "InvalidRequest"),
        ({b"x-amz-grant-read": b"id=nobody"}, "InvalidArgument"),
        ({b"x-amz-grant-read": b"uri=http://example.com"}, "InvalidArgument"),
        ({b"x-amz-grant-read": b"emailAddress=no@example.com"}, "UnresolvableGrantByEmailAddress"),
        ({b"x-amz-grant-read": b"name=x"}, "InvalidArgument"),
        ({b"x-amz-grant-read": b""}, "InvalidArgument"),
    ],
)
def test_headers_refused(headers: dict[bytes, bytes], code: str) -> None:
    with pytest.raises(S3Error) as caught:
        of_headers(headers)
    assert caught.value.spec.code == code


def test_document_is_read() -> None:
    text = document(
        ("CanonicalUser", f"<ID>{ME}</ID><DisplayName>x</DisplayName>", "FULL_CONTROL"),
        ("Group", f"<URI>{ALL}</URI>", "READ"),
        ("AmazonCustomerByEmail", "<EmailAddress>you@example.com</EmailAddress>", "READ_ACP"),
    )
    assert acl.from_document(text.encode(), KNOWN, ME) == f"F R* r{YOU}"
    assert acl.from_document(document().encode(), KNOWN, ME) == "-"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<AccessControlPolicy/>", "MalformedACLError"),
        ("<Something/>", "MalformedACLError"),
        ("<", "MalformedACLError"),
        (document(("CanonicalUser", f"<ID>{ME}</ID>", "EVERYTHING")), "MalformedACLError"),
        (document(("Somebody", f"<ID>{ME}</ID>", "READ")), "MalformedACLError"),
        (document(("CanonicalUser", f"<URI>{ALL}</URI>", "READ")), "MalformedACLError"),
        (document(("CanonicalUser", "<ID>nobody</ID>", "READ")), "InvalidArgument"),
        (document(("Group", "<URI>http://example.com</URI>", "READ")), "InvalidArgument"),
        (
            document(("AmazonCustomerByEmail", "<EmailAddress>no@example.com</EmailAddress>", "READ")),
            "UnresolvableGrantByEmailAddress",
        ),
        (document(*[("CanonicalUser", f"<ID>{YOU}</ID>", "READ")] * 101), "MalformedACLError"),
        (document(owner=YOU), "AccessDenied"),
    ],
)
def test_document_refused(text: str, code: str) -> None:
    assert code_of(text) == code


_GRANT = st.tuples(st.sampled_from("FRWrw"), st.sampled_from(["", "*", "+", "$", YOU, THEM]))


@given(st.lists(_GRANT, max_size=20))
def test_kept_text_and_document_round_trip(entries: list[tuple[str, str]]) -> None:
    text = acl.kept(acl.Grant(*entry) for entry in entries)
    assert list(acl.grants(text)) == list(dict.fromkeys(entries))
    shown = acl.from_document(acl.document(text, KNOWN, ME), KNOWN, ME)
    assert sorted(acl.grants(shown)) == sorted(acl.grants(text))


@pytest.mark.parametrize(
    ("text", "letter", "who", "expected"),
    [
        ("", "R", caller(ME), True),
        ("", "R", caller(YOU), False),
        ("", "R", NOBODY, False),
        ("-", "R", caller(ME), False),
        ("F R*", "R", NOBODY, True),
        ("F R*", "W", NOBODY, False),
        ("F R+", "R", NOBODY, False),
        ("F R+", "R", caller(YOU), True),
        (f"F F{YOU}", "w", caller(YOU), True),
        (f"F R{YOU}", "R", caller(THEM), False),
        ("F W$", "W", NOBODY, False),
    ],
)
def test_permits(text: str, letter: str, who: Identity, expected: bool) -> None:
    assert acl.permits(text, letter, who, ME) is expected


def test_public_grants_can_be_ignored() -> None:
    assert acl.is_public("F R*") and acl.is_public("F r+") and not acl.is_public("") and not acl.is_public("F W$")
    assert not acl.permits("F R*", "R", NOBODY, ME, ignore_public=True)
    assert acl.permits("F R*", "R", caller(ME), ME, ignore_public=True)
