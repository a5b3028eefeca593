# SPDX-License-Identifier: Apache-2.0
"""Rules that travel: signed with Ed25519 (RFC 8032), so that agents obey those they trust alone.

A record of the topic `hookline.rules` has the rule's name as key and a msgpack map as value:

    {"v": 1, "key": bytes 8, "body": bytes, "signature": bytes 64}

*key* begins the SHA-256 of the public key.  *signature* is over CONTEXT and the body, a msgpack map
of its own:

    {"name": …, "serial": …, "issued_ns": …, "nodes": ["web-*"], "until_ns": …,
     "rule": {…} or None, "despite_allowed": false}

Without a rule it withdraws the one of that name.  Of two records of a name the one with the higher
serial counts, whichever comes last: what was withdrawn cannot be brought back by sending it again.
Whatever travels has an end, an owner and a reason.  What comes off the topic is untrusted until its
signature is verified: nothing of a body is looked at before.
"""

import base64
import binascii
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from schemas.rules.rule import Rule, RuleError

TOPIC = "hookline.rules"
VERSION = 1
# Signatures for anything else are none for this.
CONTEXT = b"hookline rule v1\0"
_KEY_BYTES = 8
_MAX_VALUE_BYTES = 4 << 20  # two lists of 100,000 networks
_MAX_NODES = 1000
_MAX_NODE_CHARS = 200
# So far may clocks of machines differ.
MAX_SKEW_NS = 60_000_000_000


class SignedError(ValueError):
    """A record that is not obeyed; *reason* is one of REASONS, the text one line."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


REASONS = (
    "malformed",
    "unsigned",
    "untrusted",
    "forged",
    "expired",
    "early",
    "replayed",
    "refused",
)


@dataclass(frozen=True, slots=True)
class Order:
    """A verified record: put this rule, or withdraw the one of that name."""

    name: str
    serial: int
    issued_ns: int
    until_ns: int
    rule: Rule | None
    nodes: tuple[str, ...] = ("*",)
    despite_allowed: bool = False
    signed_by: str = ""

    def is_for(self, node: str) -> bool:
        return any(fnmatchcase(node, glob) for glob in self.nodes)


@dataclass(frozen=True, slots=True)
class Trusted:
    """The keys that an agent obeys, by the beginning of their hash; each has a name."""

    keys: Mapping[bytes, tuple[str, Ed25519PublicKey]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Trusted":
        """Those in a file: a name and a key in base64 on each line; # begins a comment.

        Raises:
            RuleError: a line is none, or there are no keys.
            OSError: the file cannot be read.
        """
        keys = {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if words := line.partition("#")[0].split():
                try:
                    name, text = words
                    public = Ed25519PublicKey.from_public_bytes(
                        base64.b64decode(text, validate=True)
                    )
                except (ValueError, binascii.Error):
                    raise RuleError(
                        f"{path}, line {number} is no key; write NAME and what"
                        " `hookline drop keygen` has printed"
                    ) from None
                keys[key_id(public)] = name, public
        if not keys:
            raise RuleError(f"{path} holds no keys; add what `hookline drop keygen` has printed")
        return cls(keys)


def key_id(public: Ed25519PublicKey) -> bytes:
    """By what a record names its key."""
    return sha256(_raw(public)).digest()[:_KEY_BYTES]


def public_text(public: Ed25519PublicKey) -> str:
    """A key as files of trusted keys have it."""
    return base64.b64encode(_raw(public)).decode()


def _raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def new_key() -> tuple[bytes, Ed25519PublicKey]:
    """A new private key as PEM, and its public half."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, key.public_key()


def read_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file.

    Raises:
        RuleError: it holds none of this kind.
        OSError: it cannot be read.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise RuleError(f"{path} holds no Ed25519 key in PEM; make one: hookline drop keygen")
    return key


def put(
    rule: Rule,
    key: Ed25519PrivateKey,
    *,
    nodes: Iterable[str] = ("*",),
    despite_allowed: bool = False,
    now_ns: int | None = None,
) -> bytes:
    """The value of the record that puts a rule on the nodes that a glob means.

    Raises:
        RuleError: it has no end, no owner or no reason.
    """
    for name in ("until_ns", "owner", "reason"):
        if not getattr(rule, name):
            what = "an end" if name == "until_ns" else f"its {name}"
            raise RuleError(
                f"rule {rule.name} lacks {what}, which a rule for other nodes must have"
            )
    issued_ns = time.time_ns() if now_ns is None else now_ns
    return sign(
        {
            "name": rule.name,
            "serial": issued_ns,
            "issued_ns": issued_ns,
            "nodes": list(nodes),
            "until_ns": rule.until_ns,
            "rule": rule.to_message(),
            "despite_allowed": despite_allowed,
        },
        key,
    )


