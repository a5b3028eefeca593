# SPDX-License-Identifier: Apache-2.0
"""Agents of one name, one after the other, and whether their books balance over all of them."""

import shutil
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from schemas.interface import EVENTS
from tests.lab.agents import ROOT, SPOOLS, Agent, remove_pins
from tests.lab.published import Published, read_published

KEEP = ("--on-stop", "keep")


@contextmanager
def successors(
    *flags: str, kafka: str, root: Path = ROOT, run_by: Sequence[str] = ()
) -> Iterator["Line"]:
    """Agents of one name, one after the other; the last one detaches, the first runs from *root*."""
    line = Line(flags, kafka, root, run_by)
    try:
        line.latest.until_ready()
        yield line
    finally:
        line.end()


class Line:
    """The agents that had one name, of which the latest runs."""

    def __init__(
        self, flags: tuple[str, ...], kafka: str, root: Path, run_by: Sequence[str]
    ) -> None:
        self._flags = flags
        self._kafka = kafka
        self._run_by = run_by
        self.latest = Agent(*KEEP, *flags, kafka=kafka, root=root, run_by=run_by)
        self.name = self.latest.name

    def following(self, *further: str) -> Agent:
        """The next one, once it is ready."""
        flags = (*KEEP, *self._flags, *further)
        self.latest = Agent(*flags, kafka=self._kafka, name=self.name, run_by=self._run_by)
        return self.latest.until_ready()

    def finish(self) -> Published:
        """Stop the latest for good, and read what all of them have published."""
        assert self.latest.stop(signal.SIGINT) == 0, self.latest.said
        return read_published(self._kafka, self.name)

    def end(self) -> None:
        if self.latest.is_running:
            self.latest.kill()
        remove_pins(self.latest)
        shutil.rmtree(SPOOLS / self.name, ignore_errors=True)


def assert_books_balance(published: Published, ingress: tuple, egress: tuple) -> None:
    """Rows, and the ledger, are what the interface counted; no batch is missing."""
    assert published.sums("egress") == egress
    assert published.sums("ingress") == ingress
    assert published.sums("egress", kind="ledger") == egress
    assert published.sums("ingress", kind="ledger") == ingress
    assert int(published.column("ledger", "flow_packets").sum()) == ingress[0] + egress[0]
    assert int(published.column("ledger", "link_packets").sum()) == ingress[0] + egress[0]
    seqs = defaultdict(list)
    for kind, batches in published.batches.items():
        for batch in batches:
            seqs[batch.run, kind].append(batch.seq)
    assert all(found == list(range(len(found))) for found in seqs.values())
    of_run, of_kind, made = (
        published.column("delivery", name).tolist() for name in ("of_run", "of_kind", "made")
    )
    last = dict(zip(zip(of_run, of_kind, strict=True), made, strict=True))
    # One that was killed before anything of it was valid has made nothing.
    assert {key: len(found) for key, found in seqs.items()} == {
        key: batches for key, batches in last.items() if batches
    }


def events(published: Published) -> list[str]:
    """What the `interface` rows tell, in their order."""
    names = {number: name for name, number in EVENTS.items()}
    return [names[number] for number in published.column("interface", "event").tolist()]
