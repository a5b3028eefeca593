# SPDX-License-Identifier: Apache-2.0
"""ClientHellos of every shape, and what is in them said once more, hello by hello."""

import random
import ssl
from dataclasses import dataclass

GREASE = (0x0A0A, 0x3A3A, 0xFAFA)
HYBRID_KEY_BYTES = 1216  # X25519MLKEM768


@dataclass(frozen=True, slots=True)
class Hello:
    """What a row says of a hello."""

    server_name: str
    alpn: str
    legacy_version: int
    version: int
    is_ech_offered: bool
    hello_bytes: int
    is_malformed: bool


def real(name: str | None, alpn: tuple[str, ...] = ()) -> bytes:
    """The ClientHello that OpenSSL sends."""
    context = ssl.create_default_context()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    context.check_hostname = False
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake needs an answer")


def extension(kind: int, content: bytes) -> bytes:
    return _u16(kind) + _u16(len(content)) + content


def server_name(name: bytes) -> bytes:
    entry = b"\0" + _u16(len(name)) + name
    return extension(0, _u16(len(entry)) + entry)


def alpn(*protocols: bytes) -> bytes:
    entries = b"".join(bytes([len(one)]) + one for one in protocols)
    return extension(16, _u16(len(entries)) + entries)


def versions(*numbers: int) -> bytes:
    entries = b"".join(map(_u16, numbers))
    return extension(43, bytes([len(entries)]) + entries)


def key_share(key_bytes: int) -> bytes:
    entry = b"\x11\xec" + _u16(key_bytes) + bytes(key_bytes)
    return extension(51, _u16(len(entry)) + entry)


def encrypted_hello(content_bytes: int = 200) -> bytes:
    return extension(0xFE0D, b"\0" + bytes(content_bytes))


def hello(
    *extensions: bytes, version: int = 0x0303, session_id: bytes = bytes(32), ciphers: int = 16
) -> bytes:
    """A ClientHello in its TLS record."""
    body = _u16(version) + bytes(32) + bytes([len(session_id)]) + session_id
    body += _u16(2 * ciphers) + b"\x13\x01" * ciphers + b"\1\0"
    if extensions:
        body += _u16(sum(map(len, extensions))) + b"".join(extensions)
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + _u16(len(handshake)) + handshake


def plausible(chance: random.Random) -> bytes:
    """A hello as browsers and libraries send them, its extensions in any order."""
    host = (
        f"{chance.choice(('www', 'api', 'a-b', 'xn--bcher-kva'))}.{chance.randrange(999)}.example"
    )
    extensions = [
        extension(chance.choice(GREASE), b""),
        extension(23, b""),
        extension(10, b"\0\2\0\x1d"),
        *chance.choice(([], [server_name(host.encode())])),
        *chance.choice(([], [alpn(b"h2", b"http/1.1")], [alpn(b"h2")], [alpn(b"acme-tls/1")])),
        *chance.choice(([], [versions(chance.choice(GREASE), 0x0304, 0x0303)], [versions(0x0302)])),
        *chance.choice(([], [encrypted_hello()])),
        *chance.choice(([], [key_share(32)], [key_share(HYBRID_KEY_BYTES)])),
        *chance.choice(([], [extension(21, bytes(chance.randrange(300)))])),
    ]
    chance.shuffle(extensions)
    return hello(
        *extensions[: chance.choice((0, 1, 20, 20))],
        version=chance.choice((0x0301, 0x0302, 0x0303)),
        session_id=bytes(chance.choice((0, 32))),
        ciphers=chance.randint(1, 60),
    )


def damaged(chance: random.Random) -> bytes:
    """A plausible hello with some bytes changed, or its end missing, or all of it chance."""
    content = bytearray(plausible(chance))
    for _ in range(chance.randint(0, 3)):
        content[chance.randrange(3, min(len(content), 250))] = chance.randrange(256)
    if chance.random() < 0.5:
        del content[chance.randint(0, len(content)) :]
    if chance.random() < 0.1:
        content += chance.randbytes(40)
    return bytes(content)


def dissect(raw: bytes) -> Hello:
    """Read a hello byte by byte (RFC 8446, section 4.1.2)."""
    hello_bytes = _number(raw, 6, 3)
    legacy = _number(raw, 9, 2)
    end = min(len(raw), 5 + _number(raw, 3, 2), 9 + hello_bytes)
    raw = raw[:end]
    at = 43
    for size in (1, 2, 1):
        at += size + _number(raw, at, size)
    is_whole = at == end
    stop = at + 2 + _number(raw, at, 2)
    at += 2
    is_whole = is_whole or at == stop == end
    stop = min(stop, end)
    found: dict[int, bytes] = {}
    while at + 4 <= stop:
        kind, length = _number(raw, at, 2), _number(raw, at + 2, 2)
        found.setdefault(kind, raw[at + 4 : min(at + 4 + length, stop)])
        at += 4 + length
        is_whole = at == end
    highest = max(_versions(found.get(43, b"")), default=0)
    return Hello(
        server_name=_server_name(found.get(0, b"")),
        alpn=",".join(_protocols(found.get(16, b""))),
        legacy_version=legacy,
        version=highest or legacy,
        is_ech_offered=0xFE0D in found,
        hello_bytes=hello_bytes,
        is_malformed=not (is_whole and end == 9 + hello_bytes),
    )


def _server_name(content: bytes) -> str:
    name = content[5 : 5 + _number(content, 3, 2)]
    is_name = len(content) >= 5 and content[2] == 0 and len(name) == _number(content, 3, 2)
    return _text(name, "\\") if is_name else ""


def _protocols(content: bytes) -> list[str]:
    protocols, at = [], 2
    while at < len(content) and 0 < content[at] <= len(content) - at - 1:
        protocols.append(_text(content[at + 1 : at + 1 + content[at]], ",\\"))
        at += 1 + content[at]
    return protocols


def _versions(content: bytes) -> list[int]:
    numbers = [_number(content, at, 2) for at in range(1, len(content) - 1, 2)]
    return [one for one in numbers if not (one & 0x0F0F == 0x0A0A and one >> 8 == one & 0xFF)]


def _text(content: bytes, special: str) -> str:
    return "".join(
        "\\" + chr(code)
        if chr(code) in special
        else chr(code)
        if 0x20 < code < 0x7F
        else f"\\{code:03}"
        for code in content
    )


def _number(raw: bytes, at: int, size: int) -> int:
    return int.from_bytes(raw[at : at + size], "big") if at + size <= len(raw) else 0


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "big")
