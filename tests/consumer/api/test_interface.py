# SPDX-License-Identifier: Apache-2.0
"""ClickHouse's HTTP interface, byte by byte, as curl and clients speak it."""

import gzip
import json
import socket
import subprocess
import zlib
from http.client import HTTPConnection

import lz4.frame
import pytest
import zstandard

from consumer.api.request import MAX_BODY_BYTES
from consumer.api.server import ApiServer, ApiUnavailable
from tests.consumer.api.conftest import FLOWS, Ask
from tests.services.served_history import ServedHistory, http

DECOMPRESS = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "lz4": lz4.frame.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().stream_reader(body).read(),
}
COMPRESS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("path", ["/ping", "/", "/replicas_status"])
def test_health_paths_say_ok(history: ServedHistory, path: str):
    connection = HTTPConnection("127.0.0.1", history.port)
    connection.request("GET", path)
    response = connection.getresponse()

    assert (response.status, response.read()) == (200, b"Ok.\n")
    connection.close()


def test_other_paths_are_not_found(history: ServedHistory):
    assert b"404 Not Found" in http(
        history.port, b"GET /play HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )


def test_a_query_may_stand_in_the_url_or_in_the_body_or_in_both(ask: Ask):
    assert ask("", query="SELECT 1").body == b"1\n"
    assert ask("SELECT 1").body == b"1\n"
    assert ask("FROM numbers(2)", query="SELECT number").body == b"0\n1\n"


def test_curl_asks_by_get_and_by_post(history: ServedHistory):
    get = subprocess.run(
        [
            "curl",
            "-sS",
            "--get",
            history.url,
            "--data-urlencode",
            "query=SELECT count() FROM flows",
        ],
        capture_output=True,
        check=True,
    )
    post = subprocess.run(
        ["curl", "-sS", history.url, "-d", "SELECT count() FROM flows"],
        capture_output=True,
        check=True,
    )

    assert int(get.stdout) >= FLOWS
    assert int(post.stdout) >= FLOWS


def test_the_history_is_the_default_database(ask: Ask):
    assert ask("SELECT currentDatabase()").body == b"hookline\n"
    assert ask("SELECT currentDatabase()", database="default").body == b"hookline\n"
    assert ask("SELECT 1", headers={"X-ClickHouse-Database": "hookline"}).body == b"1\n"
    assert ask("SELECT 1", database="elsewhere").code == "81"


def test_the_format_is_the_statements_then_the_default(ask: Ask):
    assert ask("SELECT 1 AS a FORMAT JSONEachRow", default_format="CSV").body == b'{"a":1}\n'
    assert ask("SELECT 1 AS a", default_format="JSONEachRow").body == b'{"a":1}\n'
    assert ask("SELECT 1 AS a").headers["X-ClickHouse-Format"] == "TabSeparated"
    assert ask("SELECT 1 AS a FORMAT Nonsense").code == "73"


@pytest.mark.parametrize(
    "form",
    ["TSVWithNames", "TSVWithNamesAndTypes", "CSVWithNames", "JSONCompactEachRowWithNamesAndTypes"],
)
def test_a_header_stands_once_before_a_long_result_and_before_an_empty_one(ask: Ask, form: str):
    lines = 2 if "Types" in form else 1

    long = ask("SELECT number AS n, 'x' AS s FROM numbers(500000)", default_format=form).body
    empty = ask("SELECT number AS n, 'x' AS s FROM numbers(0)", default_format=form).body

    assert long.count(b"\n") == 500_000 + lines
    assert empty.count(b"\n") == lines
    assert long.startswith(empty)


def test_a_header_may_name_a_column_twice(ask: Ask):
    sql = "SELECT a.dummy, b.dummy FROM system.one AS a, system.one AS b FORMAT TSVWithNames"

    assert ask(sql).body == b"dummy\tb.dummy\n0\t0\n"


def test_totals_and_extremes_are_not_lost(ask: Ask):
    sql = "SELECT number % 2 AS k, count() FROM numbers(10) GROUP BY k WITH TOTALS ORDER BY k"

    assert ask(sql).body == b"0\t5\n1\t5\n\n0\t10\n"
    assert ask("SELECT number FROM numbers(3)", extremes=1).body == b"0\n1\n2\n\n0\n2\n"


def test_headers_tell_the_query_id_the_format_the_time_zone_and_what_was_read(ask: Ask):
    reply = ask("SELECT sum(bytes) FROM flows", query_id="my-query")
    summary = json.loads(reply.headers["X-ClickHouse-Summary"])

    assert reply.headers["X-ClickHouse-Query-Id"] == "my-query"
    assert reply.headers["X-ClickHouse-Format"] == "TabSeparated"
    assert reply.headers["X-ClickHouse-Timezone"]
    assert reply.headers["Content-Type"] == "text/tab-separated-values; charset=UTF-8"
    assert int(summary["read_rows"]) >= FLOWS
    assert int(summary["elapsed_ns"]) > 0


def test_a_query_id_cannot_split_the_headers(ask: Ask):
    assert ask("SELECT 1", query_id="x\r\nEvil: 1").status == 400


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        ("SELEC 1", 400, "62"),
        ("SELECT * FROM nope", 404, "60"),
        ("SELECT nope FROM flows", 404, "47"),
        ("SELECT nope(1)", 404, "46"),
        ("SELECT throwIf(1)", 500, "395"),
        ("", 400, "62"),
        ("SELECT 1; SELECT 2", 400, "62"),
        ("INSERT INTO flows (node) VALUES ('x')", 500, "164"),
        (b"SELECT '\xff'", 400, "62"),
    ],
)
def test_errors_carry_clickhouses_code_and_status(
    ask: Ask, sql: str | bytes, status: int, code: str
):
    reply = ask(sql, query_id="q")

    assert (reply.status, reply.code) == (status, code)
    assert reply.body.startswith(f"Code: {code}. DB::Exception: ".encode())


