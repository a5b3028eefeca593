# SPDX-License-Identifier: Apache-2.0
"""Tell what kind of file system a path is on."""

import ctypes
import os
import struct
from pathlib import Path

# include/uapi/linux/magic.h
BPF = 0xCAFE4A11
CGROUP2 = 0x63677270


def kind_of(path: Path) -> int:
    """The magic number of the file system that *path* is on.

    Raises:
        OSError: there is no such path.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)  # struct statfs begins with f_type
    if libc.statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    (kind,) = struct.unpack_from("q", buffer.raw)
    return int(kind)
