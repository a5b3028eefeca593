# SPDX-License-Identifier: Apache-2.0
"""A statement in the engine's own spelling, as tokens.

The engine's formatter has already removed comments, chosen one spelling of quotes and put keywords
in capitals, and it is this spelling that is run.  So a small tokenizer suffices, and what it does
not know it refuses.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from consumer.api.fault import ACCESS_DENIED, SYNTAX_ERROR, Fault

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<string>'(?:[^'\\]|\\.)*')
    | (?P<quoted>`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*")
    | (?P<parameter>\{[A-Za-z_]\w*:(?:[^{}'"`\\]|'(?:[^'\\]|\\.)*')*\})
    | (?P<comment>--|/\*|\*/|\#|\$)
    | (?P<number>\d[\w.]*(?:(?<=[eEpP])[+-]\d+)?)
    | (?P<word>[^\W\d]\w*)
    | (?P<mark>[^\w\s'"`{}\\])
    """,
    re.VERBOSE | re.DOTALL,
)
_SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "a": "\a"}


class Token(NamedTuple):
    """One token: *value* is the name or the string without its quotes."""

    kind: str
    value: str
    start: int


@dataclass(slots=True)
class Statement:
    """A statement without the clauses that tell how to answer: FORMAT and SETTINGS."""

    sql: str
    tokens: Sequence[Token]
    format: str | None = None
    settings: dict[str, str] = field(default_factory=dict)


def tokens_of(sql: str) -> list[Token]:
    """The tokens of a formatted statement.

    Raises:
        Fault: there is a character that the engine's formatter does not write.
    """
    tokens = []
    at = 0
    while at < len(sql):
        found = _TOKEN.match(sql, at)
        if found is None or found.lastgroup is None:
            raise Fault(SYNTAX_ERROR, f"cannot read the statement from {sql[at : at + 20]!r} on")
        if found.lastgroup == "comment":
            raise Fault(ACCESS_DENIED, f"{found[0]!r} is not allowed in a formatted statement")
        if found.lastgroup != "space":
            tokens.append(Token(found.lastgroup, _value(found.lastgroup, found[0]), at))
        at = found.end()
    return tokens


def _value(kind: str, text: str) -> str:
    if kind not in {"string", "quoted"}:
        return text
    return re.sub(r"\\(.)", _unescaped, text[1:-1], flags=re.DOTALL)


def _unescaped(found: re.Match[str]) -> str:
    return _SIMPLE_ESCAPES.get(found[1], found[1])


def statement_from(sql: str) -> Statement:
    """Take FORMAT and SETTINGS off the end of a formatted statement.

    Those of a sub-query stay where they are.  FORMAT may stand before or after SETTINGS.

    Raises:
        Fault: as `tokens_of`.
    """
    tokens = tokens_of(sql)
    statement = Statement(sql, tokens)
    while True:
        if (chosen := _trailing_format(tokens)) is not None:
            statement.format = statement.format or chosen
            cut = len(tokens) - 2
        elif (found := _trailing_settings(tokens)) is not None:
            cut, settings = found
            statement.settings = settings | statement.settings
        else:
            return statement
        statement.sql = statement.sql[: tokens[cut].start].rstrip()
        statement.tokens = tokens = tokens[:cut]


def _trailing_format(tokens: Sequence[Token]) -> str | None:
    match tokens[-2:]:
        case [Token("word", "FORMAT"), Token("word" | "quoted", name)] if len(tokens) > 2:
            return name
    return None


def _trailing_settings(tokens: Sequence[Token]) -> tuple[int, dict[str, str]] | None:
    for cut in range(len(tokens) - 1, 0, -1):
        if tokens[cut].kind == "mark" and tokens[cut].value in "()":
            return None
        if tokens[cut][:2] == ("word", "SETTINGS"):
            settings = _assignments(tokens[cut + 1 :])
            return None if settings is None else (cut, settings)
    return None


def _assignments(tokens: Sequence[Token]) -> dict[str, str] | None:
    settings = {}
    rest = list(tokens)
    while rest:
        match rest:
            case [name, Token("mark", "="), Token("mark", "-"), value, *rest]:
                sign = "-"
            case [name, Token("mark", "="), value, *rest]:
                sign = ""
            case _:
                return None
        if name.kind not in {"word", "quoted"} or value.kind not in {"string", "number", "word"}:
            return None
        settings[name.value] = sign + value.value
        if not rest:
            return settings
        if rest.pop(0)[:2] != ("mark", ","):
            return None
    return None
