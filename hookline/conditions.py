# SPDX-License-Identifier: Apache-2.0
"""A filter as the WHERE of a question to the history.

Every value is bound, none becomes part of the SQL.  Columns are named with their table, since a
SELECT may give their names to sums of them.
"""

import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from schemas.filter.tree import All, Any, Between, Filter, HasBits, Like, Named, Not, Within


@dataclass(slots=True)
class Conditions:
    """Renders filters over one table, and collects the values that they are about."""

    table: str
    values: dict[str, str | int] = field(default_factory=dict)

    def of(self, tree: Filter) -> str:
        """The SQL of *tree*, fit to stand beside AND."""
        match tree:
            case All(parts):
                return _joined(" AND ", [self.of(part) for part in parts], "true")
            case Any(parts):
                return _joined(" OR ", [self.of(part) for part in parts], "false")
            case Not(part):
                return f"NOT ({self.of(part)})"
            case Between(column, first, last):
                return self._range(column, first, last, "UInt32")
            case Within(column):
                return self._range(column, _address(tree.first), _address(tree.last), "IPv6")
            case Named(column, name):
                return f"{self._column(column)} = {self._bound(name, 'String')}"
            case Like(column, glob):
                return self._like(column, glob)
            case HasBits(column, bits):
                return f"bitAnd({self._column(column)}, {self._bound(bits, 'UInt32')}) != 0"

    def _range(self, column: str, first: str | int, last: str | int, kind: str) -> str:
        if first == last:
            return f"{self._column(column)} = {self._bound(first, kind)}"
        bounds = f"{self._bound(first, kind)} AND {self._bound(last, kind)}"
        return f"{self._column(column)} BETWEEN {bounds}"

    def _like(self, column: str, glob: str) -> str:
        if "*" not in glob and "?" not in glob:
            return f"{self._column(column)} = {self._bound(glob, 'String')}"
        return f"{self._column(column)} LIKE {self._bound(_like_pattern(glob), 'String')}"

    def _column(self, name: str) -> str:
        return f"{self.table}.{name}"

    def _bound(self, value: str | int, kind: str) -> str:
        name = f"value_{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"


def _address(number: int) -> str:
    return str(IPv6Address(number))


def _joined(word: str, parts: list[str], nothing: str) -> str:
    return f"({word.join(parts)})" if parts else nothing


def _like_pattern(glob: str) -> str:
    """The LIKE pattern of a glob, whose * and ? are the only special characters."""
    escaped = re.sub(r"([\\%_])", r"\\\1", glob)
    return escaped.replace("*", "%").replace("?", "_")
