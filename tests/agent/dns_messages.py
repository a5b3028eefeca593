# SPDX-License-Identifier: Apache-2.0
"""DNS messages of every shape, and what is in them said once more, message by message."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

QUERY_TYPES = (1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 43, 46, 48, 52, 64, 65, 255, 256, 257, 65_535)
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


@dataclass(frozen=True, slots=True)
class Question:
    """The first question of a message, as a master file writes it."""

    name: str
    type: int
    query_class: int
    is_malformed: bool


def dissect(message: bytes) -> Question:
    """Read the first question, byte by byte (RFC 1035, section 4.1)."""
    if not int.from_bytes(message[4:6], "big"):
        return Question("", 0, 0, is_malformed=False)
    labels, at, behind, name_bytes, furthest_back = [], 12, 0, 1, 12
    while True:
        if at >= len(message):
            return _broken(labels)
        length = message[at]
        if length == 0:
            break
        if length >= 0xC0:
            if at + 1 >= len(message):
                return _broken(labels)
            behind = behind or at + 2
            at = int.from_bytes(message[at : at + 2], "big") & 0x3FFF
            if at >= furthest_back:
                return _broken(labels)
            furthest_back = at
            continue
        name_bytes += length + 1
        label = message[at + 1 : at + 1 + length]
        if length > 63 or name_bytes > 255 or len(label) < length:
            return _broken(labels)
        labels.append(label)
        at += 1 + length
    behind = behind or at + 1
    if behind + 4 > len(message):
        return _broken(labels or [b""])
    kind, query_class = message[behind : behind + 2], message[behind + 2 : behind + 4]
    return Question(
        _name(labels or [b""]),
        int.from_bytes(kind, "big"),
        int.from_bytes(query_class, "big"),
        is_malformed=False,
    )


def _broken(labels: list[bytes]) -> Question:
    return Question(_name(labels), 0, 0, is_malformed=True)


def _name(labels: list[bytes]) -> str:
    if labels == [b""]:
        return "."
    return ".".join("".join(map(_letter, label)) for label in labels)


def _letter(code: int) -> str:
    if chr(code) in ".\\":
        return "\\" + chr(code)
    return chr(code) if 0x20 < code < 0x7F else f"\\{code:03}"


def message(
    question: bytes,
    *,
    ident: int = 1,
    flags: int = 0x0100,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
    rest: bytes = b"",
) -> bytes:
    """A message with this question, which may be anything."""
    header = b"".join(number.to_bytes(2, "big") for number in (ident, flags, *counts))
    return header + question + rest


def wire_name(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def question(name: bytes, query_type: int = 1, query_class: int = 1) -> bytes:
    return name + query_type.to_bytes(2, "big") + query_class.to_bytes(2, "big")


def plausible(chance: random.Random) -> bytes:
    """A query or a response with answers, which point to the question's name, and EDNS."""
    length = chance.choice((1, 3, 3, 8, 20, 62, 63))
    labels = [
        bytes(chance.choices(_LETTERS, k=chance.randint(1, length)))
        for _ in range(chance.choice((0, 1, 2, 3, 3, 3, 5, 40)))
    ]
    while len(wire_name(*labels)) > 255:
        labels.pop()
    answers, edns = chance.choice((0, 0, 1, 2, 5)), chance.choice((0, 1))
    flags = chance.choice((0x0100, 0x8180, 0x8183, 0x8582, 0x8385, 0x2800, 0xA000))
    answer = b"\xc0\x0c" + bytes.fromhex("00010001000000ff0004") + bytes(4)
    option = bytes.fromhex("00002904d0000080000000")
    return message(
        question(wire_name(*labels), chance.choice(QUERY_TYPES), chance.choice((1, 1, 3, 255))),
        ident=chance.randrange(1 << 16),
        flags=flags,
        counts=(1, answers, 0, edns),
        rest=answer * answers + option * edns,
    )


def damaged(chance: random.Random) -> bytes:
    """A plausible message with some bytes changed, or its end missing, or all of it chance."""
    content = bytearray(plausible(chance))
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(2, min(len(content), 40))
        content[at] = chance.choice((0, 1, 12, 13, 63, 64, 0x80, 0xC0, 0xC1, 255, ord("."), 92))
    content = content[: chance.choice((len(content), chance.randint(12, len(content))))]
    if chance.random() < 0.1:
        content[12:] = chance.randbytes(chance.randint(0, 300))
    return bytes(content)


def special() -> Iterator[bytes]:
    """Names at each limit, and pointers of each kind."""
    for name in (
        wire_name(),
        wire_name(b"x" * 63),
        bytes([64]) + b"x" * 64 + b"\0",
        wire_name(*[b"y" * 63] * 3, b"z" * 61),  # 255 bytes
        wire_name(*[b"y" * 63] * 3, b"z" * 62),  # 256 bytes
        wire_name(*[b"a"] * 127),
        wire_name(*[b"a"] * 128),
        wire_name(*[bytes(range(at, at + 32)) for at in range(0, 256, 32)][:7]),
        wire_name(*[bytes(range(at, at + 32)) for at in range(64, 256, 32)]),
        wire_name(b"a.b", b"c\\d", b"e f", b"\xff"),
        b"\xc0\x0c",  # to itself
        b"\xc0\x0d",  # into itself
        b"\xc0\xff",  # forward
        b"\xff\xff",
        b"\xc0\x00",  # the header as a name
        b"\xc0\x0a",
        b"\xc0\x0b",
        b"\x03abc\xc0\x0c",  # a loop with a label in it
        b"\x03abc\xc0\x0a",
        b"\x03abc\xc0",
        b"\x80abc\0",
        b"",
    ):
        for ident in (0, 0x0161, 0x0261, 0xC000, 0xC001, 0xC00C):
            yield message(question(name), ident=ident)
            yield message(question(name), ident=ident, counts=(0, 0, 0, 0))
            yield message(name, ident=ident)
            yield message(name + b"\0\1\0", ident=ident, counts=(2, 0, 0x6100, 0x0161))
    for length in range(12, 24):
        yield message(question(wire_name(b"www", b"example")))[:length]
