# SPDX-License-Identifier: Apache-2.0
"""Keep passwords and keys to those who need them: their files, and the environment of children."""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.options import ENVIRONMENT_PREFIX

_FILES = (
    "kafka_password_file",
    "kafka_key_file",
    "clickhouse_password_file",
    "clickhouse_key_file",
)
_BY_OTHERS = stat.S_IROTH | stat.S_IWOTH
_ENDING = "_PASSWORD"


def exposed(config: Any) -> list[str]:
    """What is wrong with the secrets of a configuration, one line for each."""
    named = {name: getattr(config, name, "") for name in _FILES}
    return [
        f"{name} {path} is open to every user; close it: chmod o= {path}"
        for name, path in named.items()
        if path and is_open_to_others(Path(path))
    ] + _in_the_clear(config)


def _in_the_clear(config: Any) -> list[str]:
    if getattr(config, "kafka_security", "") != "sasl_plaintext":
        return []
    return [
        "kafka_security sasl_plaintext shows what is sent to whoever is on the way; use sasl_ssl"
    ]


def is_open_to_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _BY_OTHERS)
    except OSError:  # it was read a moment ago, and its password with it
        return False


def without_options(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child that takes none of our options, and so none of our passwords."""
    return {name: text for name, text in environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}


def without_passwords(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child that is one of our services, and needs no password."""
    return {
        name: text
        for name, text in environ.items()
        if not (name.startswith(ENVIRONMENT_PREFIX) and name.endswith(_ENDING))
    }
