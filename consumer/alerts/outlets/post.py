# SPDX-License-Identifier: Apache-2.0
"""Send one delivery by HTTP, and tell what became of it.

Redirects are not followed: they would carry secrets to somebody else.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from consumer.alerts.outlets import alertmanager, slack, webhook
from consumer.alerts.outlets.change import Delivery
from consumer.alerts.outlets.destination import ALERTMANAGER, SLACK, Destination

TIMEOUT_S = 15.0
LONGEST_RETRY_AFTER_S = 3600.0
KEY_HEADER = "Idempotency-Key"
_MAX_REASON_BYTES = 300
# What is shorter is no secret, and may be a word of the reason.
_MIN_SECRET_CHARACTERS = 8
_REQUEST_TIMEOUT, _CONFLICT, _TOO_EARLY, _TOO_MANY = 408, 409, 425, 429
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a destination made of a request; *is_passing* where it may take it another time."""

    is_taken: bool = False
    is_passing: bool = False
    # Nothing else will get through either.
    is_away: bool = False
    reason: str = ""
    retry_after_s: float | None = None


def session() -> aiohttp.ClientSession:
    """A client that keeps nothing between requests and takes nothing from the environment."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def post(
    client: aiohttp.ClientSession, to: Destination, delivery: Delivery, now_ns: int
) -> Outcome:
    """Send *delivery* once; every way in which that can fail is an outcome."""
    content = json.dumps(_body(to, delivery, now_ns)).encode()
    try:
        async with client.post(
            _url(to),
            data=content,
            headers=_headers(to, delivery, content),
            allow_redirects=False,
            ssl=to.context or True,
        ) as response:
            return await _outcome(to, response)
    except TimeoutError:
        return Outcome(is_passing=True, is_away=True, reason="it does not answer in time")
    except (aiohttp.ClientError, OSError) as error:
        return Outcome(is_passing=True, is_away=True, reason=_said(to, _why(error)))


def _url(to: Destination) -> str:
    return to.url.rstrip("/") + alertmanager.PATH if to.type == ALERTMANAGER else str(to.url)


def _body(to: Destination, delivery: Delivery, now_ns: int) -> Any:
    if to.type == ALERTMANAGER:
        return alertmanager.body(to, delivery, now_ns)
    if to.type == SLACK:
        return slack.body(to, delivery)
    return webhook.body(to, delivery)


def _headers(to: Destination, delivery: Delivery, content: bytes) -> Mapping[str, str]:
    own = {"Content-Type": "application/json", "User-Agent": "hookline", KEY_HEADER: delivery.key}
    if to.secret:
        own[webhook.SIGNATURE_HEADER] = webhook.signature(to.secret, content)
    if to.authorization:
        own["Authorization"] = to.authorization
    return {**to.headers, **own}


async def _outcome(to: Destination, response: aiohttp.ClientResponse) -> Outcome:
    status = response.status
    if 200 <= status < 300:
        return Outcome(is_taken=True)
    said = (await response.content.read(_MAX_REASON_BYTES)).decode(errors="replace")
    reason = _said(to, f"{status} {response.reason}: {said}" if said else f"{status}")
    is_passing = status >= 500 or status in (_REQUEST_TIMEOUT, _CONFLICT, _TOO_EARLY, _TOO_MANY)
    return Outcome(
        is_passing=is_passing,
        is_away=status in (_TOO_MANY, _UNAVAILABLE),
        reason=reason,
        retry_after_s=_retry_after_s(response.headers.get("Retry-After", "")),
    )


def _retry_after_s(text: str) -> float | None:
    """The seconds of a Retry-After, which are a number or a date (RFC 9110); None without one."""
    if text.strip().isdecimal():
        seconds = float(text)
    else:
        try:
            until = parsedate_to_datetime(text)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        seconds = (until - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error}); check ca_file"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"it speaks no TLS there, or refuses ours ({error}); check its port"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it hung up without an answer"
    return str(error) or type(error).__name__


def _said(to: Destination, text: str) -> str:
    """*text* in one line, without what only we and the destination know."""
    secrets = (
        to.url,
        to.secret,
        *to.headers.values(),
        to.url.partition("://")[2].partition("/")[2],
    )
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET_CHARACTERS:
            text = text.replace(secret, "***")
    return " ".join(text.split())
