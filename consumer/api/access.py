# SPDX-License-Identifier: Apache-2.0
"""Decide whether a statement may run: it only reads, and only the history.

The engine has no users to take rights from.  Its read-only mode refuses to write and refuses most
table functions, but not the function file(), not INTO OUTFILE, not KILL, and it describes a file
or a URL to anybody.  So three checks stand in a row, and each alone should stop an intruder:

1. The engine formats the text, which reaches it as a parameter, and every name in the formatted
   statement is checked.  The formatted statement is what runs.
2. The engine shows the syntax tree of it, and every node is checked.  The tree hides what some
   nodes hold (SHOW ... WHERE, APPLY), which is why it is not the only check.
3. The engine runs it in read-only mode.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consumer.api.fault import (
    ACCESS_DENIED,
    READONLY,
    SYNTAX_ERROR,
    UNKNOWN_FUNCTION,
    Fault,
)
from consumer.api.statement import Statement, Token, statement_from
from consumer.api.vocabulary import (
    DATABASES,
    KEYWORDS_BEFORE_PARENTHESIS,
    NODES,
    SYSTEM_TABLES,
    TABLE_FUNCTIONS,
    Vocabulary,
)

_IDENTIFIER_PARAMETER = re.compile(r"\{(\w+):\s*Identifier\s*\}")
_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_OPENINGS = {"SELECT", "WITH", "(", "SHOW", "DESCRIBE", "EXISTS", "EXPLAIN"}
_INSERT = re.compile(r"\s*INSERT\b", re.IGNORECASE)
# Plain settings, whose `readonly` column tells a client what it may send.
_SETTINGS_TABLE = {"system.settings"}


class Parser(Protocol):
    """The engine, as far as it reads statements without running them."""

    def formatted(self, text: str) -> str:
        """The one statement in *text* in the engine's spelling."""

    def syntax_tree(self, sql: str, parameters: Mapping[str, str]) -> Sequence[str]:
        """The lines of the tree of *sql*, a formatted statement."""


@dataclass(frozen=True, slots=True)
class Permit:
    """A statement that may run, and how."""

    statement: Statement
    is_select: bool
    asks_settings: bool


def permit(
    text: str, parameters: Mapping[str, str], *, parser: Parser, vocabulary: Vocabulary
) -> Permit:
    """Let the statement *text* pass.

    Raises:
        Fault: it is not one statement, or one that does more than read the history.
    """
    if _INSERT.match(text):
        # Its data need not be text, so the formatter would only find a syntax error.
        raise Fault(READONLY, "the history is read-only here: INSERT is refused")
    if "\0" in text:
        raise Fault(SYNTAX_ERROR, "the statement contains a zero byte")
    statement = statement_from(parser.formatted(text))
    _check_tokens(statement.tokens, vocabulary)
    _check_identifier_parameters(statement.sql, parameters, vocabulary)
    lines = parser.syntax_tree(statement.sql, parameters)
    names = _check_tree(lines, vocabulary)
    return Permit(
        statement=statement,
        is_select=lines[0].startswith("SelectWithUnionQuery"),
        asks_settings=names == _SETTINGS_TABLE,
    )


def _check_tokens(tokens: Sequence[Token], vocabulary: Vocabulary) -> None:
    words = [token.value for token in tokens if token.kind == "word"]
    if not tokens or tokens[0].value not in _OPENINGS:
        what = words[0] if words else "this"
        raise Fault(READONLY, f"the history is read-only here: {what} is refused")
    if "SHOW" in words[:2] and "WHERE" in words:
        raise Fault(ACCESS_DENIED, "SHOW with WHERE is refused: select from system.tables instead")
    for index, token in enumerate(tokens):
        following = tokens[index + 1].value if index + 1 < len(tokens) else ""
        beyond = tokens[index + 2] if index + 2 < len(tokens) else None
        if token.kind == "word" and token.value in {"INTO", "OUTFILE", "INFILE", "APPLY"}:
            raise Fault(ACCESS_DENIED, f"{token.value} is refused: it does more than read")
        if token.kind not in {"word", "quoted"}:
            continue
        if following == "(" and not _may_be_called(token, vocabulary):
            _refuse_function(token.value, vocabulary)
        if following == "." and beyond is not None:
            _check_table(token.value, beyond.value, is_table=False)
        _check_name(token.value, vocabulary)


