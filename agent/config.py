# SPDX-License-Identifier: Apache-2.0
# option() and secret() return dataclass fields
"""What can be set on an agent, with its default, meaning and limits."""

import os
import re
import socket
from dataclasses import dataclass
from math import inf
from pathlib import Path

from agent.rules.allowed import never_dropped
from service.broker import Broker, BrokerOptions
from service.logs import LEVELS
from service.options import ConfigError, host_and_port, option

HOOKS = ("auto", "xdp", "xdp-generic", "tc")
TC = ("auto", "tcx", "clsact")
TUNNELS = ("inner", "outer", "both")
BUFFERS = ("auto", "ring", "perf")
# Over a gigabyte of kernel memory; who asks for more has mistyped.
MAX_FLOW_SLOTS = 1 << 24
# A hook point has 12 bits in a flow's key, and an interface takes four of them.
MAX_INTERFACES = 1023
MOST_NICE = 19
# What one interval may fill.
LEAST_SPOOL_BYTES = 8 << 20

ON_STOP = ("keep", "detach")

CAPTURE = "capture"
RULES = "rules"
KERNEL = "kernel memory"
SPOOL = "spool"
PROCESS = "process"

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BrokerOptions):
    """All options of one agent.

    Raises:
        ConfigError: a value is out of its limits.
    """

    interface: tuple[str, ...] = option(
        (),
        "interface to observe, or a pattern such as 'veth*', whenever one appears; repeatable"
        " (default: all, without lo)",
        group=CAPTURE,
        metavar="NAME",
    )
    exclude_interface: tuple[str, ...] = option(
        (),
        "interface not to observe, or a pattern; repeatable",
        group=CAPTURE,
        metavar="NAME",
    )
    netns: tuple[str, ...] = option(
        (),
        "observe the interfaces of this network namespace too: a name of `ip netns`, a process id"
        " or a path; repeatable",
        group=CAPTURE,
        metavar="NETNS",
    )
    hook: str = option(
        "auto",
        "where to count what comes in: " + ", ".join(HOOKS) + "; auto is native XDP on hardware"
        " and tc elsewhere",
        group=CAPTURE,
        metavar="HOOK",
        choices=HOOKS,
    )
    tc: str = option(
        "auto",
        "how to attach at tc: " + ", ".join(TC) + "; auto is tcx where the kernel has it",
        group=CAPTURE,
        metavar="HOW",
        choices=TC,
    )
    interval: float = option(
        1.0, "seconds between two reports of the flows", group=CAPTURE, metavar="SECONDS"
    )
    sample: int = option(
        1000, "report the headers of one packet in N; 0 for none", group=CAPTURE, metavar="N"
    )
    sample_first: str = option(
        "yes",
        "report the headers of each flow's first packet too: yes, no",
        group=CAPTURE,
        metavar="YES|NO",
        choices=("yes", "no"),
    )
    owners: str = option(
        "yes",
        "say which process, unit and container a flow belongs to: yes, no",
        group=CAPTURE,
        metavar="YES|NO",
        choices=("yes", "no"),
    )
    dns: str = option(
        "no",
        "report DNS messages, with the names that were asked for: yes, no",
        group=CAPTURE,
        metavar="YES|NO",
        choices=("yes", "no"),
    )
    dns_port: tuple[str, ...] = option(
        ("53",),
        "UDP and TCP port of DNS, such as 5353 for multicast DNS; repeatable",
        group=CAPTURE,
        metavar="PORT",
    )
    tls: str = option(
        "no",
        "report TLS ClientHellos, with the server's name in them, on any TCP port: yes, no",
        group=CAPTURE,
        metavar="YES|NO",
        choices=("yes", "no"),
    )

    tunnels: str = option(
        "inner",
        "which packet of a tunnel (VXLAN, GENEVE, GRE, IP in IP) rows tell of: "
        + ", ".join(TUNNELS)
        + "; inner names the outer addresses in columns of their own, both adds rows of the inner"
        " packets to those of the outer ones, which alone count",
        group=CAPTURE,
        metavar="WHICH",
        choices=TUNNELS,
    )
    vxlan_port: tuple[str, ...] = option(
        ("4789",), "UDP port that carries VXLAN; repeatable", group=CAPTURE, metavar="PORT"
    )
    sockets: str = option(
        "yes",
        "report TCP and UDP sockets with their processes: yes, no",
        group=CAPTURE,
        metavar="YES|NO",
        choices=("yes", "no"),
    )
    cgroup: str = option(
        "",
        "observe the sockets of processes in this cgroup (v2) only"
        " (default: the root of the hierarchy, so all)",
        group=CAPTURE,
        metavar="PATH",
    )

    never_drop: tuple[str, ...] = option(
        (),
        "network from which this node is managed, or HOST:PORT of a server that it needs, such as"
        " ClickHouse: no rule cuts it off; repeatable.  The brokers and the SSH sessions of the"
        " moment are found out",
        group=RULES,
        metavar="CIDR|HOST:PORT",
    )

    trusted_keys: str = option(
        "",
        "file of the keys whose rules for the whole cluster this node obeys, a name and a key a line"
        " (default: it obeys none)",
        group=RULES,
        metavar="FILE",
    )

    flow_slots: int = option(
        1 << 18,
        "flows that the kernel keeps, all CPUs together, at 144 bytes each; rounded up to a power"
        " of two a CPU",
        group=KERNEL,
        metavar="FLOWS",
    )
    max_interfaces: int = option(
        250,
        "interfaces for which there is room, at 512 bytes a CPU each; packets of further ones are"
        " counted as those of `unknown`",
        group=KERNEL,
        metavar="INTERFACES",
    )
    ring_bytes: int = option(
        1 << 22,
        "size of each event buffer; a power of two",
        group=KERNEL,
        metavar="BYTES",
    )
    buffer: str = option(
        "auto",
        "event buffer: " + ", ".join(BUFFERS) + "; auto is the ring buffer where the kernel has it",
        group=KERNEL,
        metavar="KIND",
        choices=BUFFERS,
    )

    spool: str = option(
        "/var/lib/hookline/spool",
        "folder in which rows wait until Kafka has them",
        group=SPOOL,
        metavar="DIR",
    )
    spool_bytes: int = option(
        1 << 30,
        "how much may wait there; beyond that the oldest rows are given up, and the ledger says so",
        group=SPOOL,
        metavar="BYTES",
    )
    spool_sync: float = option(
        1.0,
        "seconds after which what waits is brought onto the disk, to outlive a power failure;"
        " 0: never",
        group=SPOOL,
        metavar="SECONDS",
    )

    node: str = option(
        socket.gethostname(), "name of this node in every row", group=PROCESS, metavar="NAME"
    )
    name: str = option(
        "agent", "name of this agent among others on the node", group=PROCESS, metavar="NAME"
    )
    nice: int = option(
        10,
        "how far to give way to what else runs on the node, up to 19; 0: not at all.  Beside"
        " programs that want all of a CPU, 10 leaves the agent a tenth of it, and 19 a seventieth",
        group=PROCESS,
        metavar="NICE",
    )
    stop_timeout: float = option(
        10.0, "seconds to publish what is pending at the end", group=PROCESS, metavar="SECONDS"
    )
    on_stop: str = option(
        "keep",
        "what to do with the programs on SIGTERM: keep, detach; those that are kept count on, and"
        " the next agent goes on with them; SIGINT always detaches",
        group=PROCESS,
        metavar="WHAT",
        choices=ON_STOP,
    )
    metrics_listen: str = option(
        "", "serve Prometheus metrics here", group=PROCESS, metavar="HOST:PORT"
    )
    log_level: str = option(
        "info", "log " + ", ".join(LEVELS), group=PROCESS, metavar="LEVEL", choices=LEVELS
    )

    @property
    def spool_folder(self) -> Path:
        """Where this agent's own rows wait."""
        return Path(self.spool) / self.name

    @property
    def rules_file(self) -> Path:
        """Where this agent keeps its rules."""
        return self.spool_folder / "rules"

    @property
    def as_broker(self) -> Broker:
        """The brokers, as this agent reaches them."""
        return self.broker(f"hookline-agent-{self.node}")

    def __post_init__(self) -> None:
        for name in ("interval", "stop_timeout", "flow_slots", "ring_bytes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        if self.flow_slots > MAX_FLOW_SLOTS:
            raise ConfigError(
                f"flow_slots is {self.flow_slots}; the kernel takes at most {MAX_FLOW_SLOTS}"
            )
        if not 0 < self.max_interfaces <= MAX_INTERFACES:
            raise ConfigError(
                f"max_interfaces is {self.max_interfaces}; it must be 1 to {MAX_INTERFACES}"
            )
        never_dropped(self.never_drop)
        if self.trusted_keys and not Path(self.trusted_keys).is_file():
            raise ConfigError(f"trusted_keys is {self.trusted_keys}, which is no file")
        if self.spool_bytes < LEAST_SPOOL_BYTES:
            raise ConfigError(
                f"spool_bytes is {self.spool_bytes}; it must be at least {LEAST_SPOOL_BYTES}"
            )
        if not 0 <= self.spool_sync < inf:
            raise ConfigError(f"spool_sync is {self.spool_sync}; it must be 0 for never, or more")
        if not 0 <= self.nice <= MOST_NICE:
            raise ConfigError(f"nice is {self.nice}; it must be 0 to {MOST_NICE}")
        if self.sample < 0:
            raise ConfigError(f"sample is {self.sample}; it must be 0 for none, or more")
        if self.ring_bytes % _PAGE_BYTES or self.ring_bytes & (self.ring_bytes - 1):
            raise ConfigError(
                f"ring_bytes is {self.ring_bytes}; it must be a power of two, at least {_PAGE_BYTES}"
            )
        for name in ("vxlan_port", "dns_port"):
            for port in getattr(self, name):
                if not port.isdecimal() or not 0 < int(port) < 1 << 16:
                    raise ConfigError(f"{name} is {port!r}; it must be 1 to 65535")
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name is {self.name!r}; use letters, digits, - and _")
        if not self.node or len(self.node.encode()) > 255:
            raise ConfigError(f"node is {self.node!r}; it must have 1 to 255 bytes")
        if self.metrics_listen:
            host_and_port(self.metrics_listen, "metrics_listen")
        self.check_broker()
