# SPDX-License-Identifier: Apache-2.0
"""The captures that run, and the programs that they need.

While there are any, a variant of the kernel programs with their filters compiled in takes the
place of the programs that only count.  Each capture has a slot and a ring buffer of its own, which
its client reads by itself: no packet passes through the agent.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent import libbpf, newmaps
from agent.condition import ConditionError, condition
from agent.maps import mapped_array
from agent.plan import LoadError, Plan, Recompilation
from agent.programs import recompile
from agent.variants import Compiled, Variants
from schemas.capture import CAPTURE_BOOKS, CAPTURE_BYTES, CAPTURE_SLOTS
from schemas.filter.tree import Filter

log = logging.getLogger(__name__)

RINGS = "capture_rings"
BOOKS = "capture_books"
SCRATCH = "capture_scratch"
CAPTURE_MAPS = (RINGS, BOOKS, SCRATCH)
# A packet that is being counted on another CPU while programs are replaced is done before this.
_LAST_PACKETS_SECONDS = 0.02
MIN_RING_BYTES = 1 << 16
MAX_RING_BYTES = 1 << 30


class CaptureError(Exception):
    """A capture that cannot be; the text is one line for a human."""


class RefusedError(CaptureError):
    """A capture that was asked for in a way that makes no sense."""


@dataclass(frozen=True, slots=True)
class Capture:
    """One capture that runs."""

    slot: int
    tree: Filter
    snaplen: int
    ring_fd: int


class Captures:
    """Starts and stops captures, one at a time."""

    def __init__(
        self,
        plan: Plan,
        normal: Variants,
        *,
        names: Callable[[], Sequence[str]],
        swap: Callable[[Variants], None],
    ) -> None:
        """*normal* only count; *names* tells the interface of every hook point.

        *swap* puts programs in their places.
        """
        self.plan = plan
        self._names = names
        self._swap = swap
        self._normal = normal
        self._capturing: Variants | None = None
        self._running: dict[int, Capture] = {}
        self._turn = asyncio.Lock()
        self._rings_fd = -1
        self._told: set[str] = set()

    async def start(self, tree: Filter, *, snaplen: int, ring_bytes: int) -> Capture:
        """Capture what *tree* means from now on.

        Raises:
            RefusedError: no packet can be asked that, or the sizes are out of their limits.
            CaptureError: it cannot be done here and now.
        """
        if self.plan.buffer != "ring":
            raise CaptureError(
                "capturing needs the kernel's ring buffer (Linux 5.8), not --buffer perf"
            )
        _check_sizes(snaplen, ring_bytes)
        async with self._turn:
            slot = next((slot for slot in range(CAPTURE_SLOTS) if slot not in self._running), None)
            if slot is None:
                raise CaptureError(f"{CAPTURE_SLOTS} captures run already; stop one first")
            capture = Capture(slot, tree, snaplen, newmaps.create_ring(ring_bytes))
            try:
                await self._add(capture)
            except BaseException:
                await asyncio.shield(self._remove(capture))
                raise
        log.info("capture started", extra={"slot": slot, "snaplen": snaplen})
        return capture

    async def stop(self, capture: Capture) -> None:
        """Let the programs run that only count, unless others capture; its ring gets no more."""
        async with self._turn:
            await self._remove(capture)
        log.info("capture stopped", extra={"slot": capture.slot})

    def open_books(self) -> int:
        """A new descriptor of the books of all captures."""
        return libbpf.open_pinned(self.plan.pins.map(BOOKS))

    async def _add(self, capture: Capture) -> None:
        definitions = self._definitions([*self._running.values(), capture])
        if self._rings_fd < 0:
            self._rings_fd = newmaps.create_array_of_rings(CAPTURE_SLOTS)
            libbpf.pin(self._rings_fd, self.plan.pins.map(RINGS))
        self._running[capture.slot] = capture
        # Those that run keep theirs; its size is that of the longest packet that is wanted.
        self.plan.pins.map(SCRATCH).unlink(missing_ok=True)
        try:
            report = await recompile(Recompilation(self.plan, definitions))
        except LoadError as error:
            raise CaptureError(f"the kernel refuses the filter: {error}") from None
        self._tell(report.warnings)
        await self._swap_to(Variants(Compiled.reported(report, self.plan.pins), self._normal))
        # Not before: programs that were replaced may know the slot by the filter of a capture that
        # had it, and would send what that one wanted.
        self._clear_books(capture.slot)
        libbpf.update_element(self._rings_fd, capture.slot, capture.ring_fd.to_bytes(4, "little"))

    async def _remove(self, capture: Capture) -> None:
        self._running.pop(capture.slot, None)
        try:
            if not self._running:
                await self._swap_to(None)
        finally:
            if self._rings_fd >= 0:
                # One that failed to start is not there yet.
                with contextlib.suppress(FileNotFoundError):
                    libbpf.delete_element(self._rings_fd, capture.slot)
            os.close(capture.ring_fd)
            if not self._running:
                self._let_go()

    async def _swap_to(self, capturing: Variants | None) -> None:
        """Run these programs, or without any those that only count."""
        former = self._capturing
        try:
            self._swap(capturing or self._normal)
        except (OSError, LoadError) as error:
            with contextlib.suppress(OSError, LoadError):
                self._swap(former or self._normal)
            raise CaptureError(f"cannot replace the programs: {error}") from None
        self._capturing = capturing
        # A packet that is still in a replaced program needs what that goes on in.
        await asyncio.sleep(_LAST_PACKETS_SECONDS)
        if former:
            former.close()

    def _tell(self, warnings: Sequence[str]) -> None:
        """Say once what the loader says each time."""
        for warning in warnings:
            if warning not in self._told:
                log.warning(warning)
        self._told.update(warnings)

    def _let_go(self) -> None:
        """Free what only captures need."""
        for name in CAPTURE_MAPS:
            self.plan.pins.map(name).unlink(missing_ok=True)
        if self._rings_fd >= 0:
            os.close(self._rings_fd)
            self._rings_fd = -1

    def _clear_books(self, slot: int) -> None:
        if not self.plan.pins.map(BOOKS).exists():
            return
        points = self.plan.cpus * self.plan.hook_points
        books = mapped_array(
            self.plan.pins, BOOKS, CAPTURE_BOOKS, CAPTURE_SLOTS * points, is_writable=True
        )
        books[slot * points : (slot + 1) * points] = 0

    def _definitions(self, captures: Sequence[Capture]) -> tuple[str, ...]:
        """What the compiler is told of the captures."""
        names = self._names()
        try:
            wanted = " | ".join(f"{condition(one.tree, names)} << {one.slot}" for one in captures)
        except ConditionError as error:
            raise RefusedError(str(error)) from None
        snaplens = "".join(f"(slot) == {one.slot} ? {one.snaplen}ULL : " for one in captures)
        return (
            f"-DCAPTURES={sum(1 << one.slot for one in captures)}",
            f"-DCAPTURE_LONGEST={max(one.snaplen for one in captures)}",
            f"-DCAPTURE_SNAPLEN(slot)=({snaplens}1ULL)",
            f"-DCAPTURE_WANTED(packet)=({wanted})",
        )


def _check_sizes(snaplen: int, ring_bytes: int) -> None:
    if not 64 <= snaplen <= CAPTURE_BYTES:
        raise RefusedError(
            f"a snaplen of {snaplen} is out of its limits; use 64 to {CAPTURE_BYTES}"
        )
    if not MIN_RING_BYTES <= ring_bytes <= MAX_RING_BYTES or ring_bytes & (ring_bytes - 1):
        raise RefusedError(
            f"a buffer of {ring_bytes} bytes is no power of two from {MIN_RING_BYTES}"
            f" to {MAX_RING_BYTES}"
        )
