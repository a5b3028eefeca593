# SPDX-License-Identifier: Apache-2.0
"""What may stand between a client and a server: hookline, its peers, a proxy.

Each is set up at a site of its own, with what it needs there, and counts every packet of the web
server's port or every request.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.plan import remove_all, root_of
from bench.processes import agent, started
from bench.ruled import enforced
from bench.sidecars import envoy, haproxy, on_both, on_server
from bench.sites import PORT, Node, Site, standing_still
from hookline.drop.orders import change
from schemas.rules.limit import Limit

NFLOG_GROUP = 5
_LOG_ALL = Path("/proc/sys/net/netfilter/nf_log_all_netns")
# None of them matches what is measured; the packets of all of it are compared with them.
_RULES = (
    enforced("no-telnet", "tcp dst port 23"),
    enforced("no-net", "src net 192.0.2.0/24"),
    enforced("calm", "udp dst port 53", action="limit", limit=Limit.parse("100/s per source")),
)

_NFT = """
table inet hlb {{
  set flows {{
    type ipv4_addr . inet_service . ipv4_addr . inet_service
    size 65536; flags dynamic,timeout; timeout 10s; counter
  }}
  chain in {{
    type filter hook input priority 0; policy accept;
    tcp dport {port} update @flows {{ ip saddr . tcp sport . ip daddr . tcp dport }}
  }}
  chain out {{
    type filter hook output priority 0; policy accept;
    tcp sport {port} update @flows {{ ip saddr . tcp sport . ip daddr . tcp dport }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Observer:
    """How to set one up at a site, and which programs it is made of."""

    begin: Callable[[Site, Path, str], AbstractContextManager[None]]
    programs: tuple[str, ...] = ()
    package: str = ""
    why: str = ""  # what is said instead where no package has it

    def why_not(self) -> str:
        """Why it cannot be measured here; empty where it can."""
        missing = [name for name in self.programs if shutil.which(name) is None]
        return (self.why or not_installed(self.package)) if missing else ""


def not_installed(*packages: str) -> str:
    return f"not installed: apt-get install {' '.join(packages)}"


@contextmanager
def _nothing(_site: Site, _folder: Path, _kafka: str) -> Iterator[None]:
    yield


def hookline(
    *flags: str, ends: int = 1, has_rules: bool = False, is_still: bool = False
) -> Observer:
    """The agent on the server's node, or an agent on each; *is_still*: only what it has loaded."""

    @contextmanager
    def begin(site: Site, folder: Path, kafka: str) -> Iterator[None]:
        with ExitStack() as stack:
            for node in (site.server, site.client)[:ends]:
                pid = stack.enter_context(_an_agent(node, folder, kafka, *flags))
                if has_rules:
                    _add_rules(agent_name(node))
                if is_still:
                    stack.enter_context(standing_still(pid, node))
                else:
                    stack.enter_context(site.observed_by(pid, node))
            yield

    return Observer(begin)


def agent_name(node: Node) -> str:
    return f"{node.namespace}-agent"


@contextmanager
def _an_agent(node: Node, folder: Path, kafka: str, *flags: str) -> Iterator[int]:
    name = agent_name(node)
    own = (
        *("--name", name, "--node", node.namespace, "--netns", node.namespace),
        *("--cgroup", str(node.group.directory), "--spool", str(folder / name)),
        *("--on-stop", "detach"),
    )
    try:
        with agent(f"{node.namespace}/{node.interface}", kafka, *own, *flags) as pid:
            yield pid
    finally:
        remove_all(root_of(name))


def _add_rules(name: str) -> None:
    # The broker's packets may have any source; the allow list has them pass whatever rules say.
    change(name, put=_RULES, despite_allowed=True)


@contextmanager
def _watched(site: Site, _folder: Path, _kafka: str) -> Iterator[None]:
    where = (site.server.namespace, site.server.interface)
    with (
        started("bench.watcher", *where, ready="ready") as pid,
        site.observed_by(pid, site.server),
    ):
        yield


@contextmanager
def _logged(site: Site, _folder: Path, _kafka: str) -> Iterator[None]:
    """A line in the kernel's log for each packet, which nobody reads here."""
    _each_packet(site.server, "LOG", "--log-level", "debug")
    was = _LOG_ALL.read_text()
    _LOG_ALL.write_text("1")  # else only the first namespace may
    try:
        yield
    finally:
        _LOG_ALL.write_text(was)


@contextmanager
def _nflogged(site: Site, _folder: Path, _kafka: str) -> Iterator[None]:
    """Headers handed over in batches to a reader in C."""
    group = str(NFLOG_GROUP)
    batches = ("--nflog-group", group, "--nflog-size", "64", "--nflog-threshold", "64")
    _each_packet(site.server, "NFLOG", *batches)
    reader = ("tcpdump", "-i", f"nflog:{group}", "-s", "64", "-Z", "root", "-w", os.devnull)
    with (
        site.server.running(*reader, is_server=False) as process,
        site.observed_by(process.pid, site.server),
    ):
        yield


def _each_packet(node: Node, *target: str) -> None:
    for chain, port in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
        node.run("iptables", "-A", chain, "-p", "tcp", port, str(PORT), "-j", *target)


@contextmanager
def _counted(site: Site, _folder: Path, _kafka: str) -> Iterator[None]:
    site.server.run("nft", "-f", "-", text=_NFT.format(port=PORT))
    yield


BARE, AGAIN = "bare", "bare, once more"
OURS, OURS_TWICE = "hookline", "hookline on both nodes"
WITHOUT_RULES = "hookline, without rules"
EVENTS, LOG = "an event and a callback for each packet", "iptables LOG"
NFT = "nftables, a counter for each flow"
PROXY, PROXY_TWICE = "haproxy on the server's node", "haproxy on both nodes"
ENVOY, ENVOY_TWICE = "Envoy on the server's node", "Envoy on both nodes"

_IPTABLES = ("iptables",)
OBSERVERS = {
    BARE: Observer(_nothing),
    # What differs between these two is noise.
    AGAIN: Observer(_nothing),
    WITHOUT_RULES: hookline(),
    OURS: hookline(has_rules=True),
    OURS_TWICE: hookline(has_rules=True, ends=2),
    # What of it is the programs', and what the agent's looks at its buffers without rows to make.
    "hookline, its agent standing still": hookline(has_rules=True, is_still=True),
    "hookline, an interval of a minute": hookline("--interval", "60", has_rules=True),
    "hookline, every packet's headers": hookline("--sample", "1", has_rules=True),
    EVENTS: Observer(_watched),
    NFT: Observer(_counted, ("nft",), "nftables"),
    "iptables NFLOG, and tcpdump": Observer(_nflogged, (*_IPTABLES, "tcpdump"), "iptables tcpdump"),
    LOG: Observer(_logged, _IPTABLES, "iptables"),
    PROXY: Observer(on_server(haproxy), (*_IPTABLES, "haproxy"), "iptables haproxy"),
    PROXY_TWICE: Observer(on_both(haproxy), (*_IPTABLES, "haproxy"), "iptables haproxy"),
    # Debian has none.
    ENVOY: Observer(on_server(envoy), (*_IPTABLES, "envoy"), why="not here: see --envoy"),
    ENVOY_TWICE: Observer(on_both(envoy), (*_IPTABLES, "envoy"), why="not here: see --envoy"),
}