def test_an_error_in_the_middle_of_a_result_is_marked_and_cuts_the_reply(history: ServedHistory):
    sql = b"SELECT number, intDiv(1, 2000000 - number) FROM numbers(3000000)"
    answer = http(
        history.port,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(sql), sql),
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    tag = next(line for line in head.splitlines() if b"Exception-Tag" in line).split()[1]

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"__exception__\r\n" + tag in body
    assert b"Code: 153. DB::Exception: Division by zero" in body
    assert not body.endswith(b"0\r\n\r\n")


def test_parameters_are_bound(ask: Ask):
    sql = "SELECT {n:UInt8} + 1, {s:String}, {t:DateTime64(9)}, {l:Array(UInt8)}, {a:IPv6}"
    reply = ask(
        sql, param_n=41, param_s="'; --", param_t="2026-01-02 03:04:05.000000006",
        param_l="[1,2]", param_a="10.0.0.1",
    )  # fmt: skip

    assert reply.body == b"42\t\\'; --\t2026-01-02 03:04:05.000000006\t[1,2]\t::ffff:10.0.0.1\n"
    assert ask("SELECT {n:UInt8}").code == "456"
    assert ask("SELECT {n:UInt8}", param_n="x").code == "457"


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate"])
@pytest.mark.parametrize("rows", [3, 1_000_000])
def test_replies_are_compressed_as_the_client_accepts(ask: Ask, encoding: str, rows: int):
    accepts = {"Accept-Encoding": encoding}
    sql = f"SELECT number FROM numbers({rows})"

    reply = ask(sql, headers=accepts, enable_http_compression=1)
    plain = ask(sql, headers=accepts)

    assert reply.headers["Content-Encoding"] == encoding
    assert plain.headers["Content-Encoding"] is None
    assert DECOMPRESS[encoding](reply.body) == plain.body
    assert plain.body.count(b"\n") == rows


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate"])
def test_requests_may_be_compressed(ask: Ask, encoding: str):
    body = COMPRESS[encoding](b"SELECT 'compressed'")

    assert ask(body, headers={"Content-Encoding": encoding}).body == b"compressed\n"


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate"])
def test_a_compressed_request_cannot_grow_without_bound(ask: Ask, encoding: str):
    bomb = COMPRESS[encoding](b" " * (50 * MAX_BODY_BYTES) + b"SELECT 1")

    assert ask(bomb, headers={"Content-Encoding": encoding}).code == "425"


def test_what_is_not_compressed_as_it_says_is_refused(ask: Ask):
    for encoding in COMPRESS:
        assert ask("SELECT 1", headers={"Content-Encoding": encoding}).code == "117"
    assert ask("SELECT 1", headers={"Content-Encoding": "br"}).code == "48"
    assert ask("SELECT 1", compress=1).code == "48"


