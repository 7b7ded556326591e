# SPDX-License-Identifier: Apache-2.0
"""The fleet's CA: what is signed and what refused, when a certificate is renewed, whom a host believes."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from tests.budget import fuzz

from wardmesh.model import authority as module
from wardmesh.model.authority import (
    DAY,
    Authority,
    Identity,
    issue,
    load_authority,
    make_authority,
    new_key,
    pem_of,
    private_pem,
    read_request,
    request_for,
    why_renew,
)
from wardmesh.model.certificates import (
    check_leaf,
    check_pair,
    leaf_of,
    public_bytes,
    read_certificates,
    server_name,
)
from wardmesh.model.errors import WardmeshError

NOW = 1_800_000_000.0
NAME = server_name("db1.example.com", "lab")
WHO = Identity("db1.example.com", (NAME, "db1.example.com"), ("10.0.0.1", "fd00::1"))


def authority_at(now: float = NOW, *others: bytes) -> Authority:
    return load_authority(*make_authority("lab", now), others, now, "ca")


def spki(key: Any) -> bytes:
    return public_bytes(key.public_key())


def test_what_is_issued_is_what_a_member_accepts() -> None:
    ca, key = authority_at(), new_key()
    pem = issue(ca, read_request(request_for(key, WHO.common_name), WHO.common_name), WHO, NOW)
    found = check_leaf(pem, ca.bundle, spki(key), NAME, NOW, "x")
    assert found.names == WHO.names and found.addresses == WHO.addresses
    assert found.ends - NOW == module.LEAF_DAYS * DAY
    check_pair(pem, private_pem(key), "x")
    made = read_certificates(pem, "x")[0]
    uses = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [use._name for use in uses] == ["serverAuth", "clientAuth"]
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_openssl_agrees_about_chain_and_name(tmp_path: Path) -> None:
    ca, key = authority_at(datetime.datetime.now().timestamp()), new_key()
    pem = issue(ca, key.public_key(), WHO, datetime.datetime.now().timestamp())
    (tmp_path / "ca.crt").write_bytes(ca.bundle)
    (tmp_path / "leaf.crt").write_bytes(pem)
    for purpose in ("sslserver", "sslclient"):
        words = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-verify_hostname", NAME]
        done = subprocess.run(
            [*words, "-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "leaf.crt")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


# --- requests ---


def subject(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def csr(key: Any, name: x509.Name, algorithm: Any = None, *, san: str = "") -> bytes:
    made = x509.CertificateSigningRequestBuilder().subject_name(name)
    if san:
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(san)]), critical=False)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = made.sign(key, algorithm or hashes.SHA256())
    return bytes(signed.public_bytes(serialization.Encoding.PEM))


def forged(pem: bytes) -> bytes:
    """The same request with a broken signature."""
    made = x509.load_pem_x509_csr(pem)
    data = bytearray(made.public_bytes(serialization.Encoding.DER))
    data[-3] ^= 1
    return bytes(x509.load_der_x509_csr(bytes(data)).public_bytes(serialization.Encoding.PEM))


def bad_requests() -> list[tuple[str, bytes]]:
    good = request_for(new_key(), "db1")
    country = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"), *subject("db1")])
    return [
        ("empty", b""),
        ("text", b"hello"),
        ("cut off", good[:-60]),
        ("in the middle", good[:80] + good[120:]),
        ("not UTF-8", b"\xff" * 100),
        ("too large", good + b"\n" * module.LARGEST_REQUEST),
        ("certificate", make_authority("lab", NOW)[0]),
        ("private key", private_pem(new_key())),
        ("another member", request_for(new_key(), "db2")),
        ("nobody", csr(new_key(), x509.Name([]))),
        ("two names", csr(new_key(), subject("db1", "db2"))),
        ("more than the name", csr(new_key(), country)),
        ("beginning of the name", request_for(new_key(), "db")),
        ("signature", forged(good)),
        ("P-384", csr(ec.generate_private_key(ec.SECP384R1()), subject("db1"))),
        ("RSA", csr(rsa.generate_private_key(65537, 2048), subject("db1"))),
    ]


@pytest.mark.parametrize(
    ("what", "pem"), bad_requests(), ids=lambda item: item if isinstance(item, str) else ""
)
def test_bad_requests_are_refused(what: str, pem: bytes) -> None:
    with pytest.raises(WardmeshError) as caught:
        read_request(pem, "db1")
    assert caught.value.where == "db1" and caught.value.why and caught.value.remedy, what


def test_an_ed25519_request_is_refused() -> None:
    made = x509.CertificateSigningRequestBuilder().subject_name(subject("db1"))
    signed = made.sign(ed25519.Ed25519PrivateKey.generate(), None)
    with pytest.raises(WardmeshError):
        read_request(signed.public_bytes(serialization.Encoding.PEM), "db1")


@fuzz(100)
@given(st.binary(max_size=400))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    with pytest.raises(WardmeshError):
        read_request(b"-----BEGIN CERTIFICATE REQUEST-----\n" + data, "db1")


def test_extensions_of_a_request_are_not_looked_at() -> None:
    key, ca = new_key(), authority_at()
    asked = csr(key, subject("db1.example.com"), san=server_name("db2", "lab"))
    pem = issue(ca, read_request(asked, WHO.common_name), WHO, NOW)
    made = read_certificates(pem, "x")[0]
    assert leaf_of(made).names == WHO.names
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


@pytest.mark.parametrize("length", [1, 63, 64, 65, 250])
def test_names_of_any_length(length: int) -> None:
    name, key = "n" * length, new_key()
    assert public_bytes(read_request(request_for(key, name), name)) == spki(key)
    with pytest.raises(WardmeshError):
        read_request(request_for(key, name), "n" * (length - 1) + "m")
    who = Identity(name, (name,))
    assert leaf_of(read_certificates(issue(authority_at(), key.public_key(), who, NOW), "x")[0]).names == (
        name,
    )


# --- what a host refuses ---


def test_what_a_host_refuses() -> None:
    ca, other, key = authority_at(), authority_at(), new_key()
    good = issue(ca, key.public_key(), WHO, NOW)
    self_signed = load_authority(*make_authority("lab", NOW), (), NOW, "ca")
    cases: list[tuple[str, bytes, bytes, bytes, str, float]] = [
        ("expired", good, ca.bundle, spki(key), NAME, NOW + 181 * DAY),
        ("not valid yet", good, ca.bundle, spki(key), NAME, NOW - DAY),
        ("signed", good, other.bundle, spki(key), NAME, NOW),
        ("another key", good, ca.bundle, spki(new_key()), NAME, NOW),
        ("not for", good, ca.bundle, spki(key), server_name("db2", "lab"), NOW),
        ("not a certificate", good[:-200], ca.bundle, spki(key), NAME, NOW),
        ("not a certificate", good + good[:100], ca.bundle, spki(key), NAME, NOW),
        ("not a certificate", b"", ca.bundle, spki(key), NAME, NOW),
        ("not a certificate", good, b"", spki(key), NAME, NOW),
        ("not a certificate", good, ca.bundle[:-30], spki(key), NAME, NOW),
        ("not a certificate", good * 17, ca.bundle, spki(key), NAME, NOW),
        ("signed", good, good, spki(key), NAME, NOW),
        ("not for", pem_of(self_signed.certificate), self_signed.bundle, spki(self_signed.key), NAME, NOW),
    ]
    for words, chain, bundle, public, name, now in cases:
        with pytest.raises(WardmeshError) as caught:
            check_leaf(chain, bundle, public, name, now, "x")
        assert words in str(caught.value), words
    check_leaf(good, other.bundle + ca.bundle, spki(key), NAME, NOW, "x")


def test_a_member_cannot_sign_for_another() -> None:
    """A leaf is no CA, though a chain through it is mathematically right."""
    ca, thief, key = authority_at(), new_key(), new_key()
    leaf = issue(ca, thief.public_key(), Identity("thief", ("thief",)), NOW)
    false = Authority(read_certificates(leaf, "x")[0], thief, ca.bundle)
    pem = issue(false, key.public_key(), WHO, NOW)
    with pytest.raises(WardmeshError):
        check_leaf(pem + leaf, ca.bundle, spki(key), NAME, NOW, "x")
    with pytest.raises(WardmeshError):
        check_leaf(pem + leaf, ca.bundle + leaf, spki(key), NAME, NOW, "x")


def test_a_ca_between_leads_to_the_root() -> None:
    """An operator's own CA may be one that another has signed, of another kind of key."""
    root = rsa.generate_private_key(65537, 2048)
    certificate, key = make_authority("lab", NOW)
    own = read_certificates(certificate, "x")[0]
    begins = datetime.datetime.fromtimestamp(NOW - 60, datetime.UTC)

    def signed(name: x509.Name, public: Any) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(subject("root"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + datetime.timedelta(days=400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(root, hashes.SHA256())
        )

    between, top = (
        pem_of(signed(own.subject, own.public_key())),
        pem_of(signed(subject("root"), root.public_key())),
    )
    ca = load_authority(between, key, (), NOW, "ca")
    leaf = new_key()
    pem = issue(ca, leaf.public_key(), WHO, NOW)
    check_leaf(pem + between, top, spki(leaf), NAME, NOW, "x")
    check_leaf(pem, top + between, spki(leaf), NAME, NOW, "x")
    for chain, bundle in ((pem, top), (pem, between), (pem + top, between)):
        with pytest.raises(WardmeshError):
            check_leaf(chain, bundle, spki(leaf), NAME, NOW, "x")


# --- the CA's own files ---


def test_a_ca_that_cannot_sign_says_why() -> None:
    certificate, key = make_authority("lab", NOW)
    other = make_authority("lab", NOW)[1]
    leaf = issue(load_authority(certificate, key, (), NOW, "ca"), new_key().public_key(), WHO, NOW)
    leaf_key = new_key()
    leaf = issue(load_authority(certificate, key, (), NOW, "ca"), leaf_key.public_key(), WHO, NOW)
    for words, cert, secret, now in (
        ("not the key", certificate, other, NOW),
        ("not valid now", certificate, key, NOW + 3651 * DAY),
        ("not valid now", certificate, key, NOW - DAY),
        ("no CA", leaf, private_pem(leaf_key), NOW),
        ("not a private key", certificate, key[:-40], NOW),
        ("not a certificate", certificate[:-40], key, NOW),
    ):
        with pytest.raises(WardmeshError) as caught:
            load_authority(cert, secret, (), now, "ca")
        assert words in str(caught.value)
        assert "PRIVATE" not in str(caught.value)


def test_a_certificate_never_outlives_its_ca() -> None:
    made = make_authority("lab", NOW)
    late = NOW + (module.CA_DAYS - 10) * DAY
    ca = load_authority(*made, (), late, "ca")
    assert (
        leaf_of(read_certificates(issue(ca, new_key().public_key(), WHO, late), "x")[0]).ends
        == NOW + 3650 * DAY
    )


# --- renewal ---


def test_when_it_is_renewed() -> None:
    ca, other, key = authority_at(), authority_at(), new_key()
    good = issue(ca, key.public_key(), WHO, NOW)
    moved = Identity(WHO.common_name, WHO.names, ("10.0.0.2",))
    cases: list[tuple[str, bytes, Any, Identity, Authority, float]] = [
        ("", good, key, WHO, ca, NOW),
        ("", good, key, WHO, ca, NOW + 119 * DAY),
        ("ends in 59 days", good, key, WHO, ca, NOW + 121 * DAY),
        ("ends in 0 days", good, key, WHO, ca, NOW + 400 * DAY),
        ("not valid yet", good, key, WHO, ca, NOW - DAY / 2),
        ("none", b"", key, WHO, ca, NOW),
        ("damaged", good[:-50], key, WHO, ca, NOW),
        ("another key", good, new_key(), WHO, ca, NOW),
        ("names or addresses", good, key, moved, ca, NOW),
        ("another CA", good, key, WHO, other, NOW),
    ]
    for words, pem, held, who, signer, now in cases:
        why = why_renew(pem, spki(held), who, signer, now)
        assert bool(why) is bool(words) and words in why, (words, why)


def test_a_new_ca_beside_the_old_one_is_believed_by_everybody() -> None:
    """old+new in the bundle: certificates of either are good, so hosts may change one after the other."""
    old = authority_at()
    new = authority_at(NOW, old.bundle)
    keys = new_key(), new_key()
    for ca, key in zip((old, new), keys, strict=True):
        check_leaf(issue(ca, key.public_key(), WHO, NOW), new.bundle, spki(key), NAME, NOW, "x")
    assert len(read_certificates(new.bundle, "x")) == 2
    assert (
        load_authority(pem_of(new.certificate), private_pem(new.key), [new.bundle], NOW, "x").bundle
        == new.bundle
    )


def test_addresses_may_be_of_both_families() -> None:
    found = leaf_of(read_certificates(issue(authority_at(), new_key().public_key(), WHO, NOW), "x")[0])
    assert [ipaddress.ip_address(text).version for text in found.addresses] == [4, 6]
