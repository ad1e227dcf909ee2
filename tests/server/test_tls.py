"""Certificates for HTTPS."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from stream_server.config import WebConfig
from stream_server.errors import ConfigError
from stream_server.tls import make_context, make_self_signed


def test_a_self_signed_certificate_is_for_this_machine_and_the_host() -> None:
    certificate = x509.load_pem_x509_certificate(make_self_signed("10.0.0.7"))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost"} <= set(names.get_values_for_type(x509.DNSName))
    addresses = {str(each) for each in names.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", "::1", "10.0.0.7"} <= addresses
    assert make_context(WebConfig(tls_self_signed=True), "10.0.0.7").get_ca_certs() == []


def test_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "both.pem"
    file.write_bytes(make_self_signed("example.org"))
    context = make_context(WebConfig(tls_cert=str(file), tls_key=str(file)), "h")
    assert isinstance(context, ssl.SSLContext)


def test_what_is_no_certificate_is_named(tmp_path: Path) -> None:
    file = tmp_path / "empty.pem"
    file.touch()
    for name in (str(file), str(tmp_path / "missing.pem")):
        with pytest.raises(ConfigError, match=r"web\.tls_cert") as caught:
            make_context(WebConfig(tls_cert=name, tls_key=name), "h")
        assert caught.value.value == name