def _may_be_called(token: Token, vocabulary: Vocabulary) -> bool:
    if token.kind == "word" and token.value in KEYWORDS_BEFORE_PARENTHESIS:
        return True
    return vocabulary.allows_function(token.value)


def _refuse_function(name: str, vocabulary: Vocabulary) -> None:
    if vocabulary.forbids_name(name):
        raise Fault(ACCESS_DENIED, f"function {name} is refused: it reaches outside the history")
    raise Fault(
        UNKNOWN_FUNCTION,
        f"Function with name `{name}` does not exist, or is refused here because it reaches"
        " outside the history",
    )


def _check_name(name: str, vocabulary: Vocabulary) -> None:
    for part in name.split("."):
        if vocabulary.forbids_name(part):
            raise Fault(
                ACCESS_DENIED,
                f"the name {part} is refused: it is that of a function that reaches outside the"
                " history",
            )


def _check_table(database: str, table: str, *, is_table: bool) -> None:
    """Check `database.table`; unless *is_table*, it may also be an alias and a column."""
    if database == "system" and table not in SYSTEM_TABLES:
        raise Fault(ACCESS_DENIED, f"system.{table} is refused: it is not among the tables to read")
    if database == "default" or (is_table and database not in DATABASES):
        # The embedded engine's `default` takes every path of the file system for a table.
        raise Fault(ACCESS_DENIED, f"database {database} is refused: the history is in hookline")


def _check_identifier_parameters(
    sql: str, parameters: Mapping[str, str], vocabulary: Vocabulary
) -> None:
    for name in _IDENTIFIER_PARAMETER.findall(sql):
        value = parameters.get(name, "")
        if value and not _PLAIN_NAME.fullmatch(value):
            raise Fault(ACCESS_DENIED, f"parameter {name} is no plain name: {value!r}")
        if "default" in value.split("."):
            _check_table("default", "", is_table=True)
        _check_name(value, vocabulary)


def _check_tree(lines: Sequence[str], vocabulary: Vocabulary) -> set[str]:
    """Check every node, and return the names of the tables and table functions."""
    names = set()
    # EXPLAIN has settings of its own, such as `indexes = 1`; they are its first child.
    is_explain = lines[0].startswith("Explain ")
    for line in [line for line in lines if not (is_explain and line == " Set")]:
        # `Function sum (alias s) (children 1)`, indented
        kind, _, rest = line.strip().partition(" ")
        name = rest.partition(" (")[0]
        if kind not in NODES:
            _refuse_node(kind)
        if kind == "Function" and not vocabulary.allows_function(name):
            _refuse_function(name, vocabulary)
        if kind in {"Identifier", "TableIdentifier"}:
            _check_name(name, vocabulary)
            _check_identifier(name, is_table=kind == "TableIdentifier")
        if kind == "TableIdentifier" or name in TABLE_FUNCTIONS:
            names.add(name)
    return names


def _check_identifier(name: str, *, is_table: bool) -> None:
    database, dot, rest = name.partition(".")
    if dot:
        _check_table(database, rest if is_table else rest.partition(".")[0], is_table=is_table)


def _refuse_node(kind: str) -> None:
    if kind == "Set":
        raise Fault(READONLY, "SETTINGS are refused except at the end of the statement")
    if kind == "ColumnsApplyTransformer":
        raise Fault(ACCESS_DENIED, "APPLY is refused: name the columns instead")
    raise Fault(READONLY, f"the history is read-only here: {kind} is refused")