def test_a_body_may_come_in_chunks(history: ServedHistory):
    answer = http(
        history.port,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n7\r\nSELECT \r\n2;x=y\r\n42\r\n0\r\n\r\n",
    )

    assert answer.endswith(b"\r\n\r\n42\n")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 99999999999999999999\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: x\r\n\r\n",
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nSELECT 1",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nSELECT 1\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\nSELECT 1\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
        b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"X: some words\r\n" * 9_000 + b"\r\n",
    ],
)
def test_a_malformed_or_huge_request_is_refused_and_hung_up_on(history: ServedHistory, body: bytes):
    answer = http(history.port, b"POST / HTTP/1.1\r\nHost: localhost\r\n" + body)

    assert answer.startswith(b"HTTP/1.1 4")
    assert b"Connection: close" in answer


def test_a_body_above_the_limit_gets_its_answer_although_it_is_not_read(ask: Ask):
    assert ask(b" " * (MAX_BODY_BYTES + 1)).code == "425"


def test_many_requests_share_one_connection(history: ServedHistory):
    one = b"GET /?query=SELECT+1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    assert http(history.port, one * 9 + last).count(b"HTTP/1.1 200 OK") == 10


def test_http_1_0_gets_a_result_of_any_length(history: ServedHistory):
    answer = http(
        history.port,
        b"GET /?query=SELECT+number+FROM+numbers(1000000) HTTP/1.0\r\nHost: ::1\r\n\r\n",
    )

    assert answer.startswith(b"HTTP/1.1 403")
    answer = http(
        history.port,
        b"GET /?query=SELECT+number+FROM+numbers(1000000) HTTP/1.0\r\nHost: [::1]\r\n\r\n",
    )
    assert answer.endswith(b"\n999999\n")
    assert b"Transfer-Encoding" not in answer


@pytest.mark.parametrize("user", ["default", "hookline"])
def test_the_two_users_need_no_password(ask: Ask, user: str):
    assert ask("SELECT 1", user=user).status == 200
    assert ask("SELECT 1", headers={"X-ClickHouse-User": user}).status == 200


def test_anybody_else_is_refused(ask: Ask):
    refused = [
        ask("SELECT 1", user="root"),
        ask("SELECT 1", user="default", password="x"),
        ask("SELECT 1", headers={"X-ClickHouse-User": "default", "X-ClickHouse-Key": "x"}),
        ask("SELECT 1", headers={"Authorization": "Basic cm9vdDo="}),
        ask("SELECT 1", headers={"Authorization": "Basic ???"}),
        ask("SELECT 1", headers={"Authorization": "Bearer x"}),
    ]

    assert {(reply.status, reply.code) for reply in refused} == {(403, "516")}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "history.example.com"},
        {"Host": "10.0.0.1:8123"},
        {"Host": "localhost.example.com"},
        {"Host": "127.0.0.1.example.com"},
        {"Host": ""},
        {"Origin": "http://example.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_browser_does_not_ask_for_another_site(ask: Ask, headers: dict[str, str]):
    reply = ask("SELECT count() FROM flows", headers=headers)

    assert (reply.status, reply.code) == (403, "497")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8123", "127.0.0.1", "127.1.2.3", "[::1]:1"]
)
def test_every_name_of_this_machine_is_welcome(ask: Ask, host: str):
    assert ask("SELECT 1", headers={"Host": host}).status == 200


def test_multipart_forms_carry_the_query_and_parameters(ask: Ask):
    form = (
        '--b\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT {a:String}\r\n'
        '--b\r\nContent-Disposition: form-data; name="param_a"\r\n\r\nx\r\n--b--\r\n'
    )  # fmt: skip
    headers = {"Content-Type": "multipart/form-data; boundary=b"}

    assert ask(form, headers=headers).body == b"x\n"
    assert ask(form.replace("param_a", "table"), headers=headers).code == "48"


def test_a_taken_port_is_one_clear_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ApiUnavailable, match=f"^port {port} on 127.0.0.1 is taken: "):
            ApiServer(str(tmp_path), port=port).start()


def test_only_loopback_is_served(tmp_path):
    with pytest.raises(ApiUnavailable, match=r"^0\.0\.0\.0 is not a loopback address"):
        ApiServer(str(tmp_path), host="0.0.0.0")
