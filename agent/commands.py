# SPDX-License-Identifier: Apache-2.0
"""Names of processes as the kernel keeps them: 16 bytes, filled up with zeros."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.tuples import mixed
from agent.vocabulary import Ids, Vocabulary
from schemas.wire import Names

COMMAND_BYTES = 16
_MOST = 1 << 14


class Commands:
    """Gives each command a number, and turns numbers into the column `command`."""

    def __init__(self) -> None:
        self._vocabulary = Vocabulary(("command",), _MOST)

    def ids_of(self, commands: NDArray[Any]) -> Ids:
        """The number of each of *commands*, 16 bytes each; 0 for none."""
        words = np.ascontiguousarray(commands).view(np.uint64).reshape(-1, 2)
        ids = mixed(words)
        ids[words[:, 0] | words[:, 1] == 0] = 0
        if len(unknown := self._vocabulary.unknown(ids)):
            _, where = np.unique(ids, return_index=True)
            where = where[np.isin(ids[where], unknown)]
            texts = words[where].view(f"S{COMMAND_BYTES}")[:, 0].tolist()
            self._vocabulary.put(
                {
                    id_: (text.decode(errors="surrogateescape"),)
                    for id_, text in zip(ids[where].tolist(), texts, strict=True)
                }
            )
        return ids

    def column(self, ids: Ids) -> Names:
        """The commands that *ids* stand for."""
        return self._vocabulary.columns(ids)["command"]
