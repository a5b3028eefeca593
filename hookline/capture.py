# SPDX-License-Identifier: Apache-2.0
"""`hookline capture`: whole packets that a filter means, for Wireshark."""

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from hookline.arguments import number_from, seconds_in
from hookline.recording import Recording
from hookline.remote import Order, RemoteError, ordered
from schemas.capture import CAPTURE_BYTES
from schemas.filter.grammar import parse
from schemas.filter.words import FilterError

# Ethernet, two tags, a tunnel, IPv6 and TCP with all their options.
HEADERS_SNAPLEN = 192
_DEFAULT_BUFFER_MB = 16
_POLL_SECONDS = 0.01
# Hook points that an interface has given back go to another after two intervals at the earliest.
_ASK_SECONDS = 1.0
# Between two looks at the clock, the signals and the agent.
_FRAMES_AT_ONCE = 4096
_FILE_BUFFER_BYTES = 1 << 20
EPILOG = """\
examples:
  hookline capture -w web.pcapng host 10.0.0.7 and tcp port 443
  hookline capture -w dns.pcapng --for 1m 'udp port 53 and not host 10.0.0.2'
  hookline capture -w - --interface 'veth*' icmp | tshark -r -
  hookline capture -w heads.pcapng --headers --count 1000
"""


@dataclass(slots=True)
class Limits:
    """When a capture ends by itself."""

    packets: int | None
    seconds: int | None
    started: float = field(default_factory=time.monotonic)

    def left(self, taken: int) -> int:
        """How many packets may still come in one go."""
        return min(_FRAMES_AT_ONCE, sys.maxsize if self.packets is None else self.packets - taken)

    def are_reached(self, taken: int) -> bool:
        if self.packets is not None and taken >= self.packets:
            return True
        return self.seconds is not None and time.monotonic() - self.started >= self.seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hookline capture`."""
    parser.epilog = EPILOG
    parser.add_argument(
        "filter",
        nargs="*",
        metavar="FILTER",
        help="which packets, much as tcpdump says it (default: all)",
    )
    parser.add_argument(
        "-w",
        "--write",
        required=True,
        metavar="FILE",
        help="pcapng file to write; - is standard output",
    )
    parser.add_argument(
        "--interface",
        action="append",
        default=[],
        metavar="GLOB",
        help="only there, with * and ?; repeatable (default: all that the agent observes)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--snaplen",
        type=number_from(64, CAPTURE_BYTES),
        default=CAPTURE_BYTES,
        metavar="BYTES",
        help="how much of each packet (default: %(default)s, so all of it)",
    )
    length.add_argument(
        "--headers",
        dest="snaplen",
        action="store_const",
        const=HEADERS_SNAPLEN,
        help=f"the first {HEADERS_SNAPLEN} bytes, enough for headers",
    )
    parser.add_argument(
        "--count", type=number_from(1, 1 << 62), metavar="N", help="stop after so many packets"
    )
    parser.add_argument(
        "--for",
        dest="seconds",
        type=seconds_in,
        metavar="TIME",
        help="stop after this time, for example 30s, 5m (default: run until Ctrl-C)",
    )
    parser.add_argument(
        "--buffer",
        type=_buffer_bytes,
        default=_buffer_bytes(str(_DEFAULT_BUFFER_MB)),
        metavar="MB",
        help="room for packets in the kernel; a power of two, at most 1024"
        f" (default: {_DEFAULT_BUFFER_MB})",
    )
    parser.add_argument(
        "--agent", metavar="NAME", help="whose packets, if several agents run on this machine"
    )


def _buffer_bytes(text: str) -> int:
    megabytes = number_from(1, 1024)(text)
    if megabytes & (megabytes - 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no power of two: write 16, 64 or 256")
    return megabytes << 20


def run(args: argparse.Namespace) -> int:
    """Capture until told to stop; 1 if it cannot be done, 2 if it makes no sense."""
    args.filter = " ".join(args.filter)
    try:
        parse(args.filter, for_packets=True)
    except FilterError as error:
        return _fail(str(error), code=2)
    if args.write == "-" and sys.stdout.isatty():
        return _fail("a capture is binary: send it to a program, as in -w - | tshark -r -", code=2)
    order = {
        "do": "capture",
        "filter": args.filter,
        "interfaces": args.interface,
        "snaplen": args.snaplen,
        "ring_bytes": args.buffer,
    }
    try:
        with _told_to_stop() as stop, ordered(args.agent, order) as given:
            return _record(given, args, stop)
    except RemoteError as error:
        return _fail(str(error), code=error.code)
    except BrokenPipeError:
        # The reader has seen enough; the interpreter must not flush what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"cannot write {args.write}: {error.strerror}", code=1)


def _fail(reason: str, *, code: int) -> int:
    print(f"hookline capture: {reason}", file=sys.stderr)
    return code


@contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """A list that holds something once a signal has asked us to end."""
    told: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda got, _: told.append(got)) for number in signals}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdout.buffer
        return
    with Path(name).open("wb", buffering=_FILE_BUFFER_BYTES) as file:
        yield file


def _record(order: Order, args: argparse.Namespace, stop: list[int]) -> int:
    with _opened(args.write) as out:
        recording = Recording(
            order, out, ring_bytes=args.buffer, snaplen=args.snaplen, chosen_by=args.filter
        )
        print(f"capturing on {', '.join(recording.interfaces)}; Ctrl-C ends it", file=sys.stderr)
        limits = Limits(args.count, args.seconds)
        code = _follow(recording, order, limits, stop)
        while left := limits.left(recording.packets):
            if not recording.take(left):
                break
        counted = recording.close()
    _summarize(recording.packets, sum(counted.lost))
    return code


def _follow(recording: Recording, order: Order, limits: Limits, stop: list[int]) -> int:
    """Write what comes until it is enough and the programs count only; the exit code."""
    asked = time.monotonic()
    try:
        while not stop and not limits.are_reached(recording.packets):
            if time.monotonic() - asked >= _ASK_SECONDS:
                asked = time.monotonic()
                recording.look_around()
            if recording.take(limits.left(recording.packets)):
                continue
            # Told nothing that we asked for, we hear nothing: only the agent's end.
            if select.select([order.peer], [], [], _POLL_SECONDS)[0]:
                recording.end()
        recording.end()
    except RemoteError as error:
        return _fail(str(error), code=error.code)
    return 0


def _summarize(packets: int, lost: int) -> None:
    advice = "; --buffer makes more room" if lost else ""
    print(f"{packets} packets captured, {lost} lost in the kernel{advice}", file=sys.stderr)