def withdraw(
    name: str, key: Ed25519PrivateKey, *, until_ns: int, now_ns: int | None = None
) -> bytes:
    """The value of the record that withdraws a rule everywhere, to be kept until its end."""
    issued_ns = time.time_ns() if now_ns is None else now_ns
    return sign(
        {
            "name": name,
            "serial": issued_ns,
            "issued_ns": issued_ns,
            "nodes": ["*"],
            "until_ns": until_ns,
            "rule": None,
            "despite_allowed": False,
        },
        key,
    )


def sign(body: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """The value of a record with that body."""
    packed: bytes = msgpack.packb(dict(body))
    value: bytes = msgpack.packb(
        {
            "v": VERSION,
            "key": key_id(key.public_key()),
            "body": packed,
            "signature": key.sign(CONTEXT + packed),
        }
    )
    return value


def verified(value: bytes, trusted: Trusted, *, now_ns: int) -> Order:
    """What a record orders.

    Raises:
        SignedError: it is not to be obeyed.
    """
    name, body = _signed_body(value, trusted)
    order = _order(body, name)
    if order.issued_ns > now_ns + MAX_SKEW_NS:
        seconds = (order.issued_ns - now_ns) // 1_000_000_000
        raise SignedError(
            "early", f"rule {order.name} was issued {seconds} s from now; set the clocks right"
        )
    if order.until_ns <= now_ns:
        raise SignedError("expired", f"rule {order.name} has ended")
    return order


def _signed_body(value: bytes, trusted: Trusted) -> tuple[str, bytes]:
    if len(value) > _MAX_VALUE_BYTES:
        raise SignedError("malformed", f"a record of {len(value)} bytes is no rule")
    envelope = _map_in(value, "record")
    if envelope.get("v") != VERSION:
        raise SignedError("malformed", f"version {envelope.get('v')!r:.40} is none that we know")
    body, signature, key = (envelope.get(name) for name in ("body", "signature", "key"))
    if not isinstance(body, bytes):
        raise SignedError("malformed", "the record has no body")
    if not isinstance(signature, bytes) or not isinstance(key, bytes):
        raise SignedError("unsigned", "the record has no signature")
    if key not in trusted.keys:
        raise SignedError("untrusted", f"key {key[:_KEY_BYTES].hex()} is not trusted here")
    name, public = trusted.keys[key]
    try:
        public.verify(signature, CONTEXT + body)
    except InvalidSignature:
        raise SignedError("forged", f"the signature is not one of {name}'s") from None
    return name, body


_BODY: Mapping[str, type] = {
    "name": str,
    "serial": int,
    "issued_ns": int,
    "until_ns": int,
    "nodes": list,
    "despite_allowed": bool,
}


def _order(packed: bytes, signed_by: str) -> Order:
    body = _map_in(packed, "body")
    for name, kind in _BODY.items():
        if type(body.get(name)) is not kind:
            raise SignedError("malformed", f"the body's {name} is {body.get(name)!r:.80}")
    nodes = tuple(body["nodes"])
    if len(nodes) > _MAX_NODES or not all(
        isinstance(node, str) and len(node) <= _MAX_NODE_CHARS for node in nodes
    ):
        raise SignedError("malformed", "the body's nodes are no list of names")
    try:
        rule = None if body.get("rule") is None else Rule.from_message(body["rule"])
    except RuleError as error:
        raise SignedError("malformed", str(error)) from None
    if rule is not None and (rule.name, rule.until_ns) != (body["name"], body["until_ns"]):
        raise SignedError("malformed", "name or end of the body are not those of its rule")
    if rule is not None and not (rule.owner and rule.reason):
        raise SignedError("malformed", f"rule {rule.name} lacks its owner or its reason")
    return Order(
        name=body["name"],
        serial=body["serial"],
        issued_ns=body["issued_ns"],
        until_ns=body["until_ns"],
        rule=rule,
        nodes=nodes,
        despite_allowed=body["despite_allowed"],
        signed_by=signed_by,
    )


def _map_in(packed: bytes, what: str) -> dict[str, Any]:
    try:
        found = msgpack.unpackb(packed)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SignedError("malformed", f"the {what} is no msgpack map")
    return found
