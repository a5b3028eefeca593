# SPDX-License-Identifier: Apache-2.0
"""Statements that chance writes get no more out than those that somebody thought of."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.consumer.api.conftest import CANARY, Ask


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_string_literal_passes_and_comes_back_unchanged(ask: Ask, text: str):
    literal = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    reply = ask(f"SELECT {literal}", default_format="RawBLOB")

    assert (reply.status, reply.body.decode()) == (200, text)


@st.composite
def _disguised_reads(draw: st.DrawFn) -> str:
    """Statements that would read the canary, in random clothes; @ stands for its path."""
    gap = st.sampled_from([" ", "\n", "/**/", "/* file( */", " -- x\n", "\t", " /* ' */ "])
    scalar = f"{_spelled(draw, 'file')}{draw(gap)}({draw(gap)}'@'{draw(gap)})"
    table = f"{_spelled(draw, 'file')}{draw(gap)}('@',{draw(gap)}'LineAsString')"
    by_name = f"arrayMap({_spelled(draw, 'file')}, ['@'])"
    core = draw(st.sampled_from([f"SELECT {scalar} AS x", f"SELECT * FROM {table}",
                                 f"SELECT {by_name} AS x"]))  # fmt: skip
    wraps = [
        "SELECT * FROM ({})",
        "SELECT ({})",
        "WITH y AS ({}) SELECT * FROM y",
        "SELECT 1 UNION ALL ({})",
        "EXPLAIN {}",
        "DESCRIBE ({})",
        "SELECT 1 WHERE 1 IN ({})",
        "SELECT exists({})",
        "SELECT * FROM view({})",
        "{} SETTINGS max_threads = 1",
        "{} FORMAT RawBLOB",
        "{};",
        "SELECT arrayJoin([({})])",
    ]
    for wrap in draw(st.lists(st.sampled_from(wraps), max_size=3)):
        core = wrap.format(core)
    return draw(gap) + core


def _spelled(draw: st.DrawFn, word: str) -> str:
    quote = draw(st.sampled_from(["", "`", '"']))
    return f"{quote}{word}{quote}"


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(attack=_disguised_reads())
def test_no_disguise_reads_a_file(ask: Ask, canary: Path, attack: str):
    reply = ask(attack.replace("@", str(canary)))

    assert reply.status >= 400
    assert CANARY.encode() not in reply.body


_WORDS = [
    r"SELECT",
    r"FROM",
    r"WHERE",
    r"file",
    r"(",
    r")",
    r"'@'",
    r",",
    r"*",
    r"INTO",
    r"OUTFILE",
    r"APPLY",
    r"view",
    r"numbers",
    r"1",
    r"x",
    r"AS",
    r"WITH",
    r"IN",
    r"default",
    r".",
    r"`@`",
    r"system",
    r"one",
    r"DESCRIBE",
    r"TABLE",
    r"EXPLAIN",
    r"SHOW",
    r"TABLES",
    r"UNION",
    r"ALL",
    r"SETTINGS",
    r"FORMAT",
    r"TSV",
    r";",
    r"arrayMap",
    r"[",
    r"]",
    r"->",
    r"format",
    r"values",
    r"'x\'",
    r"/*",
    r"*/",
    r"--",
    r"`",
    r'"',
    r"{",
    r"}",
    r":",
    r"String",
    r"readonly",
    r"=",
    r"0",
]


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(words=st.lists(st.sampled_from(_WORDS), max_size=14), gap=st.sampled_from([" ", "", "\n"]))
def test_no_heap_of_words_reads_a_file(ask: Ask, canary: Path, words: list[str], gap: str):
    reply = ask("SELECT " + gap.join(words).replace("@", str(canary)))

    assert CANARY.encode() not in reply.body
    assert [path.name for path in canary.parent.iterdir()] == [canary.name]
