# SPDX-License-Identifier: Apache-2.0
"""A ClickHouse that asks who we are, by HTTPS: the real engine behind a small server."""

import re

import pytest

from consumer.config import Config
from consumer.server import Server as Credentials
from consumer.sink import Sink, SinkUnavailable
from service.options import ConfigError, Dsn
from tests.consumer.clickhouse_server import Server
from tests.consumer.process import Consumer, free_port, publish
from tests.schemas.batches import a_batch
from tests.services.certificates import Authority

pytestmark = pytest.mark.services

USER, PASSWORD = "hookline_consumer", "kept by the consumer"


class Place:
    """Two authorities, and servers that each test may ask."""

    def __init__(self, folder):
        self.ours, self.foreign = (Authority.made(folder, name) for name in ("ours", "foreign"))
        self.own = self.ours.signed(USER)
        here = self.ours.signed("clickhouse")
        tls = {"certificate": here.pem, "key": here.key}
        users = {"users": {USER: PASSWORD}}
        self.with_password = Server(folder / "db", **tls, **users)
        self.with_certificate = Server(
            folder / "other", **tls, **users, client_ca=self.ours.own.pem
        )
        elsewhere = self.ours.signed("elsewhere", hosts="DNS:clickhouse.example")
        self.elsewhere = Server(folder / "third", certificate=elsewhere.pem, key=elsewhere.key)

    def credentials(self, **changes):
        given = {"user": USER, "password": PASSWORD, "ca_file": str(self.ours.own.pem)}
        return Credentials(**given | changes)

    def by_certificate(self, signed=None, **changes):
        certificate = signed or self.own
        files = {"certificate_file": str(certificate.pem), "key_file": str(certificate.key)}
        return self.credentials(**files, **changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = Place(tmp_path_factory.mktemp("clickhouse"))
    with made.with_password, made.with_certificate, made.elsewhere:
        yield made


def rows(server, credentials):
    sink = Sink(server.url, server=credentials)
    try:
        sink.connect(["flows"])
        return sink.rows("SELECT 1")
    finally:
        sink.close()


def complaint(server, credentials):
    with pytest.raises(SinkUnavailable) as refused:
        rows(server, credentials)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_right_password_comes_in(place):
    assert rows(place.with_password, place.credentials()) == [(1,)]


def test_a_certificate_stands_for_the_password(place):
    assert rows(place.with_certificate, place.by_certificate(password="")) == [(1,)]


def test_a_certificate_may_be_asked_for_beside_the_password(place):
    assert rows(place.with_certificate, place.by_certificate()) == [(1,)]


@pytest.mark.parametrize("changes", [{"password": "guessed"}, {"user": "nobody"}], ids=str)
def test_a_wrong_password_is_told(place, changes):
    user = changes.get("user", USER)

    assert complaint(place.with_password, place.credentials(**changes)) == (
        f"it refuses user {user!r}: unknown there, or with another password; check clickhouse_user"
        " and clickhouse_password_file"
    )


def test_an_authority_that_nobody_named_is_told(place):
    foreign = str(place.foreign.own.pem)

    of_foreign = complaint(place.with_password, place.credentials(ca_file=foreign))
    of_system = complaint(place.with_password, place.credentials(ca_file=""))

    assert of_foreign.startswith(f"its certificate is signed by none of {foreign} (")
    assert of_system.startswith("its certificate is signed by none of the system's authorities (")
    assert of_system.endswith("; name its authority's in clickhouse_ca_file")


def test_a_host_name_that_the_certificate_lacks_is_told(place):
    said = complaint(place.elsewhere, place.credentials())

    assert "not valid for '127.0.0.1'" in said
    assert said.endswith("; write in clickhouse a name that is in its certificate")


def test_a_certificate_of_ours_that_is_missing_or_refused_is_told(place):
    foreign = place.foreign.signed(USER)

    missing = complaint(place.with_certificate, place.credentials())
    refused = complaint(place.with_certificate, place.by_certificate(foreign))
    of_another = complaint(
        place.with_certificate, place.by_certificate(user="somebody", password="")
    )

    # With TLS 1.3 the server's reason may be lost behind the end of the connection.
    assert re.search("certificate of ours.*clickhouse_certificate_file", missing)
    assert re.search(f"refuses our certificate {foreign.pem}|wants another certificate", refused)
    assert of_another == (
        f"it refuses user 'somebody' by certificate {place.own.pem}; check clickhouse_user"
    )


def test_a_server_that_is_not_there_or_speaks_no_tls_is_told(place, tmp_path):
    def by(url):
        return complaint(type("Somewhere", (), {"url": url}), place.credentials())

    with Server(tmp_path / "db") as plain:
        assert "it does not speak TLS there" in by(plain.url.replace("http:", "https:"))
    assert by(f"https://127.0.0.1:{free_port()}") == "no server answers"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"clickhouse": Dsn("https://db?verify=false")}, "leave out what is behind the ?"),
        ({"clickhouse_ca_file": __file__}, "clickhouse_ca_file is given, and clickhouse 'chdb"),
        ({"clickhouse_ca_file": "/nowhere"}, "clickhouse_ca_file is /nowhere, which is no file"),
        ({"clickhouse_ca_file": __file__, "at": "https"}, "holds no certificates of authorities"),
        ({"clickhouse_certificate_file": __file__, "at": "https"}, "needs clickhouse_user"),
        ({"clickhouse": Dsn("https://db:x")}, "write chdb:///absolute/directory"),
    ],
    ids=str,
)
def test_what_would_weaken_or_mean_nothing_is_refused(given, said):
    if given.pop("at", "") or given.get("clickhouse_ca_file") == "/nowhere":
        given["clickhouse"] = Dsn("https://db")

    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        Config(**given)


async def test_rows_arrive_over_https(kafka, place, tmp_path):
    await publish(kafka, a_batch(rows=10, node="by-https"))
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    flags = [
        f"--kafka={kafka}",
        "--group=by-https",
        f"--clickhouse={place.with_password.url}",
        f"--clickhouse-user={USER}",
        f"--clickhouse-password-file={password}",
        f"--clickhouse-ca-file={place.ours.own.pem}",
        "--max-age=0.2",
    ]

    asked = "SELECT count() FROM hookline.flows WHERE node = 'by-https'"
    with Consumer(tmp_path, *flags) as running:
        # There are tables then; rows of other tests stand before ours in the topic.
        await running.until_inserted(10, table="flows")
        sink = Sink(place.with_password.url, server=place.credentials())
        sink.connect(["flows"])
        await running.until(lambda: sink.rows(asked) == [(10,)])
        assert await running.terminate() == 0
    sink.close()
