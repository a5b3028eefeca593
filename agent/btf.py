# SPDX-License-Identifier: Apache-2.0
"""Describe a map's keys and values to the kernel, where it insists on a description.

It does for storage of sockets: keys must be numbers of 32 bits, and values as large as it was said.
What values are made of, nothing needs to know.
"""

import struct

# struct btf_header and btf_type, include/uapi/linux/btf.h.
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_ARRAY = struct.Struct("=III")
_MAGIC, _VERSION = 0xEB9F, 1
_KIND_INT, _KIND_ARRAY = 1, 3
_SIGNED = 1
_NAMES = b"\0int\0char\0"

KEY_TYPE, _BYTE_TYPE, VALUE_TYPE = 1, 2, 3  # types are numbered as they come


def key_and_value(value_bytes: int) -> bytes:
    """The types of an `int` and of a value of that size, as KEY_TYPE and VALUE_TYPE."""
    types = (
        _integer(_NAMES.index(b"int"), bits=32, encoding=_SIGNED)
        + _integer(_NAMES.index(b"char"), bits=8, encoding=0)
        + _TYPE.pack(0, _KIND_ARRAY << 24, 0)
        + _ARRAY.pack(_BYTE_TYPE, KEY_TYPE, value_bytes)
    )
    header = _HEADER.pack(
        *(_MAGIC, _VERSION, 0, _HEADER.size),
        *(0, len(types)),
        *(len(types), len(_NAMES)),
    )
    return header + types + _NAMES


def _integer(name_at: int, *, bits: int, encoding: int) -> bytes:
    return _TYPE.pack(name_at, _KIND_INT << 24, bits // 8) + struct.pack(
        "=I", encoding << 24 | bits
    )
