# SPDX-License-Identifier: Apache-2.0
"""Find the Java and the jars of the embedded broker, and say how they are started.

The flags trade peak speed for a quick start and little memory: one broker on one machine moves
what one machine's flows need.  Classes come from an archive that setup made (see
`hookline.class_archive`); without it, or with one from another Java, the broker only starts
slower.
"""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JARS = ROOT / ".kafka" / "libs"
ARCHIVE = ROOT / ".kafka" / "classes.jsa"

OLDEST_JAVA = 17  # Kafka 4 brokers are compiled for it

FLAGS = (
    # Holds four records of the largest size in flight beside what the broker itself needs.
    "-Xmx256m",
    "-Xms64m",
    # Measured on 2 cores from spawn to first answer: default 2.9 s and 5 s of CPU, with these two
    # 2.0 s and 2.5 s, with the class archive 0.9 s and 1.3 s; 150 MB resident instead of 190.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    # A broker out of memory is restarted by who watches it; one that limps on is not noticed.
    "-XX:+ExitOnOutOfMemoryError",
    # No mapped statistics file in /tmp, which a killed JVM would leave behind.
    "-XX:-UsePerfData",
    # NIO keeps the largest buffer each thread ever needed; large records would pin theirs.
    "-Djdk.nio.maxCachedBufferSize=1048576",
    # What the broker leaves on disk is in the directory where it runs.
    "-XX:ErrorFile=crash.log",
    "-Djava.io.tmpdir=tmp",
    "-Djava.util.logging.config.file=logging.properties",
)


class JavaError(Exception):
    """The embedded broker cannot be started here; the text is one line and names the remedy."""


def java_command(*archive_flags: str) -> list[str]:
    """Build the command line of a broker, to be run in the directory that holds its files.

    Raises: JavaError when Java or the jars are not there.
    """
    return [
        # The kernel ends the JVM with its parent, however that dies.  A forked Python that called
        # prctl itself could deadlock on a lock that another thread held at the fork.
        *("setpriv", "--pdeathsig", "KILL", "--"),
        find_java(),
        *FLAGS,
        *(archive_flags or from_archive()),
        *("-cp", class_path()),
        "kafka.Kafka",
        "server.properties",
    ]


def from_archive() -> list[str]:
    if not ARCHIVE.exists():
        return []
    # An archive of another Java is refused with a warning that nobody needs.
    return [f"-XX:SharedArchiveFile={ARCHIVE}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]


def find_java(search_path: str | None = None) -> str:
    """Return the path of a Java that can run the broker; *search_path* defaults to PATH.

    Raises: JavaError when there is none or when it is too old.
    """
    java = shutil.which("java", path=search_path)
    if java is None:
        raise JavaError("java not found: run make setup")
    version = java_version(Path(java).resolve())
    if version is not None and version < OLDEST_JAVA:
        raise JavaError(f"{java} is Java {version}, Kafka needs {OLDEST_JAVA}: run make setup")
    return java


def java_version(java: Path) -> int | None:
    """Read the major version from the file that every JDK carries; None when it is not there.

    Asking `java -version` would cost a tenth of a second at every start.
    """
    try:
        release = (java.parents[1] / "release").read_text()
    except OSError:
        return None
    found = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', release, re.MULTILINE)
    return int(found[1]) if found else None


def class_path(jars: Path = JARS) -> str:
    """Name every jar, sorted: the class archive is valid for exactly one order.

    Raises: JavaError when the jars are not there.
    """
    paths = sorted(str(jar) for jar in jars.glob("*.jar"))
    if not paths:
        raise JavaError(f"no Kafka jars in {jars}: run make setup")
    return ":".join(paths)
