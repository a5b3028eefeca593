# SPDX-License-Identifier: Apache-2.0
"""DNS tunnel: one client asks for many long names under one domain, each different, as if random.

Who carries data in DNS puts it into names, which are long therefore, never the same, and have many
different characters.  Names of hosts are short, and those of people have few; content networks have
random names, and few of them.  What a name is under is its registered domain: the last two labels,
or three below a suffix such as `co.uk`.  Reverse names (`arpa`) are long and all different, and are
left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Stateless, is_recent, largest
from consumer.alerts.dns_names import names_in
from consumer.alerts.rows import NS_PER_S, Rows
from consumer.alerts.sketches import Distinct
from service.options import option


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Thresholds of `[alert.dns_tunnel]`."""

    names: float = option(
        100, "different names under one domain that one client asks for", group=""
    )
    length: float = option(40, "bytes of a name in front of its domain, at least", group="")
    entropy: float = option(3.2, "bits a byte in them, at least", group="")
    period: float = option(600.0, "seconds over which names are counted", group="")
    ignore: tuple[str, ...] = option((), "registered domains that are known to do so", group="")


class DnsTunnel(Stateless):
    """Clients that carry data in names; see the module."""

    name = "dns_tunnel"
    about = (
        "One client asks for many long names that look random, all different, under one registered"
        " domain.  Needs `--dns yes`."
    )
    kinds = ("dns",)
    hold_s = 300.0

    def __init__(self, options: Options) -> None:
        self._options = options
        self._names = Distinct(options.period)
        self._ignored = {domain.lower().strip(".") for domain in options.ignore}

    @property
    def size_bytes(self) -> int:
        return self._names.size_bytes

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        self._names.rotate(now_ns / NS_PER_S)
        is_query = (rows["is_response"] == 0) & is_recent(rows, now_ns)
        names = names_in(rows["query_name"], is_query, least_bytes=int(self._options.length))
        names = names.chosen(names.entropies() >= self._options.entropy)
        if not len(names.rows):
            return ()
        at = names.rows
        of_domain = keys.HASH.of(keys.sources(rows)[at], names.domain_keys(keys.HASH))
        counts = self._names.add(of_domain, names.name_keys(keys.HASH))
        _, first = np.unique(of_domain, return_index=True)
        found = []
        for one in largest(counts, first[counts[first] >= self._options.names]):
            domain = names.domain(one)
            if domain not in self._ignored:
                same = at[of_domain == of_domain[one]]
                found.append(self._sighting(rows, same, domain, float(counts[one])))
        return found

    def _sighting(self, rows: Rows, at: NDArray[np.intp], domain: str, count: float) -> Sighting:
        client = evidence.address(rows["src_addr"][at[0]])
        began, seen = int(rows["time"][at].min()), int(rows["time"][at].max())
        return Sighting(
            detector=self.name,
            labels={"client": client, "domain": domain},
            severity="critical",
            summary=(
                f"{client} may carry data in DNS: it has asked for {count:.0f} different long names"
                f" under {evidence.shown(domain)}"
            ),
            evidence=evidence.query(
                "time, node, dst_addr, query_type, query_name",
                "dns",
                evidence.is_address("src_addr", client),
                f"is_response = 0 AND endsWith(lower(query_name), {evidence.literal('.' + domain)})",
                evidence.during(began, seen, margin_s=int(self._options.period)),
                tail="ORDER BY time DESC",
            ),
            value=count,
            threshold=self._options.names,
            seen_ns=seen,
            began_ns=began,
        )
