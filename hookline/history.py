# SPDX-License-Identifier: Apache-2.0
"""The history: where it is, and how to ask it.

While `hookline up` runs, its process holds the history and answers ClickHouse's HTTP interface;
it says where in `up.json`.  When it does not run, the history is opened here, to be read.  A
ClickHouse server is asked by its URL.  This is the only module of the package that knows
ClickHouse's client.
"""

import argparse
import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from hookline.settings import DEFAULT_DATA, RUNNING_FILE
from schemas.clickhouse import DATABASE
from service.options import Dsn

URL_VARIABLE = "HOOKLINE_CLICKHOUSE"
PASSWORD_VARIABLE = "HOOKLINE_CLICKHOUSE_PASSWORD"  # noqa: S105 - its name
CA_VARIABLE = "HOOKLINE_CLICKHOUSE_CA_FILE"
HTTP_PORTS = {"http": 8123, "https": 8443}
_EXACT_FORMAT = "JSONCompactStringsEachRowWithNamesAndTypes"
_PIECE_BYTES = 1 << 16
# An error in the middle of a result stands at its end, between two of these marks.
_ERROR_MARK = b"\r\n__exception__\r\n"
_MAX_ERROR_BYTES = 1 << 15
_EXCEPTION = re.compile(r"DB::Exception: (.*)", re.DOTALL)
_SYSTEM_ERROR = re.compile(r"\[Errno -?\d+\] ([^)\"']+)")
_NOISE = re.compile(
    r"\s*\((?:version [\d.]+|for url [^)]*)\)\.?|\. Expected one of: .{80,}?(?= \([A-Z_]+\)|$)"
)

Parameters = Mapping[str, str | int]


class HistoryError(Exception):
    """The history cannot be asked, or refuses the question; the text is one line for a human."""


class PlaceError(Exception):
    """The URL of a server makes no sense; the text is one line for a human."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A result as ClickHouse's own text, so that no digit is lost on the way."""

    names: list[str]
    types: list[str]
    rows: list[list[str]]


class History:
    """An open history; a context manager."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def rows(self, sql: str, parameters: Parameters | None = None) -> Rows:
        """Ask, and return everything; raises `HistoryError` with the engine's reason."""
        body = b"".join(self.pieces(sql, _EXACT_FORMAT, parameters))
        if not body:
            return Rows([], [], [])
        # A column of raw bytes need not be text, and JSON of ClickHouse keeps its bytes.
        lines = body.decode(errors="surrogateescape").rstrip("\n").split("\n")
        names, types, *rows = (json.loads(line, strict=False) for line in lines)
        return Rows(names, types, rows)

    def pieces(
        self, sql: str, form: str | None, parameters: Parameters | None = None
    ) -> Iterator[bytes]:
        """Ask, and yield the result in ClickHouse's format *form*; raises as `rows` does.

        Without *form*, the statement names its own.
        """
        try:
            stream = self._client.raw_stream(sql, parameters=dict(parameters or {}), fmt=form)
        except ClickHouseError as error:
            reason = reason_in(str(error))
            # The client writes the format behind the statement; nobody asked for it.
            raise HistoryError(reason.replace(f" FORMAT {form}", "")) from None
        try:
            yield from _whole_pieces(stream)
        finally:
            stream.close()

    def close(self) -> None:
        """Let go of it."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _whole_pieces(stream: Any) -> Iterator[bytes]:
    """Yield what is no error; an error may only show in what came last."""
    held = b""
    why = None
    pieces = _as_they_come(stream)
    while True:
        try:
            held += next(pieces)
        except StopIteration:
            break
        except Exception as error:  # noqa: BLE001  # urllib3 and chdb have none in common
            why = str(error)
            break
        if len(held) > _MAX_ERROR_BYTES:
            yield held[:-_MAX_ERROR_BYTES]
            held = held[-_MAX_ERROR_BYTES:]
    if held.endswith(_ERROR_MARK):
        held, _, text = held.partition(_ERROR_MARK)
        yield held
        raise HistoryError(reason_in(text.decode(errors="replace").rpartition("\n")[0]))
    yield held
    if why is not None:
        raise HistoryError(f"the result ended early: {reason_in(why)}")


def _as_they_come(stream: Any) -> Iterator[bytes]:
    # read() of a response that is cut off throws away what arrived last, which is the error.
    if hasattr(stream, "stream"):
        yield from stream.stream(_PIECE_BYTES)
        return
    while piece := stream.read(_PIECE_BYTES):
        yield piece


def reason_in(text: str) -> str:
    """The one line in an error text that says why."""
    found = _EXCEPTION.search(text)
    if found is None and (system := _SYSTEM_ERROR.search(text)):
        return system[1].lower()
    message = found[1] if found else text
    return _NOISE.sub("", " ".join(message.split())).rstrip(".")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the history is."""
    place = parser.add_argument_group("where the history is")
    place.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=DEFAULT_DATA,
        help="directory of `hookline up` (default: %(default)s)",
    )
    place.add_argument(
        "--url",
        metavar="URL",
        type=_shown_url,
        default=os.environ.get(URL_VARIABLE),
        help=f"ask a ClickHouse server instead: http(s)://user@host (default: ${URL_VARIABLE})",
    )


