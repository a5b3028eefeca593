# SPDX-License-Identifier: Apache-2.0
"""An error as ClickHouse's HTTP interface tells it: a code, its name, a text, an HTTP status.

Clients branch on the code, so ours are ClickHouse's own, and the status of each is the one that a
server answers with.
"""

import re

UNSUPPORTED_METHOD = (1, "UNSUPPORTED_METHOD")
BAD_ARGUMENTS = (36, "BAD_ARGUMENTS")
UNKNOWN_FUNCTION = (46, "UNKNOWN_FUNCTION")
NOT_IMPLEMENTED = (48, "NOT_IMPLEMENTED")
SYNTAX_ERROR = (62, "SYNTAX_ERROR")
UNKNOWN_FORMAT = (73, "UNKNOWN_FORMAT")
UNKNOWN_DATABASE = (81, "UNKNOWN_DATABASE")
INCORRECT_DATA = (117, "INCORRECT_DATA")
UNKNOWN_SETTING = (115, "UNKNOWN_SETTING")
READONLY = (164, "READONLY")
TOO_MANY_SIMULTANEOUS_QUERIES = (202, "TOO_MANY_SIMULTANEOUS_QUERIES")
QUERY_IS_TOO_LARGE = (425, "QUERY_IS_TOO_LARGE")
SETTING_CONSTRAINT_VIOLATION = (452, "SETTING_CONSTRAINT_VIOLATION")
ACCESS_DENIED = (497, "ACCESS_DENIED")
AUTHENTICATION_FAILED = (516, "AUTHENTICATION_FAILED")
UNKNOWN_EXCEPTION = (1002, "UNKNOWN_EXCEPTION")

# ClickHouse's own table, src/Server/HTTP/exceptionCodeToHTTPStatus.cpp; the rest is 500.
_STATUS_OF = {
    400: {
        6,
        10,
        25,
        26,
        27,
        36,
        38,
        41,
        43,
        44,
        53,
        62,
        72,
        117,
        167,
        168,
        321,
        377,
        427,
        675,
        676,
    },
    401: {194},
    403: {192, 193, 497, 512, 516},
    404: {46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 336, 511},
    408: {159},
    413: {425},
    501: {48},
    503: {76, 202, 209, 439},
}
_ENGINE_TEXT = re.compile(r"Code: (\d+)\. DB::Exception: (.*)", re.DOTALL)
_NAME = re.compile(r" \(([A-Z][A-Z0-9_]+)\)\s*$")
_REPEATED = re.compile(r"^(?:Code: \d+\. DB::Exception: )+")
_VERSION = re.compile(r"(?: \(version [\d.]+\)\.?(?: \([A-Z0-9_]+\))?)+$")


class Fault(Exception):  # noqa: N818  # ClickHouse's word for it is exception, which is taken
    """Why a request fails: one of the codes above and a sentence."""

    def __init__(self, kind: tuple[int, str], message: str) -> None:
        super().__init__(message)
        self.code, self.name = kind
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status of this code."""
        return next((status for status, codes in _STATUS_OF.items() if self.code in codes), 500)

    def text(self, version: str) -> str:
        """What the reply's body says, as a server of *version* would."""
        return (
            f"Code: {self.code}. DB::Exception: {self.message} ({self.name}) (version {version})\n"
        )


def fault_from_engine(text: str) -> Fault:
    """The fault in an error text of the engine, which may wrap it in its own prefixes."""
    found = _ENGINE_TEXT.search(text)
    if found is None:
        return Fault(UNKNOWN_EXCEPTION, text.strip() or "the engine gave no reason")
    code, message = int(found[1]), _REPEATED.sub("", found[2].strip())
    name = _NAME.search(message)
    message = _VERSION.sub("", _NAME.sub("", message))
    return Fault((code, name[1] if name else "UNKNOWN_EXCEPTION"), message)
