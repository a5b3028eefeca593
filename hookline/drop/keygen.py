# SPDX-License-Identifier: Apache-2.0
"""`hookline drop keygen`: make a key that agents can be told to obey."""

import argparse
import os
from pathlib import Path

from hookline.drop.arguments import caller
from schemas.rules.rule import RuleError
from schemas.rules.signed import new_key, public_text

EPILOG = """\
examples:
  hookline drop keygen rules.pem >> trusted-keys
  hookline agent --trusted-keys trusted-keys

Keep the file secret: whoever has it can have every node that trusts it drop packets.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `keygen`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="where to put the private key")
    parser.add_argument(
        "--name", metavar="NAME", help="who has it, without spaces (default: who runs this)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the private key, and print the line that trusts it."""
    name = args.name or caller()
    if not name.isprintable() or "#" in name or len(name.split()) != 1:
        raise RuleError(f"{name!r} is no name of a key; write one word")
    pem, public = new_key()
    try:
        file = os.open(args.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise RuleError(f"{args.file} is there already; choose another name") from None
    except OSError as error:
        raise RuleError(f"cannot write {args.file}: {error.strerror}") from None
    with os.fdopen(file, "wb") as opened:
        opened.write(pem)
    print(f"{name} {public_text(public)}")
    return 0
