# SPDX-License-Identifier: Apache-2.0
"""Make the archive of classes that halves the broker's start: `python -m hookline.class_archive`.

Setup calls it once for each Java.  It starts a broker in a temporary directory, lets it answer,
and has the JVM write down at its exit what it had loaded and verified.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from hookline.jvm import ARCHIVE, JavaError
from hookline.kafka import Kafka, KafkaError

DUMP_DEADLINE_S = 120.0  # some three seconds on an idle machine


async def make_archive(archive: Path) -> None:
    """Write *archive*, whole or not at all."""
    unfinished = archive.with_suffix(".new")
    flags = (f"-XX:ArchiveClassesAtExit={unfinished}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off")
    with tempfile.TemporaryDirectory(prefix="hookline-kafka-") as directory:
        kafka = Kafka(Path(directory), archive_flags=flags)
        await kafka.start()
        await kafka.stop(DUMP_DEADLINE_S)
    unfinished.replace(archive)


def main() -> int:
    try:
        asyncio.run(make_archive(ARCHIVE))
    except (JavaError, KafkaError) as error:
        print(f"hookline: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
