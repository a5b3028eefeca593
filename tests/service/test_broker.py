# SPDX-License-Identifier: Apache-2.0
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from service.broker import Broker, one_line

PLAIN = Broker("k-1:9092,k-2:9092", "plaintext", "", "", "", "PLAIN", "", "", "hookline-consumer")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    key, pem = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=hookline", "-days", "2", "-keyout", key, "-out", pem),
        ],
        check=True,
        capture_output=True,
    )
    return pem, key


def test_a_plain_connection_has_no_credentials():
    assert PLAIN.connection() == {
        "bootstrap_servers": "k-1:9092,k-2:9092",
        "client_id": "hookline-consumer",
        "security_protocol": "PLAINTEXT",
    }


def test_tls_verifies_the_broker_against_the_given_authority_and_shows_our_certificate(certificate):
    pem, key = map(str, certificate)
    broker = replace(PLAIN, security="ssl", ca_file=pem, certificate_file=pem, key_file=key)

    connection = broker.connection()

    context = connection["ssl_context"]
    assert connection["security_protocol"] == "SSL"
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert [one["subject"] for one in context.get_ca_certs()] == [((("commonName", "hookline"),),)]


def test_sasl_brings_user_and_password():
    broker = replace(
        PLAIN, security="sasl_plaintext", sasl_mechanism="SCRAM-SHA-512", user="u", password="p"
    )

    connection = broker.connection()

    assert "ssl_context" not in connection
    assert connection["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (connection["sasl_plain_username"], connection["sasl_plain_password"]) == ("u", "p")


def test_an_error_without_words_is_named():
    assert one_line(ValueError()) == "ValueError()"
    assert one_line(ValueError("first\nsecond")) == "first"
