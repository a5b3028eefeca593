# SPDX-License-Identifier: Apache-2.0
"""Make the loader's plan from what was configured and what this machine is."""

import logging
from pathlib import Path

from agent import newmaps
from agent.clock import tick_ns
from agent.config import Config
from agent.plan import MAX_POINTS, Plan, root_of
from agent.socket_hooks import chosen_cgroup

log = logging.getLogger(__name__)

# Two, and two more that wait until what an interface that went had counted is reported.
_POINTS_OF_ONE = 4
_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")


def plan_of(config: Config) -> Plan:
    """What the loader is to do."""
    cpus = _possible_cpus()
    return Plan(
        pin_path=str(root_of(config.name)),
        buffer=_buffer(config.buffer),
        cpus=cpus,
        slots_per_cpu=_power_of_two(max(config.flow_slots // cpus, 4)),
        hook_points=min(MAX_POINTS, _power_of_two(_POINTS_OF_ONE * config.max_interfaces)),
        ring_bytes=config.ring_bytes,
        sample_one_in=config.sample,
        sample_first=config.sample_first == "yes",
        tunnels=config.tunnels,
        vxlan_ports=tuple(int(port) for port in config.vxlan_port),
        cgroup=_cgroup(config),
        socket_ticks=max(round(config.interval * 1e9 / tick_ns()), 1),
        dns_ports=tuple(map(int, config.dns_port)) if config.dns == "yes" else (),
        tls=config.tls == "yes",
        xdp_at_once=config.hook in ("xdp", "xdp-generic"),
    )


def _cgroup(config: Config) -> str:
    if config.sockets == "no":
        return ""
    if cgroup := chosen_cgroup(config.cgroup):
        return str(cgroup)
    log.warning(
        "sockets are not observed: no cgroup v2 hierarchy is mounted;"
        " mount one: mount -t cgroup2 none /sys/fs/cgroup, or say --sockets no"
    )
    return ""


def _buffer(wanted: str) -> str:
    """The ring buffer, or the perf buffer where the kernel lacks the former."""
    if wanted != "auto":
        return wanted
    return "ring" if newmaps.has_ring_buffers() else "perf"


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _possible_cpus() -> int:
    """How many CPUs the kernel may ever number: one more than the highest."""
    return int(_POSSIBLE_CPUS.read_text().strip().rpartition("-")[2].rpartition(",")[2]) + 1
