# SPDX-License-Identifier: Apache-2.0
"""The simulation of many nodes tells the truth about what is stored."""

from dataclasses import replace

import pytest

from bench.backend import a_backend
from bench.simulation import Books, Level, compare, freshness, run

pytestmark = [pytest.mark.services, pytest.mark.asyncio(loop_scope="function")]

LEVEL = Level(20, 0.5, 4)


async def test_every_row_that_nodes_make_is_stored_once_and_its_age_is_known(tmp_path):
    async with a_backend(
        tmp_path, partitions=4, consumers=1, flags=("--max-age", "0.2")
    ) as backend:
        seen = await run(backend, LEVEL)

        assert compare(backend, seen) == Books(0, 0, 0)
        # Five kinds an interval, without what came before all were connected.
        assert seen.records == 20 * 4 * 5
        assert all(age > 0 for age in freshness(backend, seen))

        missing = [
            [node, run_, kinds | {"flow": [*kinds["flow"], 7]}] for node, run_, kinds in seen.made
        ]
        assert compare(backend, replace(seen, made=missing)) == Books(20 * 7, 0, 0)
        halved = [[*one[:2], {"ledger": [2] * 5}] for one in seen.made[:1]]
        assert compare(backend, replace(seen, made=halved)) == Books(0, 5 * 2, 0)
