# SPDX-License-Identifier: Apache-2.0
"""Send small UDP packets as fast as one CPU can: `python -m bench.flood ADDRESS PORT FLOWS`.

Each line on standard input is `PACKETS [PACKETS_A_SECOND [PACKETS_AT_ONCE]]`; the answer is how many
nanoseconds of CPU one packet took, with everything the kernel did for it on this CPU up to the
receiver's socket.
"""

import ctypes
import os
import socket
import sys
import time

PAYLOAD = bytes(22)
BURST = 32


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    # struct mmsghdr on 64-bit Linux.
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_bytes", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_bytes", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


def main() -> None:
    address, port, flows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(flows)]
    for one in sockets:
        one.connect((address, port))
    for line in sys.stdin:
        print(send([one.fileno() for one in sockets], *map(int, line.split())), flush=True)


def send(fds: list[int], packets: int, rate: int = 0, burst: int = BURST) -> float:
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    vector = _Vector(PAYLOAD, len(PAYLOAD))
    messages = (_Message * BURST)(
        *[_Message(vectors=ctypes.pointer(vector), vector_count=1)] * BURST
    )
    sent, first = 0, time.monotonic()
    began = time.process_time_ns()
    while sent < packets:
        for fd in fds:
            sent += max(0, sendmmsg(fd, messages, burst, 0))
            if rate:
                time.sleep(max(0.0, first + sent / rate - time.monotonic()))
    return (time.process_time_ns() - began) / sent


if __name__ == "__main__":
    main()