def _shown_url(text: str) -> str:
    """A URL that was typed, and so stands in the list of processes."""
    if Dsn(text).has_password and text != os.environ.get(URL_VARIABLE):
        raise argparse.ArgumentTypeError(
            "a password there is shown to everybody by the list of processes; set the whole URL as"
            f" {URL_VARIABLE}, or the password as {PASSWORD_VARIABLE}"
        )
    return text


def open_history(
    *, data: Path, url: str | None, settings: Mapping[str, str] | None = None
) -> History:
    """Open the history under *data*, or the one at *url*; *settings* hold for every question.

    Raises:
        PlaceError: *url* is no URL of a ClickHouse server.
        HistoryError: there is no history, or it does not let us in.
    """
    # The client logs what it also raises.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    chosen = dict(settings or {})
    if url:
        password, ca_file = (os.environ.get(name, "") for name in (PASSWORD_VARIABLE, CA_VARIABLE))
        return _at_server(url, chosen, password=password, ca_file=ca_file)
    running = running_at(data)
    if running is None:
        return _at_directory(data, chosen)
    try:
        return _at_server(running.http, chosen)
    except HistoryError as error:
        raise HistoryError(
            f"hookline up runs but does not answer at {running.http}: {error}"
        ) from None


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running `hookline up` is reached."""

    http: str
    kafka: str


def running_at(data: Path) -> Running | None:
    """The `hookline up` that holds the history under *data*, if one runs."""
    path = data / RUNNING_FILE
    try:
        here = json.loads(path.read_text())
        is_alive = _is_alive(int(here["pid"]))
        # Who only asks the history needs no Kafka.
        return Running(str(here["http"]), str(here.get("kafka", ""))) if is_alive else None
    except FileNotFoundError:
        return None
    except PermissionError:
        raise HistoryError(f"cannot read {path}: run as root, or name another place") from None
    except (ValueError, KeyError, TypeError):
        raise HistoryError(f"{path} is not what hookline up writes: restart hookline up") from None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _at_server(
    url: str, settings: dict[str, str], *, password: str = "", ca_file: str = ""
) -> History:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise PlaceError(
            f"{Dsn(url)!r} is no URL ({error}): give http(s)://user@host[:port]"
        ) from None
    if parts.scheme not in HTTP_PORTS or not parts.hostname:
        raise PlaceError(f"{Dsn(url)!r} is no URL of a server: give http(s)://user@host[:port]")
    try:
        client = clickhouse_connect.get_client(
            host=parts.hostname,
            port=port or HTTP_PORTS[parts.scheme],
            secure=parts.scheme == "https",
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or "") or password,
            ca_cert=ca_file or None,
            database=parts.path.strip("/") or DATABASE,
            settings=settings,
        )
    except ClickHouseError as error:
        shown = f"{parts.scheme}://{parts.hostname}:{port or HTTP_PORTS[parts.scheme]}"
        raise HistoryError(f"cannot ask {shown}: {reason_in(str(error))}") from None
    return History(client)


def _at_directory(data: Path, settings: dict[str, str]) -> History:
    path = (data / "clickhouse").absolute()
    try:
        exists = (path / "metadata" / f"{DATABASE}.sql").exists()
    except PermissionError:
        raise HistoryError(f"cannot read {path}: run as root, or give --url") from None
    if not exists:
        # Opening would make an empty one.
        raise HistoryError(
            f"there is no history in {data} yet: start `hookline up`, or give --data or --url"
        )
    _check_free(path / "status", data)
    try:
        client = clickhouse_connect.get_client(
            dsn=f"chdb://{path}", database=DATABASE, settings={**settings, "readonly": "1"}
        )
    except ClickHouseError as error:
        reason = reason_in(str(error))
        raise HistoryError(f"cannot open the history in {data}: {reason}") from None
    return History(client)


def _check_free(status: Path, data: Path) -> None:
    # The engine takes this lock too, but complains on standard error in its own words.
    try:
        with status.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise HistoryError(
            f"another process holds the history in {data}: if hookline up is starting or stopping,"
            " try again"
        ) from None
    except PermissionError:
        raise HistoryError(f"cannot open {status}: run as root, or give --url") from None
