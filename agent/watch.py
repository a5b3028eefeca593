# SPDX-License-Identifier: Apache-2.0
"""Follow the interfaces that come and go, in every network namespace that was named.

The kernel tells of changes through a socket in each namespace, which the event loop waits for, so
that a new interface is attached to within milliseconds.  Names of namespaces are looked at with
every `tick`: their going is told to nobody.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.attachments import Attachments
from agent.chronicle import Chronicle
from agent.heirlooms import Heirloom
from agent.interfaces import Choice, Interface, InterfaceError
from agent.links import LinkSocket
from agent.namespaces import OWN, Namespace, Netns, given_namespaces
from agent.plan import LoadError
from agent.variants import Variants

log = logging.getLogger(__name__)

Attach = Callable[[Namespace, LinkSocket], Attachments]


@dataclass(slots=True)
class _Watched:
    namespace: Namespace
    links: LinkSocket
    attachments: Attachments | None = None

    def close(self) -> None:
        self.links.close()
        self.namespace.close()


class Watch:
    """The namespaces of one agent.

    Raises:
        InterfaceError: a namespace, or an interface that was named, cannot be observed.
    """

    def __init__(self, netns: tuple[str, ...], choice: Choice) -> None:
        self.chronicle = Chronicle()
        self._given = [OWN, *given_namespaces(netns)]
        self._watched: dict[Netns, _Watched] = {}
        self._attach: Attach | None = None
        self._failure: Exception | None = None
        for one in self._given:
            self._open(one)
        choice.check(self._existing())

    @property
    def interfaces(self) -> list[Interface]:
        """Those that are observed."""
        return [
            one
            for watched in self._watched.values()
            if watched.attachments
            for one in watched.attachments.interfaces
        ]

    def described(self) -> list[dict[str, object]]:
        """Where each of them is observed, and why there."""
        return [
            one
            for watched in self._watched.values()
            if watched.attachments
            for one in watched.attachments.described()
        ]

    def begin(self, attach: Attach, heirlooms: Sequence[Heirloom] = ()) -> None:
        """Attach to what there is, and to what will be; *attach* says how, in a namespace.

        Of *heirlooms* those are taken over whose namespace is observed.

        Raises:
            LoadError: an interface cannot be attached to.
        """
        self._attach = attach
        for netns, watched in self._watched.items():
            its = [one for one in heirlooms if one.entry.netns_label == netns.label]
            self._begin(watched, attach, is_start=True, heirlooms=its)

    def tick(self) -> None:
        """Look whether names of namespaces have changed their meaning.

        Raises:
            OSError: what was heard of interfaces since the last time could not be followed.
        """
        if self._failure:
            raise self._failure
        for netns, watched in list(self._watched.items()):
            if netns != OWN and watched.namespace.has_vanished():
                self._give_up(watched)
                log.info("network namespace is gone", extra={"netns": netns.label})
        for netns in self._given:
            if netns not in self._watched and netns.may_return and netns.number():
                self._return_to(netns)

    @property
    def pins(self) -> set[Path]:
        """The links by which our programs are attached."""
        return {
            path
            for watched in self._watched.values()
            if watched.attachments
            for path in watched.attachments.pins
        }

    def close_interval(self) -> None:
        for watched in self._watched.values():
            if watched.attachments:
                watched.attachments.close_interval()

    def swap(self, variants: Variants) -> None:
        """Put other programs in the places of ours, everywhere.

        Raises:
            OSError, LoadError: the kernel refuses one; those before it are replaced.
        """
        for watched in self._watched.values():
            if watched.attachments:
                watched.attachments.swap(variants)

    def stop(self) -> None:
        """Hear of no more changes."""
        for watched in self._watched.values():
            asyncio.get_running_loop().remove_reader(watched.links.fileno())

    def detach(self) -> None:
        """Detach from everything."""
        for watched in self._watched.values():
            if watched.attachments:
                watched.attachments.end()

    def close(self) -> None:
        for watched in self._watched.values():
            watched.close()
        self._watched.clear()

    def _open(self, netns: Netns) -> _Watched:
        namespace = Namespace(netns)
        try:
            links = namespace.call(lambda: LinkSocket(netns.label))
        except OSError:
            namespace.close()
            raise
        watched = self._watched[netns] = _Watched(namespace, links)
        return watched

    def _existing(self) -> list[Interface]:
        return [one for watched in self._watched.values() for one in watched.links.all()]

    def _begin(
        self,
        watched: _Watched,
        attach: Attach,
        *,
        is_start: bool,
        heirlooms: Sequence[Heirloom] = (),
    ) -> None:
        watched.attachments = attach(watched.namespace, watched.links)
        watched.attachments.inherit(heirlooms)
        watched.attachments.begin(is_start=is_start)
        asyncio.get_running_loop().add_reader(
            watched.links.fileno(), self._hear, watched.attachments
        )

    def _hear(self, attachments: Attachments) -> None:
        # The loop would only log it.
        try:
            attachments.heard()
        except OSError as error:
            self._failure = error

    def _give_up(self, watched: _Watched) -> None:
        asyncio.get_running_loop().remove_reader(watched.links.fileno())
        del self._watched[watched.namespace.netns]
        if watched.attachments:
            watched.attachments.end()
        watched.close()

    def _return_to(self, netns: Netns) -> None:
        try:
            watched = self._open(netns)
        except (InterfaceError, OSError):  # gone again, or not finished yet
            return
        try:
            if self._attach:
                self._begin(watched, self._attach, is_start=False)
        except (LoadError, OSError) as error:
            # The other namespaces go on; this one is tried again with the next tick.
            log.warning(
                "network namespace cannot be observed yet",
                extra={"netns": netns.label, "reason": str(error)},
            )
            self._give_up(watched)
            return
        log.info("network namespace is back", extra={"netns": netns.label})
