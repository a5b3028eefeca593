# SPDX-License-Identifier: Apache-2.0
"""Fill a dataclass of options from flags, then the environment, then a TOML file.

An option is a dataclass field made with `option` or `secret`: its name gives the flag
(`--max-rows`), the environment variable (`HOOKLINE_MAX_ROWS`) and the key in the file
(`max_rows`); its default gives its type; its text serves `--help` and the reference page.
An option whose default is a tuple may be given several times, or as one text with commas.
"""

import argparse
import dataclasses
import math
import re
import tomllib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

ENVIRONMENT_PREFIX = "HOOKLINE_"
# Up to the last @: a password that should have been quoted may hold another.
_PASSWORD = re.compile(r"(//[^:@/]*):.+@", re.DOTALL)
_TABLES = "[]"  # no key of a file that is read for it
_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)

Options = TypeVar("Options")


class ConfigError(ValueError):
    """An option that cannot be used; the text is one line that names it."""


class Secret(str):
    """Text that is not shown when it is printed by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class Dsn(str):
    """An address whose password is not shown when it is printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(self.masked)

    @property
    def has_password(self) -> bool:
        return self.masked != self

    @property
    def masked(self) -> str:
        """The address without its password, also where it is no address because of that."""
        return _PASSWORD.sub(r"\1:***@", self)


class Tables(Mapping[str, Mapping[str, Any]]):
    """The tables inside a service's own table of the file, by name; no flag can give them."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> None:
        self._tables = dict(tables)

    # A dataclass takes only defaults that cannot change for those of fields.
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def __repr__(self) -> str:
        # What is in them may be a secret.
        return f"<{', '.join(self._tables) or 'none'}>"


def option(default: Any, doc: str, *, group: str, metavar: str = "", choices: Any = None) -> Any:
    """A field that is an option of the group *group*."""
    about = {"doc": doc, "group": group, "metavar": metavar, "choices": choices}
    return dataclasses.field(default=default, metadata=about)


def secret(doc: str, *, group: str) -> Any:
    """A secret: from the environment, or from the file that `<name>_file` names."""
    about = {"doc": doc, "group": group, "metavar": "", "choices": None}
    return dataclasses.field(default=Secret(), metadata=about)


def tables() -> Any:
    """The field for what stands in tables inside the service's own; see `options_of`."""
    return dataclasses.field(default=Tables(), metadata={"doc": "", "group": ""})


def is_flag(field: "dataclasses.Field[Any]") -> bool:
    """Whether an option may be given on the command line."""
    return not is_secret(field) and not isinstance(field.default, Tables)


def is_secret(field: "dataclasses.Field[Any]") -> bool:
    return isinstance(field.default, Secret)


def environment_name(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def add_flags(
    parser: argparse.ArgumentParser, cls: type[Any], names: Container[str] | None = None
) -> None:
    """Give *parser* a flag for each option of *cls* that is no secret, or of those in *names*."""
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if not is_flag(field) or (names is not None and field.name not in names):
            continue
        name = field.metadata["group"]
        group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
        shown = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
        default = f" (default: {shown})" if shown not in ("", 0) else ""
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            metavar=field.metadata["metavar"] or field.name.upper(),
            help=(field.metadata["doc"] + default).replace("%", "%%"),
            action="append" if isinstance(field.default, tuple) else "store",
        )


