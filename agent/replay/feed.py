# SPDX-License-Identifier: Apache-2.0
"""Feed packets to a kernel program: a test run for each, with a context that stands for the wire.

What the context's fields mean is in bpf/replay.bpf.h.  All of it is prepared in arrays, so that
what is left to do for a packet is one call.
"""

import ctypes

import numpy as np
from numpy.typing import NDArray

from agent import libbpf
from agent.replay.links import AS_IT_IS, ETHERNET_BYTES, LEAST_BYTES
from agent.replay.timeline import Timeline

# A packet makes events of its own length and a little more, so that RING_BYTES hold them all.
MOST_PACKETS = 512
RING_BYTES = 1 << 22
# A test run's packet must fit in a page, with room before and behind it that differs between
# kernels.  What lies beyond is not read: no headers, and no names, are that far in.
MOST_FED_BYTES = 3584

# struct __sk_buff, include/uapi/linux/bpf.h: the part of it that a test run may set, and needs.
_CONTEXT = np.dtype(
    {
        "names": ["mark", "priority", "link_bytes", "tstamp"],
        "formats": ["<u4", "<u4", "<u4", "<u8"],
        "offsets": [8, 32, 48, 152],
        "itemsize": 168,
    }
)


class Feeder:
    """Runs the program of *program_fd* on packets, in their order."""

    def __init__(self, program_fd: int) -> None:
        self._program_fd = program_fd
        self._contexts = np.zeros(MOST_PACKETS, _CONTEXT)
        self._runs = np.zeros(MOST_PACKETS, libbpf.TEST_RUN)
        self._runs["sz"] = libbpf.TEST_RUN.itemsize
        self._runs["repeat"] = 1
        self._runs["ctx_size_in"] = _CONTEXT.itemsize
        places = np.arange(MOST_PACKETS, dtype=np.uint64) * np.uint64(_CONTEXT.itemsize)
        self._runs["ctx_in"] = np.uint64(self._contexts.ctypes.data) + places
        # Where packets get their Ethernet header; one has bytes behind it, of the other all is 0.
        self._frame = np.zeros(MOST_FED_BYTES, np.uint8)
        self._blank = np.zeros(max(LEAST_BYTES.values()), np.uint8)

    def feed(self, packets: Timeline) -> list[int]:
        """Feed at most MOST_PACKETS; returns the numbers of those that the kernel refused."""
        count = len(packets)
        context, runs = self._contexts[:count], self._runs[:count]
        context["mark"] = packets.point
        context["priority"] = packets.length
        context["link_bytes"] = packets.link_bytes
        context["tstamp"] = packets.time_ns.astype(np.uint64)
        runs["data_in"] = packets.address
        runs["data_size_in"] = np.minimum(packets.fed_bytes, MOST_FED_BYTES)
        is_framed = packets.ethertype != AS_IT_IS
        if not is_framed.any():
            return libbpf.run_program_on_each(self._program_fd, runs)
        return self._feed_framed(packets, runs, is_framed)

    def _feed_framed(
        self, packets: Timeline, runs: NDArray[np.void], is_framed: NDArray[np.bool_]
    ) -> list[int]:
        payload = np.minimum(packets.fed_bytes, MOST_FED_BYTES - ETHERNET_BYTES)
        least = np.full(len(packets), ETHERNET_BYTES)
        for ethertype, needed in LEAST_BYTES.items():
            least[packets.ethertype == ethertype] = needed
        place = np.where(payload > 0, self._frame.ctypes.data, self._blank.ctypes.data)
        runs["data_in"][is_framed] = place[is_framed]
        runs["data_size_in"][is_framed] = np.maximum(payload + ETHERNET_BYTES, least)[is_framed]
        headers = np.zeros((len(packets), ETHERNET_BYTES), np.uint8)
        headers[:, 6:12] = packets.source
        headers[:, 12] = packets.ethertype >> 8 & 0xFF
        headers[:, 13] = packets.ethertype & 0xFF
        header_at = (headers.ctypes.data + ETHERNET_BYTES * np.arange(len(packets))).tolist()
        copies = list(
            zip(
                is_framed.tolist(),
                place.tolist(),
                packets.address.tolist(),
                payload.tolist(),
                strict=True,
            )
        )

        def put_together(number: int) -> None:
            is_needed, to, payload_at, payload_bytes = copies[number]
            if is_needed:
                ctypes.memmove(to, header_at[number], ETHERNET_BYTES)
                ctypes.memmove(to + ETHERNET_BYTES, payload_at, payload_bytes)

        return libbpf.run_program_on_each(self._program_fd, runs, put_together)
