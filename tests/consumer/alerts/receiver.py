# SPDX-License-Identifier: Apache-2.0
"""Something that is told of alerts: a web server on loopback that writes down what it got."""

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Got:
    """One request."""

    path: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]


class Receiver:
    """Answers 200, but first with what `next_answers` was given; an async context manager."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.got: list[Got] = []
        self._answers: deque[tuple[int, Mapping[str, str], str]] = deque()
        self._context = context
        self._came = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._port = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._context)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        scheme = "https" if self._context else "http"
        return f"{scheme}://127.0.0.1:{self._port}"

    def next_answers(self, *statuses: int, headers: Mapping[str, str] | None = None) -> None:
        self._answers.extend((status, headers or {}, "no, and why") for status in statuses)

    async def _answer(self, request: web.Request) -> web.Response:
        self.got.append(Got(request.path, dict(request.headers), await request.read()))
        self._came.set()
        await self.may_answer.wait()
        if not self._answers:
            return web.Response(text="ok")
        status, headers, text = self._answers.popleft()
        return web.Response(status=status, headers=headers, text=text)

    async def until(self, count: int) -> list[Got]:
        """What came, once it is so many requests."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.got) < count:
                self._came.clear()
                await self._came.wait()
        return self.got
