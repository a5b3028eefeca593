# SPDX-License-Identifier: Apache-2.0
"""The pages that people read, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_SEPARATORS = {"&&", "||", "|", ";"}
_OURS = ("hookline", "make", "python -m agent", "python -m consumer")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in these languages."""
    return [text for language, text in _FENCE.findall(page.read_text()) if language in languages]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", page.read_text())


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of ours that a page shows, in a block or in a sentence, as its words."""
    for block in blocks(page, "sh"):
        yield from _ours(block)
    for block in blocks(page, "console"):
        typed = [line[2:] for line in block.splitlines() if line.startswith("# ")]
        yield from _ours("\n".join(typed))
    for text in _INLINE.findall(prose(page)):
        if text.startswith(_OURS):
            yield from _ours(text)


def _ours(script: str) -> Iterator[list[str]]:
    for line in _logical_lines(script):
        words: list[str] = []
        for word in [*_words(line), ";"]:
            if word not in _SEPARATORS:
                words.append(word)
                continue
            if command := _normal(words):
                yield command
            words = []


def _logical_lines(script: str) -> Iterator[str]:
    """Lines, joined where a quotation or a backslash goes on."""
    pending = ""
    for line in script.splitlines():
        pending += line
        try:
            shlex.split(pending, comments=True)
        except ValueError:
            pending += "\n"
            continue
        yield pending
        pending = ""
    assert not pending, f"a quotation does not end: {pending}"


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    return list(lexer)


def _normal(words: list[str]) -> list[str]:
    """A command of ours without what stands around it; empty where it is none."""
    if ">" in words:
        words = words[: words.index(">")]
    while words and re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
        words = words[1:]
    if words and (program := Path(words[0]).name) in ("hookline", "make"):
        return [program, *words[1:]]
    if len(words) > 2 and Path(words[0]).name == "python" and words[1] == "-m":
        return ["hookline", *words[2:]] if words[2] in ("agent", "consumer") else []
    return []
