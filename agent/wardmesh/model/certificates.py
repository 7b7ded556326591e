# SPDX-License-Identifier: Apache-2.0
"""Pure: what makes a certificate good for a member, on the host and on the controller alike.

Works with cryptography from 3.4 on (Ubuntu 22.04), so chains are walked here: a verifier came with 42.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timezone
from typing import TYPE_CHECKING, Any

from wardmesh.model.errors import WardmeshError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MEMBER_SUFFIX = ".hubble-grpc.cilium.io"  # upstream: pkg/hubble/peer
LARGEST = 1 << 16  # bytes of PEM that are looked at
MOST = 16  # certificates of one file
_DEPTH = 4
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_MARKS = re.compile(rb"-----(?:BEGIN|END) CERTIFICATE-----")


@dataclass(frozen=True)
class Leaf:
    """What a certificate says. begins, ends: unix seconds; public: SubjectPublicKeyInfo (DER)."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    begins: float
    ends: float
    serial: int
    public: bytes


def server_name(member: str, cluster: str) -> str:
    """The name in a member's certificate (upstream: pkg/hubble/peer): dots of the names become dashes."""
    return f"{member.replace('.', '-')}.{cluster.replace('.', '-')}{MEMBER_SUFFIX}"


def read_certificates(pem: bytes, where: str) -> list[Certificate]:
    """Every certificate of a PEM text, at least one; a text that was cut off is refused as a whole."""
    from cryptography import x509

    blocks = _BLOCK.findall(pem) if len(pem) <= LARGEST else []
    whole = len(_MARKS.findall(pem)) == 2 * len(blocks)
    if not 0 < len(blocks) <= MOST or not whole:
        why = f"{len(pem)} bytes, {len(blocks)} whole certificates"
        raise WardmeshError("not a certificate", where=where, why=why, remedy="run the playbook again")
    try:
        return [x509.load_pem_x509_certificate(block + b"\n") for block in blocks]
    except ValueError as error:
        raise WardmeshError(
            "not a certificate", where=where, why=str(error), remedy="run the playbook again"
        ) from error


def leaf_of(certificate: Certificate) -> Leaf:
    """What a certificate says."""
    names, addresses = _alternative(certificate)
    return Leaf(
        names,
        addresses,
        *span(certificate),
        certificate.serial_number,
        public_bytes(certificate.public_key()),
    )


def _alternative(certificate: Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    addresses = tuple(str(address) for address in found.get_values_for_type(x509.IPAddress))
    return tuple(found.get_values_for_type(x509.DNSName)), addresses


def span(certificate: Certificate) -> tuple[float, float]:
    """From when and until when it is valid, in unix seconds."""
    found = []
    for name in ("not_valid_before", "not_valid_after"):
        moment = getattr(certificate, f"{name}_utc", None)  # newer than the oldest library in use
        if moment is None:
            moment = getattr(certificate, name).replace(tzinfo=timezone.utc)
        found.append(float(moment.timestamp()))
    return found[0], found[1]


def public_bytes(key: Any) -> bytes:
    """SubjectPublicKeyInfo of a public key, to compare."""
    from cryptography.hazmat.primitives import serialization

    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.DER, kind))


def read_private(pem: bytes, where: str) -> Any:
    """A private key without passphrase. The error says nothing of its content."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        return serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise WardmeshError(
            "not a private key in PEM without passphrase",
            where=where,
            remedy="restore it, or remove it and run the playbook for a new one",
        ) from error


def check_pair(chain: bytes, key: bytes, where: str) -> None:
    """Do certificate and key belong together? WardmeshError where they do not."""
    certificate = read_certificates(chain, where)[0]
    if public_bytes(read_private(key, where).public_key()) != public_bytes(certificate.public_key()):
        raise WardmeshError(
            "certificate and private key do not belong together", where=where, remedy="run the playbook again"
        )


def check_leaf(chain: bytes, bundle: bytes, public: bytes, name: str, now: float, where: str) -> Leaf:
    """A certificate (then those up to its CA) for this key and name, valid now, its CA in the bundle.

    public: SubjectPublicKeyInfo of the key that it must have; name: the DNS name that it must carry.
    """
    first, *between = read_certificates(chain, where)
    found = leaf_of(first)
    if found.public != public:
        raise _bad(where, "it is for another key than this host's")
    if name not in found.names:
        raise _bad(where, f"it is for {', '.join(found.names) or 'nobody'}, not for {name}")
    if now < found.begins:
        raise _bad(where, "it is not valid yet", "compare the clocks of host and controller")
    if now >= found.ends:
        raise _bad(where, "it has expired", "compare the clocks; run the playbook for a new one")
    if not chains(first, between, read_certificates(bundle, f"{where}: CA"), now):
        raise _bad(where, "no CA of the bundle has signed it, or that CA is not valid now")
    return found


def _bad(where: str, why: str, remedy: str = "run the playbook again") -> WardmeshError:
    return WardmeshError("the certificate is refused", where=where, why=why, remedy=remedy)


def chains(
    first: Certificate, between: Iterable[Certificate], bundle: Iterable[Certificate], now: float
) -> bool:
    """Does a way lead from a certificate to a self-signed CA of the bundle?"""
    roots = list(bundle)
    known = [*between, *roots]
    current = first
    for _step in range(_DEPTH):
        issuer = next((item for item in known if _issued(current, item, now)), None)
        if issuer is None:
            return False
        if issuer in roots and signed_by(issuer, issuer):
            return True
        current = issuer
    return False


def _issued(certificate: Certificate, issuer: Certificate, now: float) -> bool:
    begins, ends = span(issuer)
    return begins <= now < ends and may_sign(issuer) and signed_by(certificate, issuer)


def may_sign(certificate: Certificate) -> bool:
    """Is it a CA's?"""
    from cryptography import x509

    found = certificate.extensions
    try:
        if not found.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    try:
        return bool(found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign)
    except x509.ExtensionNotFound:
        return True


def signed_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Is the signature of one the other's, by name and by key?"""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    if certificate.issuer != issuer.subject:
        return False
    key, signed, said = issuer.public_key(), certificate.signature, certificate.tbs_certificate_bytes
    try:
        used = certificate.signature_hash_algorithm
        if isinstance(key, ec.EllipticCurvePublicKey) and used is not None:
            key.verify(signed, said, ec.ECDSA(used))
        elif isinstance(key, rsa.RSAPublicKey) and used is not None:
            key.verify(signed, said, padding.PKCS1v15(), used)
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signed, said)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
