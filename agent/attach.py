# SPDX-License-Identifier: Apache-2.0
"""Attach the loaded programs to interfaces: which hook, which mechanism, whose place.

Ingress is accounted at native XDP on hardware, and at tc on virtual links, where native XDP
would cost the sender its segmentation offload.  Egress is always tc.  tc means tcx, or a clsact
filter where the kernel has no tcx.  What is attached already stays: beside somebody else's XDP
program we go to tc, and there before all others, since a program's verdict may end the chain and
hide the packet from whatever comes after.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent import libbpf
from agent.interfaces import Interface
from agent.plan import LoadError, Pins
from agent.register import Entry
from agent.variants import Variant
from schemas.ledger import HOOKS

_XDP_MODES = {"xdp": libbpf.XDP_FLAGS_DRV_MODE, "xdp_generic": libbpf.XDP_FLAGS_SKB_MODE}
_TCX = {"ingress": libbpf.BPF_TCX_INGRESS, "egress": libbpf.BPF_TCX_EGRESS}
NAMES_OF_HOOKS = {number: name for name, number in HOOKS.items()}
_TAKEN = (errno.EBUSY, errno.EEXIST)
# What drivers say to a program that they cannot take, or not with this configuration.
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE)


@dataclass(slots=True)
class Attached:
    """Where one interface's programs are; hooks are named as in the ledger."""

    ingress_hook: str
    egress_hook: str
    pins: list[Path]
    why: str = ""  # this hook for ingress, for a human
    is_qdisc_ours: bool = False
    is_jumbo: bool = False  # the XDP program is the one that takes frames of several buffers


