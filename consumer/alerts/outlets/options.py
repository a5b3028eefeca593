# SPDX-License-Identifier: Apache-2.0
"""Read the `[[alert.outlet]]` tables of a configuration file, strictly.

What may be a secret is never needed in the file itself: `url`, `authorization` and `secret` can be
given as `<name>_file` or `<name>_variable`, which name a file and a variable of the environment.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from consumer.alerts.alert import SEVERITIES
from consumer.alerts.outlets.destination import ALERTMANAGER, SLACK, TYPES, WEBHOOK, Destination
from service.options import ConfigError, Secret
from service.secrets import is_open_to_others
from service.tls import verifying_context

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRETS = ("url", "authorization", "secret")
_TEXTS = ("name", "type", "severity", "link", "ca_file", "certificate_file", "key_file", "url")
# Least and most of each number; times in seconds.
_NUMBERS = {
    "group_wait": (0.0, 3600.0),
    "repeat": (0.0, 30 * 86_400.0),
    "per_minute": (0.1, 6000.0),
    "max_age": (60.0, 30 * 86_400.0),
}
_COUNTS = {"burst": (1, 1000), "max_waiting": (1, 1_000_000)}
_KNOWN = {
    *(*_TEXTS, *_NUMBERS, *_COUNTS, "headers", "match", "group_by"),
    *(f"{name}_{place}" for name in _SECRETS for place in ("file", "variable")),
}
# What differs between the types: Alertmanager groups and repeats by itself, but forgets.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    ALERTMANAGER: {"repeat": 60.0, "per_minute": 600.0, "burst": 20},
    WEBHOOK: {"group_by": ("detector",), "group_wait": 5.0, "repeat": 4 * 3600.0},
    SLACK: {"group_by": ("detector",), "group_wait": 5.0, "repeat": 4 * 3600.0},
}
# Headers that we make ourselves, or that say how the body is carried.
_OWN_HEADERS = {
    *("authorization", "connection", "content-encoding", "content-length", "content-type", "host"),
    *("idempotency-key", "transfer-encoding", "x-hookline-signature"),
}


def destinations_in(section: Mapping[str, Any]) -> list[Destination]:
    """The destinations of the tables `outlet` in *section*, the table above them.

    Raises:
        ConfigError: one of them cannot be used; the text names it.
    """
    entries = section.get("outlet", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("outlet is no list of tables; write [[alert.outlet]] above each")
    found: list[Destination] = []
    for number, entry in enumerate(entries, 1):
        shown = entry.get("name") if isinstance(entry.get("name"), str) else number
        try:
            destination = _destination(entry)
        except ConfigError as error:
            raise ConfigError(f"outlet {shown}: {error}") from None
        if destination.name in {other.name for other in found}:
            raise ConfigError(f"outlet {shown}: the name is given twice; its alerts would mix")
        found.append(destination)
    return found


def _destination(entry: Mapping[str, Any]) -> Destination:
    if unknown := sorted(set(entry) - _KNOWN):
        raise ConfigError(f"unknown option {unknown[0]!r}")
    texts = {name: _text(entry, name) for name in _TEXTS}
    if not _NAME.fullmatch(texts["name"]):
        raise ConfigError(
            f"name is {texts['name']!r}; write lower-case letters, digits and hyphens, 40 at most"
        )
    kind = _choice("type", texts["type"], TYPES)
    secrets = {name: _secret(entry, name) for name in _SECRETS}
    _check_url(secrets["url"], entry)
    if secrets["secret"] and kind != WEBHOOK:
        raise ConfigError(f"secret is given, and only a webhook has signatures, not {kind}")
    _check_header("authorization", secrets["authorization"])
    given: dict[str, Any] = {
        **_DEFAULTS[kind],
        **{name: _number(entry, name) for name in _NUMBERS if name in entry},
        **{name: _count(entry, name) for name in _COUNTS if name in entry},
    }
    if kind == ALERTMANAGER and not given["repeat"]:
        raise ConfigError("repeat is 0; Alertmanager forgets alerts that are not sent again")
    if "group_by" in entry:
        given["group_by"] = _texts(entry["group_by"], "group_by")
    return Destination(
        name=texts["name"],
        type=kind,
        severity=_choice("severity", texts["severity"] or SEVERITIES[0], SEVERITIES),
        match=_table(entry, "match"),
        headers=_headers(entry),
        link=texts["link"],
        context=_context(secrets["url"], texts),
        exposed=_exposed(entry),
        url=secrets["url"],
        authorization=secrets["authorization"],
        secret=secrets["secret"],
        **given,
    )


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str) or not value.isprintable():
        # An address may be a secret even where it is a wrong one.
        shown = "no printable text" if name == "url" else f"{value!r}, which is no printable text"
        raise ConfigError(f"{name} is {shown}")
    return value


def _choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
    return value


def _secret(entry: Mapping[str, Any], name: str) -> Secret:
    """A secret from the one place that the entry names; empty where it names none."""
    places = [place for place in (name, f"{name}_file", f"{name}_variable") if place in entry]
    if len(places) > 1:
        raise ConfigError(f"{places[0]} and {places[1]} are both given; leave one out")
    if not places:
        return Secret()
    if places == [name]:
        return Secret(_text(entry, name))
    where = _text(entry, places[0])
    found = _from_file(places[0], where) if places[0].endswith("_file") else os.environ.get(where)
    if not found:
        raise ConfigError(f"{places[0]} {where} is empty" + ("" if found == "" else " or not set"))
    if not found.isprintable():
        raise ConfigError(f"{places[0]} {where} holds what cannot be printed, or several lines")
    return Secret(found)


def _from_file(name: str, path: str) -> str:
    try:
        found = Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(f"cannot read {name} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name} {path} is no text") from None
    return found


def _exposed(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Files with secrets that every user can read."""
    paths = [entry.get(name, "") for name in (*(f"{one}_file" for one in _SECRETS), "key_file")]
    return tuple(path for path in paths if path and is_open_to_others(Path(path)))


