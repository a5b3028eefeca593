# SPDX-License-Identifier: Apache-2.0
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import Config
from service.broker import Broker, one_line
from service.options import ConfigError

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


def test_an_authority_or_certificate_that_is_none_is_named(certificate, tmp_path):
    pem, key = map(str, certificate)
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no certificate")
    own = {"kafka_security": "ssl", "kafka_ca_file": pem}

    for wrong, named in (
        ({"kafka_ca_file": str(nothing)}, f"kafka_ca_file {nothing} holds no certificates"),
        ({"kafka_certificate_file": str(nothing)}, f"kafka_certificate_file {nothing} is no"),
        ({"kafka_certificate_file": pem}, f"kafka_certificate_file {pem} is no certificate with"),
    ):
        with pytest.raises(ConfigError) as refused:
            Config(**own | wrong)
        assert named in str(refused.value)

    assert Config(**own, kafka_certificate_file=pem, kafka_key_file=key)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kafka_ca_file": __file__}, "kafka_ca_file is given, and kafka_security plaintext"),
        (
            {"kafka_security": "sasl_plaintext", "kafka_user": "u", "kafka_ca_file": __file__},
            "choose ssl or sasl_ssl",
        ),
        ({"kafka_security": "ssl", "kafka_user": "u"}, "choose sasl_plaintext or sasl_ssl"),
    ],
)
def test_protection_that_was_meant_and_is_not_in_force_is_refused(given, named):
    with pytest.raises(ConfigError, match=named):
        Config(**given)


def test_a_key_with_a_password_is_refused_and_asked_for_nothing(tmp_path):
    pem, key = tmp_path / "own.pem", tmp_path / "own.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-passout", "pass:secret", "-subj", "/CN=hookline", "-keyout", key, "-out", pem),
        ],
        check=True,
        capture_output=True,
    )

    with pytest.raises(ConfigError, match="without a password"):
        Config(kafka_security="ssl", kafka_certificate_file=str(pem), kafka_key_file=str(key))
