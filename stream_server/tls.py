"""HTTPS: a certificate from files, or one made on the spot for a first try.

Browsers give a page the microphone only over HTTPS or on this very machine, so trying it from a
telephone needs one; the browser then warns once, since nobody vouches for it.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stream_server.config import WebConfig
from stream_server.errors import ConfigError

_DAYS = 30
"""How long a self-signed certificate holds; each start makes another."""


def make_context(web: WebConfig, host: str) -> ssl.SSLContext:
    """Return what TLS is served with.

    Args:
        web: names the files, or asks for a self-signed certificate.
        host: that a self-signed certificate is for.

    Raises:
        ConfigError: the files are no certificate with its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if not web.tls_cert:
        with tempfile.TemporaryDirectory() as folder:  # ssl reads files alone
            file = Path(folder) / "self-signed.pem"
            file.touch(mode=0o600)
            file.write_bytes(make_self_signed(host))
            context.load_cert_chain(file)
        return context
    try:
        context.load_cert_chain(web.tls_cert, web.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "web.tls_cert", web.tls_cert,
            f"a PEM certificate that {web.tls_key!r} is the key of ({error})",
        ) from error  # fmt: skip
    return context


def make_self_signed(host: str) -> bytes:
    """Return a new certificate and its key as PEM.

    Args:
        host: that it is for, beside this machine's own names.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "diffscribe")])
    now = datetime.datetime.now(datetime.UTC)
    names = dict.fromkeys(["localhost", "127.0.0.1", "::1", host, socket.gethostname()])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general(each) for each in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


__all__ = ["make_context", "make_self_signed"]