@dataclass(slots=True)
class Attachment:
    """Attaches the programs of one network namespace, in which it must be called."""

    hook: str  # auto, xdp, xdp-generic, tc
    tc: str  # auto, tcx, clsact
    pins: Pins
    variant: Variant
    netns: str = ""  # sets pins of several namespaces apart
    warnings: list[str] = field(default_factory=list)
    _xdp_ids: set[int] = field(init=False)
    _egress_id: int = field(init=False)

    def __post_init__(self) -> None:
        self._use(self.variant)

    def _use(self, variant: Variant) -> None:
        self.variant = variant
        self._xdp_ids = {libbpf.program_id(fd) for fd in variant.xdp_programs}
        self._egress_id = libbpf.program_id(variant.programs["hook_egress"])

    def swap(self, variant: Variant, attached: Iterable[tuple[int, Attached]]) -> None:
        """Put other programs in the places of ours, by index of interface, and at what comes.

        The kernel replaces the program of a link, or of a filter, in one step: a packet meets the
        one or the other.  Programs that count in the same maps thereby miss no packet.

        Raises:
            OSError: the kernel refuses one; those before it are replaced.
            LoadError: it refuses to load one for XDP.
        """
        for ifindex, one in attached:
            programs = {**variant.programs}
            if one.ingress_hook in _XDP_MODES:
                programs["hook_xdp"] = variant.load_jumbo() if one.is_jumbo else variant.load_xdp()
            for path in one.pins:
                _swap_link(path, programs)
            for direction, hook in (("ingress", one.ingress_hook), ("egress", one.egress_hook)):
                if hook == "clsact":
                    self._swap_filter(ifindex, direction, variant)
        self._use(variant)

    def _swap_filter(self, ifindex: int, direction: str, variant: Variant) -> None:
        from agent import netlink  # noqa: PLC0415 - pyroute2 takes 18 MB, and few need it

        program_fd = variant.programs[f"hook_{direction}"]
        netlink.replace(program_fd, ifindex, direction, owner=self.pins.owner)

    def attach(self, one: Interface) -> Attached:
        """Attach both directions of one interface; what succeeded is undone where one fails.

        Raises:
            LoadError: the hook that was asked for is unsupported, or the interface has gone.
        """
        attached = Attached("", "", [])
        try:
            attached.ingress_hook = self._attach_ingress(one, attached)
            attached.egress_hook = self._attach_tc(one, "egress", attached)
        except LoadError:
            self.detach(one.ifindex, attached)
            raise
        return attached

    def inherit(self, entry: Entry) -> Attached | None:
        """Put our programs in the places of those of an agent that is no more.

        None where it had not come to its end with attaching, or its interface has gone: then
        nothing of it is left attached.
        """
        ingress_hook, egress_hook = (NAMES_OF_HOOKS.get(hook, "") for hook in entry.hooks)
        attached = Attached(
            ingress_hook,
            egress_hook,
            [path for path in self._links_of(entry.ifindex) if path.exists()],
            why="taken over from the agent before",
            is_qdisc_ours=entry.is_qdisc_ours,
            is_jumbo=entry.is_jumbo,
        )
        if self._is_whole(entry.ifindex, attached):
            try:
                self.swap(self.variant, [(entry.ifindex, attached)])
            except OSError:
                pass  # it went just now, or the kernel wants them attached anew
            else:
                return attached
        self.detach(entry.ifindex, attached)
        if not all(entry.hooks):
            # How far it had come is not known, and filters have no pins.
            self._remove_filters(entry.ifindex)
        return None

    def _remove_filters(self, ifindex: int) -> None:
        from agent import netlink  # noqa: PLC0415 - as above

        for direction in _TCX:
            netlink.detach(ifindex, direction, owner=self.pins.owner)

    def _links_of(self, ifindex: int) -> list[Path]:
        return [self.pins.link(ifindex, direction, netns=self.netns) for direction in _TCX]

    def _is_whole(self, ifindex: int, attached: Attached) -> bool:
        """Whether programs are where they should be, on the interface that has this index now."""
        hooks = {"ingress": attached.ingress_hook, "egress": attached.egress_hook}
        for direction, hook in hooks.items():
            path = self.pins.link(ifindex, direction, netns=self.netns)
            if hook == "clsact":
                from agent import netlink  # noqa: PLC0415 - as above

                if not netlink.has_filter(ifindex, direction, owner=self.pins.owner):
                    return False
            elif not hook or path not in attached.pins or not _is_on(path, ifindex):
                return False
        return True

    def foreign_xdp(self, one: Interface) -> int:
        """The id of an XDP program of somebody else's, 0 for none."""
        return next((program for program in one.xdp_programs if program not in self._xdp_ids), 0)

    def is_attached(self, ifindex: int, attached: Attached) -> bool:
        """Whether it is still the same interface that has this index."""
        if attached.egress_hook == "clsact":
            from agent import netlink  # noqa: PLC0415 - pyroute2 takes 18 MB, and few need it

            return netlink.has_filter(ifindex, "egress", owner=self.pins.owner)
        try:
            programs = libbpf.attached_programs(ifindex, libbpf.BPF_TCX_EGRESS)
        except OSError:  # ENODEV: there is none with this index
            return False
        return self._egress_id in programs

    def detach(self, ifindex: int, attached: Attached) -> None:
        """Detach what was attached; that the interface has gone is fine."""
        for path in attached.pins:
            with suppress(FileNotFoundError):
                libbpf.detach_link(path)
        if "clsact" in (attached.ingress_hook, attached.egress_hook) or attached.is_qdisc_ours:
            self._remove_filters(ifindex)
        if attached.is_qdisc_ours:
            from agent import netlink  # noqa: PLC0415 - as above

            netlink.remove_clsact_if_unused(ifindex)

    def _attach_ingress(self, one: Interface, attached: Attached) -> str:
        attached.why = _why(self.hook, one)
        if self.hook == "tc" or (self.hook == "auto" and not one.is_hardware):
            return self._attach_tc(one, "ingress", attached)
        if foreign := self.foreign_xdp(one):
            return self._attach_beside(one, f"id {foreign}", attached)
        hook = "xdp_generic" if self.hook == "xdp-generic" else "xdp"
        try:
            self._attach_xdp(one, hook, attached)
        except OSError as error:
            if error.errno in _TAKEN:  # since we looked
                return self._attach_beside(one, "just attached", attached)
            if self.hook != "auto":
                raise LoadError(_explain_xdp(one, hook, error)) from None
            reason = attached.why = _explain_xdp(one, hook, error)
            self.warnings.append(f"{reason}; observing {one.full_name} at tc ingress instead")
            return self._attach_tc(one, "ingress", attached)
        return hook

    def _attach_beside(self, one: Interface, which: str, attached: Attached) -> str:
        attached.why = f"somebody else's XDP program is there ({which})"
        self.warnings.append(
            f"{one.full_name} has an XDP program already ({which}), which stays; observing"
            f" {one.full_name} at tc ingress, where what that program drops is not seen"
        )
        return self._attach_tc(one, "ingress", attached)

    def _attach_xdp(self, one: Interface, hook: str, attached: Attached) -> None:
        program_fd = self.variant.load_xdp()
        self._xdp_ids.add(libbpf.program_id(program_fd))
        try:
            fd = self._link_xdp(one, hook, program_fd)
        except OSError as error:
            if hook != "xdp" or error.errno not in _UNSUPPORTED:
                raise
            # Its frames may be too long for one buffer, which is refused likewise.
            fd = self._link_xdp(one, hook, self._jumbo(error))
            attached.is_jumbo = True
        self._pin(fd, one, "ingress", attached)

    def _link_xdp(self, one: Interface, hook: str, program_fd: int) -> int:
        flags = _XDP_MODES[hook]
        return libbpf.create_link(program_fd, one.ifindex, libbpf.BPF_XDP, flags=flags)

    def _jumbo(self, refusal: OSError) -> int:
        try:
            program_fd = self.variant.load_jumbo()
        except LoadError:
            raise refusal from None
        self._xdp_ids.add(libbpf.program_id(program_fd))
        return program_fd

    def _attach_tc(self, one: Interface, direction: str, attached: Attached) -> str:
        if self.tc in ("auto", "tcx"):
            try:
                return self._attach_tcx(one, direction, attached)
            except OSError as error:
                if self.tc == "tcx" or error.errno != errno.EINVAL:
                    raise LoadError(
                        f"cannot attach at tcx {direction} of {one.full_name}: {error.strerror}"
                    ) from None
        return self._attach_clsact(one, direction, attached)

    def _attach_tcx(self, one: Interface, direction: str, attached: Attached) -> str:
        program_fd = self.variant.programs[f"hook_{direction}"]
        fd = libbpf.create_link(program_fd, one.ifindex, _TCX[direction], flags=libbpf.BPF_F_BEFORE)
        self._pin(fd, one, direction, attached)
        return "tcx"

    def _attach_clsact(self, one: Interface, direction: str, attached: Attached) -> str:
        from agent import netlink  # noqa: PLC0415 - as above

        program_fd = self.variant.programs[f"hook_{direction}"]
        # An agent of our name that was killed may have left its own.
        netlink.detach(one.ifindex, direction, owner=self.pins.owner)
        try:
            was_created = netlink.attach(program_fd, one.ifindex, direction, owner=self.pins.owner)
        except netlink.RefusedError as error:
            raise LoadError(
                f"cannot attach at tc {direction} of {one.full_name}: {error.strerror}"
            ) from None
        attached.is_qdisc_ours |= was_created
        return "clsact"

    def _pin(self, fd: int, one: Interface, direction: str, attached: Attached) -> None:
        path = self.pins.link(one.ifindex, direction, netns=self.netns)
        try:
            libbpf.pin(fd, path)
        finally:
            os.close(fd)
        attached.pins.append(path)


