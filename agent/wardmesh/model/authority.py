# SPDX-License-Identifier: Apache-2.0
"""Pure: the fleet's CA. Requests are checked, certificates signed; names come from the fleet map alone."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from wardmesh.model.certificates import (
    leaf_of,
    may_sign,
    public_bytes,
    read_certificates,
    read_private,
    signed_by,
    span,
)
from wardmesh.model.errors import WardmeshError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, ExtensionType

CA_DAYS = 3650
LEAF_DAYS = 180
LARGEST_REQUEST = 1 << 14
RENEW_PART = 3  # renewed when less than one third of the lifetime is left
_EARLY = timedelta(hours=1)  # clocks may differ by so much
DAY = 86400.0
_COMMON_NAME = 64


@dataclass(frozen=True)
class Identity:
    """Who a certificate is for. server: may others connect to it?"""

    common_name: str
    names: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    server: bool = True


@dataclass(frozen=True)
class Authority:
    """Signs. bundle: every certificate by which hosts judge, its own first."""

    certificate: Certificate
    key: Any
    bundle: bytes


def make_authority(name: str, now: float) -> tuple[bytes, bytes]:
    """Certificate and private key (PEM) of a new CA."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"{name[:40]} wardmesh CA")
    begins = datetime.fromtimestamp(now, timezone.utc)
    made = _builder(subject, subject, key.public_key(), begins - _EARLY, begins + timedelta(days=CA_DAYS))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(_usage(signs=True), critical=True)
    return pem_of(made.sign(key, hashes.SHA256())), private_pem(key)


def private_pem(key: Any) -> bytes:
    """A private key as a file holds it."""
    from cryptography.hazmat.primitives import serialization

    kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain))


def new_key() -> Any:
    """A private key for a leaf: ECDSA, P-256."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def pem_of(certificate: Certificate) -> bytes:
    """As a file holds it."""
    from cryptography.hazmat.primitives import serialization

    return bytes(certificate.public_bytes(serialization.Encoding.PEM))


def load_authority(
    certificate: bytes, key: bytes, others: Iterable[bytes], now: float, where: str
) -> Authority:
    """A CA from its files, checked. others: further CAs (PEM) to be believed, as while one is replaced."""
    chain = read_certificates(certificate, f"{where}/ca.crt")
    own, signer = chain[0], read_private(key, f"{where}/ca.key")
    begins, ends = span(own)
    problem = ""
    if public_bytes(signer.public_key()) != public_bytes(own.public_key()):
        problem = "ca.key is not the key of ca.crt"
    elif not may_sign(own):
        problem = "ca.crt is no CA's certificate"
    elif not begins <= now < ends:
        problem = "ca.crt is not valid now"
    if problem:
        raise WardmeshError(
            "the CA cannot sign", where=where, why=problem, remedy="restore both, or make a new CA"
        )
    return Authority(own, signer, bundle_of([certificate, *others], where))


def bundle_of(parts: Iterable[bytes], where: str) -> bytes:
    """Certificates of several files as one text, each once, in order."""
    found = dict.fromkeys(pem_of(item) for part in parts for item in read_certificates(part, where))
    return b"".join(found)


def request_for(key: Any, member: str) -> bytes:
    """A certificate request (PEM) that asks for nothing but the member's name."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    made = x509.CertificateSigningRequestBuilder().subject_name(_subject(member)).sign(key, hashes.SHA256())
    return bytes(made.public_bytes(serialization.Encoding.PEM))


def read_request(pem: bytes, member: str) -> Any:
    """The public key of a request that this member made; extensions in it are not looked at.

    WardmeshError: not PEM, too large, not signed by its key, another subject, another kind of key than P-256.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        if len(pem) > LARGEST_REQUEST:
            raise _refused(member, "too large")
        asked = x509.load_pem_x509_csr(pem)
        signed, key = asked.is_signature_valid, asked.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _refused(member, "it cannot be read") from error
    names = [str(item.value) for item in asked.subject]
    if not signed:
        raise _refused(member, "its signature is not that of its key")
    if asked.subject != _subject(member):
        raise _refused(member, f"it is for {', '.join(names)[:200] or 'nobody'}")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused(member, "its key is not of P-256")
    return key


def _refused(member: str, why: str) -> WardmeshError:
    return WardmeshError(
        "the certificate request is refused",
        where=member,
        why=why,
        remedy="see whether it is the host that the inventory means; remove its hubble.key for a new one",
    )


def issue(authority: Authority, public: Any, who: Identity, now: float, days: float = LEAF_DAYS) -> bytes:
    """A certificate (PEM) for a key. It never outlives its CA."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID as Use

    begins = datetime.fromtimestamp(now, timezone.utc)
    ends = min(
        begins + timedelta(days=days), datetime.fromtimestamp(span(authority.certificate)[1], timezone.utc)
    )
    own = authority.certificate
    extensions: list[tuple[ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs=False), True),
        (
            x509.ExtendedKeyUsage([Use.SERVER_AUTH, Use.CLIENT_AUTH] if who.server else [Use.CLIENT_AUTH]),
            False,
        ),
        (_alternative(who), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(own.public_key()), False),  # type: ignore[arg-type]
    ]
    made = _builder(_subject(who.common_name), own.subject, public, begins - _EARLY, ends)
    for extension, critical in extensions:
        made = made.add_extension(extension, critical=critical)
    return pem_of(made.sign(authority.key, hashes.SHA256()))


def _alternative(who: Identity) -> Any:
    from cryptography import x509

    names = [x509.DNSName(name) for name in who.names]
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in who.addresses]
    return x509.SubjectAlternativeName([*names, *addresses])


def why_renew(installed: bytes, public: bytes, who: Identity, authority: Authority, now: float) -> str:
    """Why a member needs another certificate than the one that it has; empty where it does not."""
    if not installed:
        return "it has none"
    try:
        first = read_certificates(installed, who.common_name)[0]
    except WardmeshError:
        return "it has a damaged one"
    found = leaf_of(first)
    if found.public != public:
        return "it has another key"
    if set(found.names) != set(who.names) or set(found.addresses) != set(who.addresses):
        return "its names or addresses changed"
    if now < found.begins:
        return "it is not valid yet"
    if not signed_by(first, authority.certificate):
        return "another CA has signed it"
    left = found.ends - now
    if left * RENEW_PART < found.ends - found.begins:
        return f"it ends in {max(0.0, left / DAY):.0f} days"
    return ""


def _subject(name: str) -> Any:
    """A common name has at most 64 characters (RFC 5280, appendix A.1); longer ones end in their digest."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    if len(name) > _COMMON_NAME:
        name = f"{name[:31]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: Any, issuer: Any, public: Any, begins: datetime, ends: datetime) -> Any:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, signs: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
