# SPDX-License-Identifier: Apache-2.0
"""A file of options is a configuration, or is refused in one line, whatever is in it."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.config import Config as AgentConfig
from consumer.config import Config as ConsumerConfig
from service.options import ConfigError, build, is_secret
from service.secrets import exposed

OPTIONS = [
    (table, cls, field.name)
    for table, cls in (("agent", AgentConfig), ("consumer", ConsumerConfig))
    for field in dataclasses.fields(cls)
    if not is_secret(field)
]
# As TOML writes them.
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(lambda value: f"{value!r}"),
    st.sampled_from(["true", "1e999", "-inf", "1979-05-27", "[]", "{}", "[[1]]", '""']),
    st.text(max_size=20).map(lambda text: '"' + "".join(map(_escaped, text)) + '"'),
    st.lists(st.sampled_from(["a", "*", "", "\\u0000", "\\n"]), max_size=3).map(
        lambda texts: "[" + ", ".join(f'"{text}"' for text in texts) + "]"
    ),
)


def _escaped(character: str) -> str:
    return f"\\U{ord(character):08x}" if not 0xD800 <= ord(character) < 0xE000 else "?"


def refusal(cls: type, table: str, content: bytes, path: Path) -> str:
    """Why it is refused; nothing if it is not."""
    path.write_bytes(content)
    try:
        exposed(build(cls, table=table, flags={}, environ={}, file=path))
    except ConfigError as error:
        return str(error)
    return ""


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(OPTIONS), VALUES)
@example(("agent", AgentConfig, "sample"), "inf")
@example(("agent", AgentConfig, "kafka_password_file"), '"a\\u0000b"')
@example(("consumer", ConsumerConfig, "kafka_ca_file"), '"a\\nb"')
def test_any_value_of_an_option_is_taken_or_refused_in_one_line(tmp_path_factory, option, value):
    table, cls, name = option
    path = tmp_path_factory.getbasetemp() / "options.toml"

    assert len(refusal(cls, table, f"[{table}]\n{name} = {value}".encode(), path).splitlines()) <= 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"\xff", "no TOML"),
        (b"agent = 1", "write [agent]"),
        (b"[agent]\ninterval = nan", "give it a finite number"),
        (b"[agent]\ninterval = 1e999", "give it a finite number"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path, content, why):
    said = refusal(AgentConfig, "agent", content, tmp_path / "hookline.toml")

    assert "hookline.toml" in said
    assert why in said