def _check_url(url: str, entry: Mapping[str, Any]) -> None:
    if not url:
        raise ConfigError("url is missing; give url, url_file or url_variable")
    given = next(name for name in ("url", "url_file", "url_variable") if name in entry)
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right:
        raise ConfigError(f"{given} holds no address; write https://HOST/… there")
    if parts.username or parts.password:
        raise ConfigError(f"{given} holds a user or a password; give authorization_file instead")


def _check_header(name: str, value: str) -> None:
    if not value.isascii():
        raise ConfigError(f"{name} has letters beyond ASCII, which a header cannot carry")


def _number(entry: Mapping[str, Any], name: str) -> float:
    value = entry[name]
    least, most = _NUMBERS[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}; write a number from {least:g} to {most:g}")
    return float(value)


def _count(entry: Mapping[str, Any], name: str) -> int:
    value = entry[name]
    least, most = _COUNTS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}; write a whole number from {least} to {most}")
    return value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{name} is {value!r}; write a list of texts")
    return tuple(value)


def _table(entry: Mapping[str, Any], name: str) -> dict[str, str]:
    value = entry.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ConfigError(f"{name} is {value!r}; write a table of texts")
    return value


def _headers(entry: Mapping[str, Any]) -> dict[str, str]:
    headers = _table(entry, "headers")
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or not value.isprintable():
            raise ConfigError(f"header {name!r} cannot be sent")
        _check_header(f"header {name}", value)
        if name.lower() == "authorization":
            raise ConfigError("header Authorization is a secret; give authorization_file")
        if name.lower() in _OWN_HEADERS:
            raise ConfigError(f"header {name} is ours to make; leave it out")
    return headers


def _context(url: str, texts: Mapping[str, str]) -> Any:
    files = {name: texts[name] for name in ("ca_file", "certificate_file", "key_file")}
    if not url.startswith("https:"):
        if given := [name for name, path in files.items() if path]:
            raise ConfigError(f"{given[0]} is given, and the url is no https:")
        return None
    try:
        return verifying_context("outlet", **files)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("outlet_")) from None
