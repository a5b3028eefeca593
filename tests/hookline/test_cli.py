# SPDX-License-Identifier: Apache-2.0
"""What people type wrong is told in one line, with exit code 2."""

import pytest

from hookline.cli import main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["flows", "--port", "http"], "hookline flows: argument --port: 'http' is no port"),
        (["flows", "--since", "yesterday"], "hookline flows: argument --since: 'yesterday' is no"),
        (["up", "--for", "0"], "hookline up: argument --for: '0' is no time"),
        (["up", "--http-port", "99999999"], "hookline up: argument --http-port: '99999999' is no"),
        (["up", "--hook", "foo"], "hookline up: argument --hook: invalid choice: 'foo'"),
        (["no-such-command"], "hookline: argument COMMAND: invalid choice: 'no-such-command'"),
    ],
)
def test_bad_usage_is_one_line(words, told, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)

    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert said.startswith(told)
    assert said.count("\n") == 1
