# SPDX-License-Identifier: Apache-2.0
"""What a page tells people to type, the programs accept."""

import argparse
import re
import shlex
from collections.abc import Iterator

import pytest

from hookline.cli import SERVICES, SUBCOMMANDS, parser_for
from tests.consumer.engine import Engine
from tests.docs.pages import PAGES, ROOT, blocks, commands, name

TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
REFERENCE = ROOT / "docs/reference/commands.md"


def all_commands(program: str) -> list[list[str]]:
    return [words for page in PAGES for words in commands(page) if words[0] == program]


def a_parser_accepts(words: list[str]) -> bool:
    """Whether *words*, which follow `hookline`, are a command line; a name alone is one."""
    if words and words[0] in SERVICES:
        # Their parsers are their own, and reject a wrong flag before they read the file.
        options = REFERENCE.with_name(f"{words[0]}.md").read_text()
        known = set(re.findall(r"`(--[a-z-]+)`", options))
        known |= set(re.findall(rf"`(--[a-z-]+).*\| (?:all|{words[0]}) \|", REFERENCE.read_text()))
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        return given <= known | {"--help"}
    if words in ([], ["COMMAND", "--help"]) or words == [words[0]]:
        return not words or words[0] in {"COMMAND", *(name for name, *_ in SUBCOMMANDS)}
    parser_for(words).parse_args(words)
    return True


def test_the_pages_show_commands():
    assert len(all_commands("hookline")) > 20
    assert len(all_commands("make")) > 10


@pytest.mark.parametrize("words", all_commands("hookline"), ids=" ".join)
def test_hookline_accepts_what_the_pages_show(words):
    assert a_parser_accepts(words[1:])


@pytest.mark.parametrize("words", all_commands("make"), ids=" ".join)
def test_make_has_the_targets_that_the_pages_show(words):
    arguments = [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")]
    targets = {word for word in words[1:] if "=" not in word}

    assert targets <= TARGETS
    for target in targets & {"up", "demo"}:
        for text in arguments:
            assert a_parser_accepts([target, *shlex.split(text)])


def test_a_wrong_flag_would_be_noticed():
    with pytest.raises(SystemExit):
        a_parser_accepts(["flows", "--sinse", "1h"])
    assert not a_parser_accepts(["agent", "--interfaces", "eth0"])


@pytest.mark.parametrize("subcommand", [name for name, *_ in SUBCOMMANDS])
def test_the_reference_has_every_flag_of_a_command(subcommand):
    text = REFERENCE.read_text()
    section = text.partition(f"## hookline {subcommand}\n")[2].partition("\n## ")[0]
    # These refer to the table of `query` for the rest.
    shared = text.partition("## hookline query\n")[2].partition("\n## ")[0]
    described = set(re.findall(r"`(--[a-z-]+)", section))
    if subcommand in {"flows", "top"}:
        described |= set(re.findall(r"`(--[a-z-]+)", shared))
        described.remove("--completeness")

    parser = parser_for([subcommand])._subparsers._group_actions[0].choices[subcommand]
    offered = set(flags(parser))
    offered = {flag for flag in offered if flag.startswith("--")}

    assert described
    assert offered - {"--help"} == described - {"--help"}


def flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every flag of a parser and of its actions, such as `dead-letter list`."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                yield from flags(nested)


def test_the_reference_has_every_command_and_target():
    text = REFERENCE.read_text()

    assert all(f"## hookline {name}\n" in text for name, *_ in SUBCOMMANDS)
    assert all(f"`make {target}`" in text for target in public_targets())


def public_targets() -> set[str]:
    documented = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {target for target in documented if target != "help"}


@pytest.mark.services
def test_the_engine_answers_every_question_that_the_pages_ask(tmp_path):
    asked = {
        words[-1]
        for words in all_commands("hookline")
        if words[1:2] == ["query"] and words[-1] not in ("query", "-")
    }

    asked |= {sql for page in PAGES for sql in blocks(page, "sql") if sql.startswith("SELECT")}

    assert len(asked) > 5
    with Engine(tmp_path / "clickhouse") as engine:
        engine.migrate()
        engine.execute("USE hookline")
        for sql in asked:
            engine.rows(sql)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_compile(page):
    for block in blocks(page, "python"):
        compile(block, name(page), "exec")
