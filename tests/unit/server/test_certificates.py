"""Certificates: read with an error for whatever is wrong, made where there are none, taken over when they change."""

from __future__ import annotations

import errno
import hashlib
import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from gtapp.config.files import MADE_CERTIFICATE, MADE_KEY
from gtapp.errors import GTError
from gtapp.relay.tls import channel_binding
from gtapp.server import certificates
from gtapp.server.certificates import Certificate
from tests.support.certificates import Pair, make_pair


def given(directory: Path, pair: Pair, minimum: str = "tls1.2") -> Certificate:
    cert, key = pair.write(directory)
    return Certificate(str(cert), str(key), (), directory, minimum)


def made(directory: Path, *names: str) -> Certificate:
    return Certificate("", "", names, directory, "tls1.2")


def shown(certificate: Certificate, client: ssl.SSLContext | None = None, name: str = "localhost") -> Any:
    """The client's side after a handshake, in memory, with whoever has this certificate."""
    if client is None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    bios = [ssl.MemoryBIO() for _ in range(4)]
    ours = certificate.context.wrap_bio(bios[0], bios[1], server_side=True)
    theirs = client.wrap_bio(bios[2], bios[3], server_hostname=name)
    open_ends = [(theirs, bios[3], bios[0]), (ours, bios[1], bios[2])]
    while open_ends:
        for end in tuple(open_ends):
            side, out, to = end
            try:
                side.do_handshake()
                open_ends.remove(end)
            except ssl.SSLWantReadError:
                pass
            to.write(out.read())
    return theirs


# files that are given


@pytest.mark.parametrize("key", ["ec", "ed25519", "rsa2048"])
def test_a_pair_that_is_good(tmp_path: Path, key: str) -> None:
    pair = make_pair(key=key)
    certificate = given(tmp_path, pair)
    assert shown(certificate).getpeercert(True) == pair.der
    assert certificate.binding == certificate.context.binding == hashlib.sha256(pair.der).digest()


def test_a_chain_is_shown_with_its_leaf_first(tmp_path: Path) -> None:
    root = make_pair((), ca=True)
    middle = make_pair((), ca=True, issuer=root)
    leaf = make_pair(issuer=middle)
    cert, key = leaf.write(tmp_path)
    cert.write_bytes(leaf.pem + middle.pem)
    certificate = Certificate(str(cert), str(key), (), tmp_path, "tls1.2")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=root.pem.decode())
    assert shown(certificate, client).getpeercert(True) == leaf.der
    assert certificate.binding == channel_binding(leaf.der)


def test_certificate_and_key_in_one_file(tmp_path: Path) -> None:
    pair = make_pair()
    both = tmp_path / "both.pem"
    both.write_bytes(pair.key_pem() + pair.pem)
    certificate = Certificate(str(both), str(both), (), tmp_path, "tls1.2")
    assert shown(certificate).getpeercert(True) == pair.der


def wrong(tmp_path: Path, what: str) -> tuple[Path, Path]:
    """The files of a pair with something wrong."""
    good = make_pair()
    cert, key = good.write(tmp_path)
    if what == "no certificate":
        cert.unlink()
    elif what == "no key":
        key.unlink()
    elif what == "directory":
        cert = tmp_path
    elif what == "expired":
        make_pair(days=(-30, -1)).write(tmp_path)
    elif what == "not its key":
        key.write_bytes(make_pair().key_pem())
    elif what == "another kind of key":
        key.write_bytes(make_pair(key="rsa2048").key_pem())
    elif what == "not PEM":
        cert.write_bytes(good.der)
    elif what == "empty certificate":
        cert.write_bytes(b"")
    elif what == "damaged certificate":
        cert.write_bytes(good.pem.replace(b"M", b"N", 5))
    elif what == "empty key":
        key.write_bytes(b"")
    elif what == "damaged key":
        key.write_bytes(good.key_pem()[:60] + good.key_pem()[80:])
    elif what == "encrypted key":
        key.write_bytes(good.key_pem(b"password"))
    elif what == "interchanged":
        cert, key = key, cert
    elif what == "certificate as key":
        key = cert
    elif what == "huge":
        cert.write_bytes(good.pem + b"\n" * certificates.LIMIT_BYTES)
    return cert, key


