# SPDX-License-Identifier: Apache-2.0
"""What a request of ClickHouse's HTTP interface asks, from its target, headers and body.

Pure: the bytes are read elsewhere.  A parameter of the URL is one of three things: addressed to
the interface (`query`, `database`), the value of a query parameter (`param_x`), or a setting.
"""

import base64
import binascii
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from consumer.api.compression import decoded_body
from consumer.api.engine import Question
from consumer.api.fault import (
    ACCESS_DENIED,
    AUTHENTICATION_FAILED,
    BAD_ARGUMENTS,
    NOT_IMPLEMENTED,
    QUERY_IS_TOO_LARGE,
    SYNTAX_ERROR,
    UNKNOWN_DATABASE,
    Fault,
)
from consumer.api.settings import MAX_STATEMENT_BYTES
from schemas.clickhouse import DATABASE

MAX_BODY_BYTES = 1 << 20
MAX_PARAMETERS = 1000
USERS = {"default", "hookline"}
# Answered here or without meaning for one embedded engine; the rest are settings.
_FOR_THE_INTERFACE = {
    "buffer_size",
    "client_protocol_version",
    "compress",
    "database",
    "decompress",
    "default_format",
    "enable_http_compression",
    "http_headers_progress_interval_ms",
    "password",
    "query",
    "query_id",
    "quota_key",
    "role",
    "send_progress_in_http_headers",
    "session_check",
    "session_id",
    "session_timeout",
    "stacktrace",
    "user",
    "wait_end_of_query",
}
_QUERY_ID = re.compile(r"[ -~]{1,200}")


@dataclass(frozen=True, slots=True)
class Request:
    """A question and how to answer it."""

    question: Question
    query_id: str
    accepts_encodings: str


def refuse_strangers(headers: Message) -> None:
    """Refuse what a page in a browser may send without the user's will.

    A name that resolves to 127.0.0.1 (DNS rebinding) shows in Host, another site in Origin or
    Sec-Fetch-Site.

    Raises:
        Fault: the request does not come from a client on this machine.
    """
    host = headers.get("Host", "")
    if not _is_loopback(host):
        raise Fault(ACCESS_DENIED, f"host {host!r} is not this machine: use 127.0.0.1 or localhost")
    origin = headers.get("Origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        raise Fault(ACCESS_DENIED, f"requests of the site {origin!r} are refused")
    if headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        raise Fault(ACCESS_DENIED, "requests of other sites are refused")


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def request_from(target: str, headers: Message, body: bytes) -> Request:
    """The request of a client on this machine.

    Raises:
        Fault: it does not log in, or cannot be understood.
    """
    pairs = parse_qsl(urlsplit(target).query, keep_blank_values=True, errors="surrogateescape")
    if len(pairs) > MAX_PARAMETERS:
        raise Fault(BAD_ARGUMENTS, f"there are more than {MAX_PARAMETERS} parameters in the URL")
    given = dict(pairs)
    _log_in(given, headers)
    content = decoded_body(
        body, headers.get("Content-Encoding", "").lower(), max_bytes=MAX_BODY_BYTES
    )
    if headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
        given |= _form_fields(headers["Content-Type"], content)
        content = b""
    return Request(
        question=_question(given, headers, content),
        query_id=_query_id(given.get("query_id", "")),
        accepts_encodings=_accepted_encodings(given, headers),
    )


def _log_in(given: Mapping[str, str], headers: Message) -> None:
    user, password = _basic_credentials(headers.get("Authorization", ""))
    user = headers.get("X-ClickHouse-User") or given.get("user") or user or "default"
    password = headers.get("X-ClickHouse-Key") or given.get("password") or password
    if user not in USERS or password:
        raise Fault(
            AUTHENTICATION_FAILED,
            f"{user[:100]}: Authentication failed: password is incorrect, or there is no user with"
            " such name",
        )


def _basic_credentials(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if not scheme:
        return "", ""
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        decoded = ""
    user, colon, password = decoded.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise Fault(AUTHENTICATION_FAILED, "only HTTP Basic authentication is supported")
    return user, password


def _question(given: Mapping[str, str], headers: Message, content: bytes) -> Question:
    if given.get("compress", "0") in {"1", "true"} or given.get("decompress", "0") in {"1", "true"}:
        raise Fault(
            NOT_IMPLEMENTED,
            "compress and decompress are not supported: use enable_http_compression with"
            " Accept-Encoding, and Content-Encoding",
        )
    database = given.get("database") or headers.get("X-ClickHouse-Database") or DATABASE
    # Clients that know no better name the server's default database; the history is ours.
    if database not in {DATABASE, "default"}:
        raise Fault(UNKNOWN_DATABASE, f"Database {database} does not exist: use {DATABASE}")
    form = given.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated"
    return Question(
        text=_text(given.get("query", ""), content),
        parameters={
            name.removeprefix("param_"): value
            for name, value in given.items()
            if name.startswith("param_")
        },
        settings={
            name: value
            for name, value in given.items()
            if name not in _FOR_THE_INTERFACE and not name.startswith("param_")
        },
        default_format=form,
        wants_whole=given.get("wait_end_of_query", "0") in {"1", "true"},
    )


def _text(query: str, content: bytes) -> str:
    text = query.encode(errors="surrogateescape")
    if text and content:
        text += b"\n"
    text += content
    if not text.strip():
        raise Fault(SYNTAX_ERROR, "Empty query")
    if text.lstrip()[:6].upper() == b"INSERT":
        return "INSERT"  # its data need not be text; it is refused by its name
    if len(text) > MAX_STATEMENT_BYTES:
        raise Fault(QUERY_IS_TOO_LARGE, f"the statement is longer than {MAX_STATEMENT_BYTES} bytes")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise Fault(SYNTAX_ERROR, f"the statement is not UTF-8: {error}") from None


def _form_fields(content_type: str, content: bytes) -> dict[str, str]:
    head = b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n"
    message = BytesParser(policy=HTTP).parsebytes(head + content)
    fields = {}
    for part in message.iter_parts():
        name = str(part.get_param("name", "", header="content-disposition"))
        if name != "query" and not name.startswith("param_"):
            raise Fault(NOT_IMPLEMENTED, f"external data is not supported: form field {name!r}")
        value = part.get_payload(decode=True)
        fields[name] = value.decode(errors="surrogateescape") if isinstance(value, bytes) else ""
    return fields


def _query_id(given: str) -> str:
    if not given:
        return str(uuid.uuid4())
    if not _QUERY_ID.fullmatch(given):
        raise Fault(BAD_ARGUMENTS, "query_id must be 1 to 200 printable ASCII characters")
    return given


def _accepted_encodings(given: Mapping[str, str], headers: Message) -> str:
    if given.get("enable_http_compression", "0") not in {"1", "true"}:
        return ""
    return headers.get("Accept-Encoding", "")
