# SPDX-License-Identifier: Apache-2.0
"""Attach the loaded programs to interfaces: which hook, which mechanism, whose place.

Ingress is accounted at native XDP on hardware, and at tc on virtual links, where native XDP
would cost the sender its segmentation offload.  Egress is always tc.  tc means tcx, or a clsact
filter where the kernel has no tcx.  What is attached already stays, and at tc we go before it: a
program's verdict may end the chain, and hide the packet from whatever comes after.
"""

import errno
from dataclasses import dataclass, field

from agent import libbpf, netlink
from agent.interfaces import read_counters
from agent.kernel import Loaded
from agent.plan import Attached, LoadError, Pins, Plan, Target

_XDP_MODES = {"xdp": libbpf.XDP_FLAGS_DRV_MODE, "xdp_generic": libbpf.XDP_FLAGS_SKB_MODE}
_TCX = {"ingress": libbpf.BPF_TCX_INGRESS, "egress": libbpf.BPF_TCX_EGRESS}


@dataclass(slots=True)
class Attachment:
    """Attaches one plan's programs, and remembers what to say about it."""

    plan: Plan
    loaded: Loaded
    pins: Pins
    warnings: list[str] = field(default_factory=list)
    clsact: dict[int, bool] = field(default_factory=dict)  # see Report

    def attach(self, target: Target) -> Attached:
        """Attach both directions of one interface.

        Raises:
            LoadError: the hook that was asked for is taken or unsupported.
        """
        counters = read_counters().get(target.name)
        if counters is None:
            raise LoadError(f"interface {target.name} has gone while the programs were loaded")
        return Attached(
            ifindex=target.ifindex,
            counters=counters,
            ingress_hook=self._attach_ingress(target),
            egress_hook=self._attach_tc(target, "egress"),
        )

    def _attach_ingress(self, target: Target) -> str:
        match self.plan.hook:
            case "xdp":
                return self._attach_xdp(target, "xdp")
            case "xdp-generic":
                return self._attach_xdp(target, "xdp_generic")
            case "auto" if target.is_hardware:
                return self._attach_xdp_if_possible(target)
            case _:
                return self._attach_tc(target, "ingress")

    def _attach_xdp_if_possible(self, target: Target) -> str:
        try:
            return self._attach_xdp(target, "xdp")
        except LoadError as error:
            self.warnings.append(f"{error}; observing {target.name} at tc ingress instead")
            return self._attach_tc(target, "ingress")

    def _attach_xdp(self, target: Target, hook: str) -> str:
        program_fd = self.loaded.programs["hook_xdp"]
        try:
            fd = libbpf.create_link(
                program_fd, target.ifindex, libbpf.BPF_XDP, flags=_XDP_MODES[hook]
            )
        except OSError as error:
            raise LoadError(_explain_xdp(target, hook, error)) from None
        libbpf.pin(fd, self.pins.link(target.ifindex, "ingress"))
        return hook

    def _attach_tc(self, target: Target, direction: str) -> str:
        if self.plan.tc in ("auto", "tcx"):
            try:
                return self._attach_tcx(target, direction)
            except OSError as error:
                if self.plan.tc == "tcx" or error.errno != errno.EINVAL:
                    raise LoadError(
                        f"cannot attach at tcx {direction} of {target.name}: {error.strerror}"
                    ) from None
        return self._attach_clsact(target, direction)

    def _attach_tcx(self, target: Target, direction: str) -> str:
        program_fd = self.loaded.programs[f"hook_{direction}"]
        fd = libbpf.create_link(
            program_fd, target.ifindex, _TCX[direction], flags=libbpf.BPF_F_BEFORE
        )
        libbpf.pin(fd, self.pins.link(target.ifindex, direction))
        return "tcx"

    def _attach_clsact(self, target: Target, direction: str) -> str:
        program_fd = self.loaded.programs[f"hook_{direction}"]
        try:
            was_created = netlink.attach(
                program_fd, target.ifindex, direction, owner=self.pins.owner
            )
        except netlink.RefusedError as error:
            raise LoadError(
                f"cannot attach at tc {direction} of {target.name}: {error.strerror}"
            ) from None
        self.clsact[target.ifindex] = was_created or self.clsact.get(target.ifindex, False)
        return "clsact"


def _explain_xdp(target: Target, hook: str, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        program_id = netlink.xdp_program_id(target.ifindex)
        return (
            f"{target.name} has an XDP program already (id {program_id}), which stays;"
            " use --hook tc, or detach it"
        )
    if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE) and hook == "xdp":
        return (
            f"{target.name} does not support native XDP ({error.strerror});"
            " use --hook tc, or --hook xdp-generic"
        )
    return f"cannot attach XDP to {target.name}: {error.strerror}"
