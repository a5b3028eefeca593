# SPDX-License-Identifier: Apache-2.0
import numpy as np

from agent.keys import Hashing
from tests.schemas.batches import text_column


def test_keys_differ_where_any_word_or_letter_does_and_not_by_case():
    hashing = Hashing()
    names = hashing.of_names(
        text_column([b"a.example", b"A.eXample", b"b.example", b"a.exampl", b"", b"elpmaxe.a"])
    )
    one, same, *others = names.tolist()

    assert one == same
    assert len({one, *others}) == 5
    addresses = np.arange(256, dtype=np.uint64) << np.uint64(56)
    ports = np.arange(256, dtype=np.uint16)
    keys = [hashing.keys((addresses, np.roll(addresses, shift), ports)) for shift in range(64)]
    assert len(np.unique(np.concatenate(keys))) == 256 * 64
