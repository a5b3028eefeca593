# SPDX-License-Identifier: Apache-2.0
"""Compile a source with bcc: the one module that imports it.

bcc makes the maps of a source as it compiles.  Those that are pinned it would open by their numbers,
for which the kernel wants CAP_SYS_ADMIN.  So it pins new ones in a folder aside, which go with this
process, and programs are loaded without it.
"""

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.mapshapes import ALL, CODE, NOBODY, MapShape
from agent.plan import LoadError
from agent.sources import SOURCE_PATH, Source, particulars, source_text

_LIBRARIES = re.compile(r"/lib(bcc|LLVM|clang)[^/]*$")


@dataclass(frozen=True, slots=True)
class Module:
    """What bcc has compiled; descriptors live as long as *bcc*."""

    source: Source
    bcc: Any
    maps: dict[str, int]
    aside: Path

    def code(self, name: str) -> bytes:
        """The instructions of a program, whether it is loaded or not."""
        code: bytes = self.bcc.dump_func(name)
        return code

    def shapes(self) -> tuple[MapShape, ...]:
        """What its maps are, and who shares each: its pin aside says so."""
        from bcc.libbcc import lib  # noqa: PLC0415 - as below

        module = self.bcc.module
        return tuple(
            MapShape(
                name,
                lib.bpf_table_type_id(module, number),
                lib.bpf_table_key_size_id(module, number),
                lib.bpf_table_leaf_size_id(module, number),
                lib.bpf_table_max_entries_id(module, number),
                lib.bpf_table_flags_id(module, number),
                self._sharing(name),
            )
            for number, name in enumerate(self.maps)
        )

    def _sharing(self, name: str) -> str:
        # As PRIVATE of bpf/share.bpf.h names them.
        if (self.aside / f"{name}~").exists():
            return CODE
        return ALL if (self.aside / name).exists() else NOBODY


def compiled(
    source: Source, options: Sequence[str], *, aside: Path, seeds: Sequence[int]
) -> Module:
    """Compile one source; its maps are made, and pinned in the folder *aside*, which is there.

    Raises:
        LoadError: the compiler refuses, or the kernel a map.
    """
    # bcc reads it at import and at compile time, and else looks for the kernel's headers.
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE_PATH / "headers")
    try:
        from bcc import BPF  # noqa: PLC0415 - only the loader process should map LLVM
    except ImportError as error:
        raise LoadError(f"bcc is missing ({error}); install python3-bpfcc") from None
    with _complaining():
        module = BPF(
            text=source_text(source.file).encode(), cflags=[*options, *particulars(aside, seeds)]
        )
    return Module(source, module, _map_fds(module), aside)


def compiler_files() -> list[str]:
    """The files of the libraries that this process has compiled with."""
    mapped = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in mapped if "/" in line}
    return sorted(path for path in paths if _LIBRARIES.search(path))


def _map_fds(module: Any) -> dict[str, int]:
    """Every map of a module by name; bcc itself lists only those that somebody asked for."""
    from bcc.libbcc import lib  # noqa: PLC0415 - as above

    lib.bpf_table_name.restype = ctypes.c_char_p
    return {
        lib.bpf_table_name(module.module, number).decode(): lib.bpf_table_fd_id(
            module.module, number
        )
        for number in range(lib.bpf_num_tables(module.module))
    }


@contextmanager
def _complaining() -> Iterator[None]:
    """Have what bcc and LLVM complain about raised as LoadError."""
    with _quiet_stderr() as complaints:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
            raise LoadError(_last_line(complaints) or str(error)) from None


@contextmanager
def _quiet_stderr() -> Iterator[Path]:
    """Send what bcc and LLVM write to file descriptor 2 into memory, and say where.

    No file: LLVM may end the process, and in a container the next one has the same number.
    """
    saved = os.dup(2)
    log = os.memfd_create("compile.log")
    os.dup2(log, 2)
    try:
        yield Path(f"/proc/self/fd/{log}")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(log)


def _last_line(log: Path) -> str:
    """The verifier's or compiler's last telling line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    telling = [line for line in lines if line and not line.startswith("processed ")]
    return telling[-1] if telling else ""