def build(
    cls: type[Options],
    *,
    table: str,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None,
) -> Options:
    """One *cls* from all three places; an earlier place wins.

    In the file its options stand in the table *table*, or above all tables.

    Raises:
        ConfigError: a value has the wrong type, or a file cannot be read.
    """
    from_file = _read(cls, table, file) if file else {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if isinstance(field.default, Tables):
            values[field.name] = from_file.get(_TABLES, field.default)
            continue
        for where, source, key in (
            (f"--{field.name.replace('_', '-')}", flags, field.name),
            (environment_name(field.name), environ, environment_name(field.name)),
            (f"{field.name} in {file}", from_file, field.name),
        ):
            if source.get(key) is not None:
                values[field.name] = _typed(field, source[key], where)
                if source is flags:
                    _refuse_shown(values[field.name], where)
                break
    return cls(**_with_secret_files(cls, values))


def _typed(field: "dataclasses.Field[Any]", value: Any, where: str) -> Any:
    wanted: type[Any] = type(field.default)
    if wanted is tuple:
        return _several(value, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{where} is {value!r}; give it a text or a number")
    if wanted is Secret:
        return Secret(value)
    _refuse_unprintable(value, where)
    try:
        typed = wanted(value)
    except (ValueError, OverflowError):
        raise ConfigError(f"{where} is {value!r}, which is no {wanted.__name__}") from None
    if wanted is float and not math.isfinite(typed):
        raise ConfigError(f"{where} is {value!r}; give it a finite number")
    choices = field.metadata["choices"]
    if choices and typed not in choices:
        raise ConfigError(f"{where} is {value!r}; choose one of {', '.join(choices)}")
    return typed


def _refuse_unprintable(value: Any, where: str) -> None:
    """No name, path or address has a line's end in it, and an error that tells it is one line."""
    if isinstance(value, str) and not value.isprintable():
        raise ConfigError(f"{where} is {value!r}; leave out what cannot be printed")


def _refuse_shown(value: Any, flag: str) -> None:
    if isinstance(value, Dsn) and value.has_password:
        raise ConfigError(
            f"{flag} holds a password, which the list of processes shows to everybody;"
            f" give it by {environment_name(flag[2:])}_PASSWORD, or by a file"
        )


def _several(value: Any, where: str) -> tuple[str, ...]:
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{where} is {value!r}; give it a list of texts")
    for text in texts:
        _refuse_unprintable(text, where)
    return tuple(text.strip() for text in texts if text.strip())


def _with_secret_files(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    for field in dataclasses.fields(cls):
        path = values.get(f"{field.name}_file")
        if not is_secret(field) or not path or field.name in values:
            continue
        try:
            values[field.name] = Secret(Path(path).read_text().rstrip("\n"))
        except OSError as error:
            raise ConfigError(f"cannot read {field.name}_file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{field.name}_file {path} is no text") from None
        if not values[field.name]:
            raise ConfigError(f"{field.name}_file {path} is empty")
    return values


def _read(cls: type[Any], table: str, file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file} is no TOML that can be read: it is nested too deeply") from None
    names = {field.name for field in dataclasses.fields(cls) if is_flag(field)}
    own = content.get(table, {})
    if not isinstance(own, dict):
        raise ConfigError(f"{table} in {file} is no table; write [{table}]")
    inner = {}
    if any(isinstance(field.default, Tables) for field in dataclasses.fields(cls)):
        inner = {name: value for name, value in own.items() if _is_table(value)}
    if unknown := sorted(set(own) - names - set(inner)):
        raise ConfigError(f"{file} has unknown option {unknown[0]} in [{table}]")
    # What several parts of hookline need is written once, above the tables.
    shared = {name: value for name, value in content.items() if name in names}
    return {**shared, **own, _TABLES: Tables(inner)}


def _is_table(value: Any) -> bool:
    is_several = isinstance(value, list) and bool(value)
    return isinstance(value, dict) or (is_several and all(isinstance(one, dict) for one in value))


def options_of(cls: type[Options], values: Mapping[str, Any], where: str) -> Options:
    """One *cls* of the *values* in the table *where*.

    Raises:
        ConfigError: an option is unknown, or has the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"[{where}] has unknown option {unknown[0]}")
    return cls(
        **{
            name: _typed(fields[name], value, f"{name} in [{where}]")
            for name, value in values.items()
        }
    )


def host_and_port(address: str, name: str) -> tuple[str, int]:
    """The parts of HOST:PORT, as the option *name* gives them.

    Raises:
        ConfigError: it is written otherwise.
    """
    host, _, port = address.rpartition(":")
    if not _HOST.fullmatch(host) or not port.isdecimal() or int(port) > 0xFFFF:
        raise ConfigError(f"{name} is {address!r}; write HOST:PORT, as in 127.0.0.1:8123")
    return host.strip("[]"), int(port)