@pytest.mark.parametrize(
    ("what", "named", "text"),
    [
        ("no certificate", "cert", "the certificate cannot be read: No such file or directory"),
        ("no key", "key", "the key cannot be read: No such file or directory"),
        ("directory", "cert", "cannot be read: Is a directory"),
        ("expired", "cert", "expired on"),
        ("not its key", "key", "is not the key of the certificate"),
        ("another kind of key", "key", "is not the key of the certificate"),
        ("not PEM", "cert", "holds no certificate in PEM"),
        ("empty certificate", "cert", "holds no certificate in PEM"),
        ("damaged certificate", "cert", "holds no certificate in PEM"),
        ("empty key", "key", "holds no key in PEM"),
        ("damaged key", "key", "the key is damaged"),
        ("encrypted key", "key", "the key is encrypted, decrypt it"),
        ("interchanged", "cert", "is it in the wrong option?"),
        ("certificate as key", "key", "is it in the wrong option?"),
        ("huge", "cert", "is too large"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, what: str, named: str, text: str) -> None:
    cert, key = wrong(tmp_path, what)
    with pytest.raises(GTError) as caught:
        Certificate(str(cert), str(key), (), tmp_path, "tls1.2")
    assert str(caught.value).startswith(f"{cert if named == 'cert' else key}: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_may_not_be_read(tmp_path: Path) -> None:
    cert, key = make_pair().write(tmp_path)
    key.chmod(0)
    with pytest.raises(GTError, match="the key cannot be read: Permission denied"):
        Certificate(str(cert), str(key), (), tmp_path, "tls1.2")


# versions, ALPN


@pytest.mark.parametrize(
    ("minimum", "newest", "works"),
    [
        ("tls1.1", "TLSv1_1", True),
        ("tls1.1", "TLSv1_3", True),
        ("tls1.2", "TLSv1_1", False),
        ("tls1.2", "TLSv1_2", True),
        ("tls1.3", "TLSv1_2", False),
        ("tls1.3", "TLSv1_3", True),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_the_oldest_version(tmp_path: Path, minimum: str, newest: str, works: bool) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.TLSv1_1
    client.maximum_version = ssl.TLSVersion[newest]
    certificate = given(tmp_path, make_pair(key="rsa2048"), minimum)
    if works:
        assert shown(certificate, client).version() == newest.replace("_", ".")
    else:
        with pytest.raises(ssl.SSLError):
            shown(certificate, client)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), (["http/1.1"], "http/1.1"), ([], None)],
)
def test_alpn_is_http_1_1_alone(tmp_path: Path, offered: list[str], chosen: str | None) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.set_alpn_protocols(offered)
    assert shown(given(tmp_path, make_pair()), client).selected_alpn_protocol() == chosen


# a certificate that is made


def test_one_is_made_and_found_again(tmp_path: Path) -> None:
    first = made(tmp_path, "gt.example.com", "*.gt.example.com", "203.0.113.5", "localhost")
    der = shown(first).getpeercert(True)
    leaf = x509.load_der_x509_certificate(der)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gt.example.com", "*.gt.example.com", "localhost"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["203.0.113.5", "127.0.0.1", "::1"]
    assert timedelta(days=3650) < leaf.not_valid_after_utc - datetime.now(UTC) < timedelta(days=3660)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MADE_CERTIFICATE, MADE_KEY]
    assert (tmp_path / MADE_KEY).stat().st_mode & 0o777 == 0o600
    again = made(tmp_path, "other.example.com")
    assert shown(again).getpeercert(True) == der, "who trusts it is not to be asked again"
    assert again.binding == first.binding


@pytest.mark.parametrize("name", ["gt.example.com", "a.gt.example.com", "127.0.0.1", "::1"])
def test_what_is_made_can_be_trusted_and_is_for_its_names(tmp_path: Path, name: str) -> None:
    certificate = made(tmp_path, "gt.example.com", "*.gt.example.com")
    client = ssl.create_default_context(cafile=str(tmp_path / MADE_CERTIFICATE))
    assert shown(certificate, client, name).version() == "TLSv1.3"


@pytest.mark.parametrize("what", ["expired", "missing", "of another key", "garbage"])
def test_a_made_certificate_that_is_no_use_is_made_again_for_the_key(tmp_path: Path, what: str) -> None:
    first = made(tmp_path)
    key = (tmp_path / MADE_KEY).read_bytes()
    path = tmp_path / MADE_CERTIFICATE
    if what == "missing":
        path.unlink()
    else:
        pair = make_pair(days=(-2, -1) if what == "expired" else (-1, 30))
        path.write_bytes(b"garbage" if what == "garbage" else pair.pem)
    second = made(tmp_path)
    assert second.binding != first.binding
    assert (tmp_path / MADE_KEY).read_bytes() == key


@pytest.mark.parametrize("what", ["garbage", "rsa"])
def test_a_made_key_that_is_not_ours_is_left_alone(tmp_path: Path, what: str) -> None:
    data = b"garbage" if what == "garbage" else make_pair(key="rsa2048").key_pem()
    (tmp_path / MADE_KEY).write_bytes(data)
    with pytest.raises(GTError, match=f"{MADE_KEY}: is not as it was made: remove it"):
        made(tmp_path)
    assert (tmp_path / MADE_KEY).read_bytes() == data


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(GTError, match="no certificate can be made: No space left"):
        made(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(GTError, match=r"no certificate can be made: .*; set certFile and keyFile"):
        made(tmp_path / "missing")


def test_two_processes_make_one_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's key is there by the time ours is written: that counts, and nothing is left over."""
    other = made(tmp_path)
    key = (tmp_path / MADE_KEY).read_bytes()
    certificates._write_key(tmp_path / MADE_KEY)
    assert (tmp_path / MADE_KEY).read_bytes() == key
    assert made(tmp_path).binding == other.binding
    assert sorted(path.name for path in tmp_path.iterdir()) == [MADE_CERTIFICATE, MADE_KEY]


_WORKER = """
import logging, sys
from pathlib import Path
from gtapp.server.certificates import Certificate
logging.basicConfig(level=logging.INFO)
print("here", flush=True)
sys.stdin.readline()
print(Certificate("", "", (), Path(sys.argv[1]), "tls1.2").binding.hex(), flush=True)
"""


@pytest.mark.parametrize("key_is_there", [False, True])
def test_workers_that_start_at_the_same_time_make_one(tmp_path: Path, key_is_there: bool) -> None:
    if key_is_there:
        certificates._write_key(tmp_path / MADE_KEY)
    command = [sys.executable, "-c", _WORKER, str(tmp_path)]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(5)]
    for each in workers:
        assert each.stdout is not None
        assert each.stdout.readline() == "here\n"
    for each in workers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    told = [each.communicate(timeout=20) for each in workers]
    assert [text.count("made a certificate") for _, text in told].count(1) == 1, told
    assert len({out for out, _ in told}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [MADE_CERTIFICATE, MADE_KEY]


def test_a_name_that_no_certificate_can_have(tmp_path: Path) -> None:
    with pytest.raises(GTError, match=r"no certificate can be made for bücher: .*; set certFile and keyFile"):
        made(tmp_path, "bücher")


# certificates that change


def test_a_renewed_one_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate = given(tmp_path, make_pair())
    before = certificate.context
    certificate.check()
    assert certificate.context is before
    renewed = make_pair()
    renewed.write(tmp_path)
    certificate.check()
    assert certificate.context is before, "the other file may not be there yet"
    certificate.check()
    assert shown(certificate).getpeercert(True) == renewed.der
    assert certificate.binding == channel_binding(renewed.der)
    now = certificate.context
    certificate.check()
    assert certificate.context is now


def test_files_that_are_replaced_one_after_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = given(tmp_path, make_pair())
    renewed = make_pair()
    cert, key = tmp_path / "server-cert.pem", tmp_path / "server-key.pem"
    cert.write_bytes(renewed.pem)
    certificate.check()
    key.write_bytes(renewed.key_pem())
    certificate.check()
    certificate.check()
    assert shown(certificate).getpeercert(True) == renewed.der
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("what", ["no key", "expired", "not its key", "not PEM", "encrypted key"])
def test_a_bad_one_is_reported_once_and_the_old_one_stays(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = given(tmp_path, make_pair())
    before = certificate.context
    cert, key = wrong(tmp_path, what)
    for _ in range(5):
        certificate.check()
    assert certificate.context is before
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].startswith((f"{cert}: ", f"{key}: "))
    assert "stays in use" in errors[0]
    good = make_pair()
    good.write(tmp_path)
    certificate.check()
    certificate.check()
    assert shown(certificate).getpeercert(True) == good.der


def test_it_looks_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = given(tmp_path, make_pair())
    looks: list[int] = []
    monkeypatch.setattr(certificate, "check", lambda: looks.append(1))
    for _ in range(8):
        certificate.tick(0.25)
    assert len(looks) == 2
    assert not certificate.over


def test_files_that_never_stand_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The channel binding is always that of the certificate that is shown."""
    pair = make_pair()
    certificate = given(tmp_path, pair)
    stamps = iter(range(1000))
    monkeypatch.setattr(certificates, "_stamp", lambda *paths: ((next(stamps), 0, 0),))
    with pytest.raises(GTError, match="keep changing"):
        certificate._load()
