# SPDX-License-Identifier: Apache-2.0
"""The C compiler, not our generator, says where a member lies."""

import shutil
import subprocess

import pytest

from schemas.c_header import c_header
from schemas.catalogue import BITS, CONSTANTS, ENUMS, LAYOUTS
from schemas.dtype import dtype_from_layout

COMPILERS = [name for name in ("clang", "gcc") if shutil.which(name)]
# The header is compiled as if it were a program, where this pragma means nothing.
HEADER = c_header(LAYOUTS, ENUMS, BITS, CONSTANTS).replace("#pragma once\n", "")


def compile_c(compiler: str, source: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [compiler, "-x", "c", "-std=gnu11", *flags, "-"],
        input=f"#include <linux/types.h>\n{source}",
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_c_compiler_is_here():
    assert COMPILERS, "install clang or gcc; make dev does"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_header_compiles_and_no_struct_has_a_hole(compiler):
    compiled = compile_c(compiler, HEADER, "-fsyntax-only", "-Wall", "-Wpadded", "-Werror")

    assert compiled.returncode == 0, compiled.stderr


@pytest.mark.skipif("clang" not in COMPILERS, reason="needs clang, which make dev installs")
def test_the_header_compiles_for_the_kernel_side():
    compiled = compile_c(
        "clang", HEADER, "-target", "bpf", "-fsyntax-only", "-I/usr/include/x86_64-linux-gnu"
    )

    assert compiled.returncode == 0, compiled.stderr


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_member_changed_in_c_alone_stops_the_compiler(compiler):
    changed = HEADER.replace("__u32 packets;", "__u64 packets;")

    assert changed != HEADER
    compiled = compile_c(compiler, changed, "-fsyntax-only")
    assert compiled.returncode != 0
    assert "static assertion failed" in compiled.stderr.lower().replace(
        "static_assert", "static assertion"
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_numpy_reads_every_member_where_c_puts_it(compiler, tmp_path):
    prints = [
        f'printf("{layout.name}.{field.name} %zu\\n", offsetof(struct {layout.name}, {field.name}));'
        for layout in LAYOUTS
        for field, _ in layout.placed()
        if field.name
    ]
    prints += [
        f'printf("{layout.name} %zu\\n", sizeof(struct {layout.name}));' for layout in LAYOUTS
    ]
    program = (
        f"#include <stddef.h>\n#include <stdio.h>\n{HEADER}\n"
        f"int main(void) {{ {' '.join(prints)} return 0; }}\n"
    )
    compiled = compile_c(compiler, program, "-o", str(tmp_path / "offsets"))
    assert compiled.returncode == 0, compiled.stderr

    printed = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True)

    c = {name: int(at) for name, at in map(str.split, printed.stdout.splitlines())}
    python = {layout.name: dtype_from_layout(layout).itemsize for layout in LAYOUTS}
    for layout in LAYOUTS:
        fields = dtype_from_layout(layout).fields or {}
        python |= {f"{layout.name}.{name}": found[1] for name, found in fields.items()}
    assert python == c
