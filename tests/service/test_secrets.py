# SPDX-License-Identifier: Apache-2.0
import pytest

from agent.config import Config as AgentConfig
from consumer.config import Config
from service.cli import Done, configured
from service.options import ConfigError, Dsn, build
from service.secrets import exposed, without_options, without_passwords


def a_config(*flags: str, environ: dict[str, str] | None = None) -> Config:
    return configured(
        Config, name="consumer", description="", examples="", argv=flags, environ=environ or {}
    )


@pytest.fixture
def password(tmp_path):
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("mode", "is_open"), [(0o600, False), (0o640, False), (0o604, True), (0o602, True)]
)
def test_a_file_that_every_user_can_open_is_told(password, capsys, mode, is_open):
    password.chmod(mode)

    config = a_config(f"--clickhouse-password-file={password}")

    told = (
        f"clickhouse_password_file {password} is open to every user; close it: chmod o= {password}"
    )
    assert exposed(config) == [told] * is_open
    assert capsys.readouterr().err == f"consumer: warning: {told}\n" * is_open


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "is no text")]
)
def test_a_password_file_without_a_password_is_refused(password, content, said):
    password.write_bytes(content)

    with pytest.raises(ConfigError, match=f"clickhouse_password_file {password} {said}"):
        build(
            Config,
            table="consumer",
            flags={"clickhouse_password_file": str(password)},
            environ={},
            file=None,
        )


def test_a_password_in_a_flag_is_refused_and_not_repeated(capsys):
    with pytest.raises(Done) as done:
        a_config("--clickhouse=https://me:hunter2@db:8443")

    said = capsys.readouterr().err
    assert done.value.code == 2
    assert "hunter2" not in said
    assert said.endswith("give it by HOOKLINE_CLICKHOUSE_PASSWORD, or by a file\n")
    assert a_config(environ={"HOOKLINE_CLICKHOUSE": "https://me:hunter2@db:8443"})


@pytest.mark.parametrize(
    "text",
    [
        "http://me:hunter2@db:8123",
        "http://me:hunter2@db",
        "http://:hunter2@db/x",
        "http://me:hunter/2@db",
        "http://me:hunter@2@db",
        "http://me:hunter2@[db",
    ],
)
def test_an_address_is_shown_without_its_password_even_where_it_is_none(text):
    assert "hunter" not in repr(Dsn(text))
    assert Dsn(text).has_password


def test_an_address_without_a_password_is_shown_as_it_is():
    for text in ("chdb:///var/lib/x", "http://me@db:8123", "https://[::1]:8443/hookline"):
        assert Dsn(text).masked == text


def test_an_address_that_is_none_is_refused_without_its_password():
    with pytest.raises(ConfigError) as refused:
        Config(clickhouse=Dsn("http://me:hunter2@[db"))

    assert "hunter2" not in str(refused.value)


def test_children_get_what_they_need():
    environ = {
        "PATH": "/usr/bin",
        "HOOKLINE_NODE": "web-1",
        "HOOKLINE_KAFKA_PASSWORD": "hunter2",
        "HOOKLINE_KAFKA_PASSWORD_FILE": "/etc/credstore/x",
    }

    assert without_options(environ) == {"PATH": "/usr/bin"}
    assert "hunter2" not in without_passwords(environ).values()
    assert without_passwords(environ)["HOOKLINE_NODE"] == "web-1"


def test_a_password_without_encryption_is_told():
    (told,) = exposed(AgentConfig(kafka_security="sasl_plaintext", kafka_user="me"))

    assert told.endswith("use sasl_ssl")
