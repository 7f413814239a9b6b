"""TLS: which pairs are taken, and handshakes over buffers in memory."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from gateway import tls
from gateway.config import Settings
from gateway.http.tls import Gate, new_context, version_of
from gateway.tls import Pair, TlsError
from tests.support.certificates import Certificates, new_key
from tests.support.descriptors import descriptors


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def loaded(files: Certificates) -> Pair:
    pair = tls.load(Settings(**files.settings))
    assert pair is not None
    return pair


def refusal(files: Certificates) -> str:
    with pytest.raises(TlsError) as caught:
        tls.load(Settings(**files.settings))
    return str(caught.value)


# --- files


def test_without_a_certificate_there_is_no_tls() -> None:
    assert tls.load(Settings()) is None


def test_a_good_pair_is_taken_and_its_key_is_not_shown(files: Certificates) -> None:
    pair = loaded(files)
    assert (pair.warning, tls.signs_itself(pair)) == ("", False)
    assert b"PRIVATE KEY" in pair.key and "PRIVATE" not in repr(pair)
    files.issue(alone=True)
    assert tls.signs_itself(loaded(files))


def test_of_a_file_with_everything_only_the_certificate_is_told_on(files: Certificates) -> None:
    both = files.key.read_bytes() + files.cert.read_bytes() + files.ca.read_bytes()
    files.cert.write_bytes(b"Some words.\n" + both)
    files.key.write_bytes(both)
    text = tls.server_certificate(loaded(files))
    assert text.count("-----BEGIN") == 1 and "BEGIN CERTIFICATE" in text


@pytest.mark.parametrize("which", ["cert", "key"])
def test_files_that_are_missing_or_no_pem_are_refused_by_name(files: Certificates, which: str) -> None:
    path: Path = getattr(files, which)
    path.write_bytes(b"nothing of the kind\n")
    assert refusal(files).startswith(f"tls_{which}: {path} holds no ")
    path.unlink()
    assert refusal(files).startswith(f"tls_{which}: {path} ")


def test_a_key_that_others_may_read_is_refused(files: Certificates) -> None:
    files.key.chmod(0o640)
    assert "has mode 0640, so others on this machine may have read it" in refusal(files)


def test_a_locked_key_is_refused_without_asking(files: Certificates) -> None:
    files.write_key(new_key(), b"secret")
    assert "is locked with a passphrase" in refusal(files)


def test_another_certificates_key_is_refused(files: Certificates) -> None:
    files.write_key(new_key())
    assert "is not the key of the first certificate" in refusal(files)


def test_the_servers_own_certificate_must_come_first(files: Certificates) -> None:
    files.cert.write_bytes(files.ca.read_bytes() + files.cert.read_bytes())
    assert "is not the key of the first certificate" in refusal(files)


def test_a_pair_that_cannot_be_given_to_openssl_is_refused(files: Certificates) -> None:
    """The supervisor reads it again at a SIGHUP, and goes on with the one it has."""
    pair = loaded(files)
    with descriptors(0), pytest.raises(TlsError) as caught:
        tls.context(pair, "1.2")
    assert str(caught.value) == "tls_cert: the certificate cannot be handed to OpenSSL: Too many open files"
    tls.context(pair, "1.2")


def test_dates_are_a_warning(files: Certificates) -> None:
    files.issue(days=-1)
    assert "clients refuse it" in loaded(files).warning
    files.issue(days=40)
    assert "does not begin before" in loaded(files).warning


# --- handshakes


class Meeting:
    """One client and the gate, over buffers in memory."""

    def __init__(self, gate: Gate, client: ssl.SSLContext) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.to_server = to_server
        self.server = gate.wrap_bio(to_server, to_client, server_side=True)
        self.client = client.wrap_bio(to_client, to_server, server_hostname="localhost")

    def shake(self) -> None:
        """Raises ssl.SSLError of whichever side fails."""
        for _ in range(4):
            for side in (self.client, self.server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    pass

    def shown(self) -> bytes | None:
        return self.client.getpeercert(binary_form=True)


def made_gate(files: Certificates, failures: list[str], version_min: str = "1.2", under_way_max: int = 8) -> Gate:
    return Gate.over(tls.context(loaded(files), version_min), under_way_max, failures.append)


def client(files: Certificates, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca))
    context.set_alpn_protocols(["h2", "http/1.1"])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("version_min", "version", "spoken"),
    [
        ("1.2", ssl.TLSVersion.TLSv1_1, ""),
        ("1.2", ssl.TLSVersion.TLSv1_2, "1.2"),
        ("1.2", ssl.TLSVersion.TLSv1_3, "1.3"),
        ("1.3", ssl.TLSVersion.TLSv1_2, ""),
        ("1.3", ssl.TLSVersion.TLSv1_3, "1.3"),
    ],
)
def test_versions(files: Certificates, version_min: str, version: ssl.TLSVersion, spoken: str) -> None:
    failures: list[str] = []
    gate = made_gate(files, failures, version_min)
    asking = client(files, version)
    if version == ssl.TLSVersion.TLSv1_1:
        asking.set_ciphers("ALL:@SECLEVEL=0")
    meeting = Meeting(gate, asking)
    if not spoken:
        with pytest.raises(ssl.SSLError):
            meeting.shake()
        assert failures == ["UNSUPPORTED_PROTOCOL"]
    else:
        meeting.shake()
        assert (version_of(meeting.server), meeting.client.selected_alpn_protocol()) == (spoken, "http/1.1")
        assert failures == []
    assert gate.under_way == 0


def test_only_forward_secret_authenticated_ciphers(files: Certificates) -> None:
    names = [cipher["name"] for cipher in new_context("1.2").get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    assert names and all(name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name) for name in names)
    weak = client(files, ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("AES128-SHA256:ECDHE-ECDSA-AES128-SHA256")
    failures: list[str] = []
    with pytest.raises(ssl.SSLError):
        Meeting(made_gate(files, failures), weak).shake()
    assert failures == ["NO_SHARED_CIPHER"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_tickets(files: Certificates, version: ssl.TLSVersion) -> None:
    meeting = Meeting(made_gate(files, []), client(files, version))
    meeting.shake()
    meeting.server.write(b"x")
    assert meeting.client.read(1) == b"x"
    session = meeting.client.session
    assert session is None or not session.has_ticket


@pytest.mark.parametrize("before", ["ec", "rsa"])
def test_a_replaced_certificate_is_the_only_one_shown(files: Certificates, before: str) -> None:
    files.issue(before)  # type: ignore[arg-type]
    gate = made_gate(files, [])
    old, asking = Meeting(gate, client(files)), client(files)
    old.shake()
    files.issue("rsa" if before == "ec" else "ec")
    gate.current = tls.context(loaded(files), "1.2")
    new = Meeting(gate, asking)
    new.shake()
    assert new.shown() == ssl.PEM_cert_to_DER_cert(files.cert.read_text()) != old.shown()
    old.client.write(b"still")
    assert old.server.read(10) == b"still"


def test_plain_http_is_a_failure_with_its_name(files: Certificates) -> None:
    failures: list[str] = []
    meeting = Meeting(made_gate(files, failures), client(files))
    meeting.to_server.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        meeting.server.do_handshake()
    assert failures == ["HTTP_REQUEST"]


def test_handshakes_under_way_are_bounded_and_counted_out_when_they_are_given_up(files: Certificates) -> None:
    failures: list[str] = []
    gate = made_gate(files, failures, under_way_max=2)
    waiting = [Meeting(gate, client(files)) for _ in range(2)]
    with pytest.raises(ConnectionAbortedError):
        Meeting(gate, client(files))
    assert (gate.under_way, failures) == (2, ["TOO_MANY"])
    waiting[0].shake()
    assert gate.under_way == 1
    waiting.clear()
    assert (gate.under_way, failures) == (0, ["TOO_MANY", Gate.ABANDONED])
