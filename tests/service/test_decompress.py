# SPDX-License-Identifier: Apache-2.0
"""What is compressed comes out as it went in, or not at all."""

import zlib

import pytest
from aiokafka import codec
from hypothesis import given
from hypothesis import strategies as st

from service.decompress import DamagedError, TooLargeError, decompress

COMPRESS = {
    "deflate": zlib.compress,
    "gzip": codec.gzip_encode,
    "lz4": codec.lz4_encode,
    "snappy": codec.snappy_encode,
    "zstd": codec.zstd_encode,
}
for_each = pytest.mark.parametrize("encoding", COMPRESS)


@for_each
@given(content=st.binary(min_size=1) | st.integers(1, 3 << 20).map(bytes))
def test_what_may_be_as_long_as_it_is_comes_out_whole(encoding, content):
    compressed = COMPRESS[encoding](content)

    assert decompress(encoding, compressed, len(content)) == content
    assert decompress(encoding, memoryview(compressed), len(content) + 1) == content
    with pytest.raises(TooLargeError):
        decompress(encoding, compressed, len(content) - 1)


def test_snappy_without_blocks_is_read_too():
    compressed = codec.snappy_encode(b"flows" * 100, xerial_compatible=False)

    assert decompress("snappy", bytes(compressed), 500) == b"flows" * 100


@pytest.mark.parametrize("encoding", ["deflate", "gzip", "lz4", "snappy"])
def test_what_was_cut_off_is_damaged(encoding):
    compressed = COMPRESS[encoding](bytes(range(256)) * 100)

    for length in (0, 1, 8, len(compressed) // 2, len(compressed) - 1):
        with pytest.raises(DamagedError):
            decompress(encoding, compressed[:length], 1 << 20)


@for_each
def test_what_is_none_is_damaged(encoding):
    with pytest.raises(DamagedError):
        decompress(encoding, b"SELECT 1 FROM flows" * 9, 1 << 20)


def test_a_block_of_snappy_that_says_it_is_huge_is_not_believed():
    # Four gigabytes in five bytes.
    with pytest.raises(TooLargeError):
        decompress("snappy", b"\xff\xff\xff\xff\x0f\x00a", 1 << 20)


def test_several_frames_count_together():
    frames = codec.zstd_encode(bytes(1 << 20)) * 4

    assert len(decompress("zstd", frames, 4 << 20)) == 4 << 20
    with pytest.raises(TooLargeError):
        decompress("zstd", frames, (4 << 20) - 1)