def _is_on(link: Path, ifindex: int) -> bool:
    with libbpf.opened(link) as fd:
        return libbpf.link_target(fd) == ifindex


def _swap_link(path: Path, programs: Mapping[str, int]) -> None:
    direction, _, _ = path.name.partition("-")
    with libbpf.opened(path) as link_fd:
        is_xdp = libbpf.link_type(link_fd) == libbpf.LINK_XDP
        program_fd = programs["hook_xdp" if is_xdp else f"hook_{direction}"]
        try:
            libbpf.update_link(link_fd, program_fd)
        except OSError as error:
            # Its interface has gone, and nothing runs there any more.
            if error.errno != errno.ENOLINK:
                raise


def _why(hook: str, one: Interface) -> str:
    if hook != "auto":
        return f"asked for by --hook {hook}"
    if one.is_hardware:
        return "hardware, where native XDP costs least"
    return "a virtual link, where native XDP would cost the sender its segmentation offload"


def _explain_xdp(one: Interface, hook: str, error: OSError) -> str:
    if error.errno in _UNSUPPORTED and hook == "xdp":
        return (
            f"{one.full_name} does not support native XDP ({error.strerror});"
            " use --hook tc, or --hook xdp-generic"
        )
    return f"cannot attach XDP to {one.full_name}: {error.strerror}"
