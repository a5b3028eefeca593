# SPDX-License-Identifier: Apache-2.0
"""New peer: a program connects to a network on the Internet to which it has never connected before.

Programs are known by their systemd unit, or by their command where they have none, on whatever node.
Each is learned for a day from when it is first seen.  One that has connected to many networks by
then, as a browser, a resolver or a crawler does, is left alone: its next one says nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Sighting
from consumer.alerts.detector import MOST_SIGHTINGS, Stateless
from consumer.alerts.ignored import Ignored
from consumer.alerts.rows import NS_PER_S, Rows, name_keys
from consumer.alerts.sketches import Places, Seen
from schemas.socket import EVENTS, ROLES
from schemas.wire import Names
from service.options import option

_SETS = 1 << 11
_KEEP_S = 7 * 86_400.0
_PAIR_BITS = 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Thresholds of `[alert.new_peer]`."""

    learning: float = option(86_400.0, "seconds for which a program is learned", group="")
    networks: float = option(20, "a program with more networks than that is left alone", group="")
    ignore: tuple[str, ...] = option((), "networks that are nothing new", group="")


class NewPeer(Stateless):
    """Programs with peers that they never had; see the module."""

    name = "new_peer"
    about = (
        "A program, by its systemd unit or command, connects to a network on the Internet (/24 or"
        " /48) for the first time, after a day in which it was learned.  Needs `--sockets yes`."
    )
    kinds = ("socket",)
    hold_s = 600.0
    learns = ("_programs", "_first_seen", "_networks", "_pairs")

    def __init__(self, options: Options) -> None:
        self._options = options
        self._ignored = Ignored(options.ignore)
        self._programs = Places(_SETS, _KEEP_S)
        self._first_seen = np.zeros(len(self._programs))
        self._networks = np.zeros(len(self._programs))
        self._pairs = Seen(_PAIR_BITS)

    @property
    def size_bytes(self) -> int:
        return self._pairs.size_bytes + 32 * len(self._programs)

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        is_ours = (rows["role"] == ROLES["client"]) & (rows["event"] == EVENTS["open"])
        is_ours &= keys.external(rows["remote_addr"]) & ~self._ignored(rows["remote_addr"])
        at = np.flatnonzero(is_ours & _is_named(rows))
        if not len(at):
            return ()
        now = now_ns / NS_PER_S
        if self._pairs.is_full:
            # It would take what is new for known.  All is learned anew.
            self._pairs.clear()
            self._first_seen[:] = now
            self._networks[:] = 0
        programs = _program_keys(rows)[at]
        networks = keys.networks(rows["remote_addr"][at])
        pairs = keys.HASH.of(programs, networks)
        _, first = np.unique(pairs, return_index=True)
        first = first[self._pairs.add(pairs[first])]
        at, programs = at[first], programs[first]
        known, groups = np.unique(programs, return_inverse=True)
        places, is_new = self._programs.of(known, now)
        self._first_seen[places[is_new]] = now
        self._networks[places[is_new]] = 0
        places = places[groups]
        np.add.at(self._networks, places[places >= 0], 1)
        is_learned = (places >= 0) & (now - self._first_seen[places] >= self._options.learning)
        is_told = is_learned & (self._networks[places] <= self._options.networks)
        return [self._sighting(rows, int(one), now_ns) for one in at[is_told][:MOST_SIGHTINGS]]

    def _sighting(self, rows: Rows, at: int, now_ns: int) -> Sighting:
        column, program = _program(rows, at)
        peer = evidence.address(rows["remote_addr"][at])
        network = evidence.network(rows["remote_addr"][at], ipv4_bits=24, ipv6_bits=48)
        port = int(rows["remote_port"][at])
        node = rows.node.categories[rows.node.codes[at]]
        seen = int(rows["time"][at])
        return Sighting(
            detector=self.name,
            labels={column: program, "peer": network},
            severity="warning",
            summary=(
                f"{evidence.shown(program)} on {evidence.shown(node)} has connected to {peer} port"
                f" {port}, in a network that is new for it"
            ),
            evidence=evidence.query(
                "time, node, command, unit, remote_addr, remote_port",
                "sockets",
                f"{column} = {evidence.literal(program)}",
                evidence.in_network("remote_addr", network),
                evidence.during(seen, min(seen, now_ns)),
            ),
            value=1.0,
            threshold=1.0,
            seen_ns=seen,
            began_ns=seen,
        )


def _program_keys(rows: Rows) -> NDArray[np.uint64]:
    units, commands = rows["unit"], rows["command"]
    of_unit = name_keys(units, keys.HASH.of)
    of_command = name_keys(commands, keys.HASH.of)
    has_unit = _is_set(units)
    return np.asarray(np.where(has_unit, of_unit, ~of_command))


def _is_named(rows: Rows) -> NDArray[np.bool_]:
    return _is_set(rows["unit"]) | _is_set(rows["command"])


def _is_set(names: Names) -> NDArray[np.bool_]:
    return np.asarray(np.array([bool(name) for name in names.categories], np.bool_)[names.codes])


def _program(rows: Rows, at: int) -> tuple[str, str]:
    unit = rows["unit"].categories[rows["unit"].codes[at]]
    if unit:
        return "unit", unit
    return "command", rows["command"].categories[rows["command"].codes[at]]
