# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from consumer.cli import main
from consumer.config import Config
from service.options import ConfigError, Dsn, Secret, build


def a_config(
    file: Path | None = None, environ: dict[str, str] | None = None, **flags: object
) -> Config:
    return build(Config, table="consumer", flags=flags, environ=environ or {}, file=file)


def a_file(directory: Path, text: str) -> Path:
    file = directory / "hookline.toml"
    file.write_text(text)
    return file


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path):
    file = a_file(tmp_path, '[consumer]\nmax_rows = 1\nmax_age = 1\ngroup = "of-file"\n')
    environ = {"HOOKLINE_MAX_ROWS": "2", "HOOKLINE_MAX_AGE": "2"}

    config = a_config(file, environ, max_rows="3")

    assert (config.max_rows, config.max_age, config.group) == (3, 2.0, "of-file")


def test_what_stands_above_the_tables_of_the_file_is_for_every_part(tmp_path):
    file = a_file(tmp_path, 'kafka = "k:1"\ngroup = "all"\nother = 1\n[consumer]\ngroup = "own"\n')

    config = a_config(file)

    assert (config.kafka, config.group) == ("k:1", "own")


def test_a_secret_comes_from_the_environment_before_its_file(tmp_path):
    password = tmp_path / "password"
    password.write_text("of-file\n")
    from_file = {"HOOKLINE_KAFKA_PASSWORD_FILE": str(password)}

    assert a_config(environ=from_file).kafka_password == "of-file"
    assert a_config(environ={**from_file, "HOOKLINE_KAFKA_PASSWORD": "e"}).kafka_password == "e"


def test_a_secret_is_not_taken_from_the_file_of_options(tmp_path):
    with pytest.raises(ConfigError, match="unknown option kafka_password"):
        a_config(a_file(tmp_path, '[consumer]\nkafka_password = "secret"\n'))


def test_no_secret_is_shown():
    config = Config(
        kafka_password=Secret("hunter2"),
        clickhouse_password=Secret("hunter2"),
        clickhouse=Dsn("http://me:hunter2@db:8123"),
    )

    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(config.broker("any"))
    assert config.clickhouse.masked == "http://me:***@db:8123"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_rows": "many"}, "--max-rows is 'many', which is no int"),
        ({"max_rows": "0"}, "max_rows is 0; it must be more than 0"),
        ({"max_age": "nan"}, "give it a finite number"),
        ({"clickhouse": "postgres://db"}, "clickhouse is 'postgres://db'; write chdb:///"),
        ({"clickhouse": "chdb://relative/path"}, "write chdb:///absolute"),
        ({"clickhouse": "http://"}, "write chdb:///absolute"),
        ({"clickhouse": "http://db:8123", "serve": "127.0.0.1:8123"}, "serve works with chdb"),
        ({"serve": "8123"}, "serve is '8123'; write HOST:PORT"),
        ({"metrics_listen": "127.0.0.1:99999"}, "metrics_listen is"),
        ({"kafka": ""}, "kafka is ''; write HOST:PORT"),
        ({"kafka": "k-1:9092,foo bar"}, "kafka is 'foo bar'; write HOST:PORT"),
        ({"kafka_security": "tls"}, "choose one of plaintext, ssl"),
        ({"kafka_security": "sasl_ssl"}, "needs kafka_user"),
        ({"kafka_ca_file": "/does/not/exist"}, "kafka_ca_file is /does/not/exist"),
        ({"kafka_password_file": "/does/not/exist"}, "cannot read kafka_password_file"),
    ],
)
def test_a_wrong_option_is_refused_by_name(changes, reason):
    with pytest.raises(ConfigError) as refusal:
        a_config(**changes)

    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[consumer\n", "is no TOML"),
        ("[consumer]\nmax_row = 1\n", r"unknown option max_row in \[consumer\]"),
        ("consumer = 1\n", r"write \[consumer\]"),
        ("[consumer]\nmax_rows = true\n", "max_rows in .* is True"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, reason):
    with pytest.raises(ConfigError, match=reason):
        a_config(a_file(tmp_path, text))


def test_check_validates_and_changes_nothing(tmp_path, capsys):
    dsn = f"chdb://{tmp_path}/db"

    assert main(["--check", "--clickhouse", dsn], environ={}) == 0
    assert "configuration is valid" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_bad_configuration_is_one_line_and_exit_code_2(capsys):
    assert main(["--check", "--max-rows", "-1"], environ={}) == 2
    assert capsys.readouterr().err == "consumer: max_rows is -1; it must be more than 0\n"


def test_bad_usage_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--no-such-flag"], environ={})

    assert exit_.value.code == 2
    assert "--no-such-flag" in capsys.readouterr().err


def test_help_names_every_option_but_no_secret(capsys):
    with pytest.raises(SystemExit):
        main(["--help"], environ={})

    text = capsys.readouterr().out
    for name in Config.__dataclass_fields__:
        flag = "--" + name.replace("_", "-")
        assert (f"{flag} " in text) == (not name.endswith("_password"))


def test_the_file_of_options_may_be_named_in_the_environment(tmp_path, capsys):
    file = a_file(tmp_path, "[consumer]\nmax_rows = -5\n")

    assert main(["--check"], environ={"HOOKLINE_CONFIG": str(file)}) == 2
    assert "max_rows is -5" in capsys.readouterr().err
