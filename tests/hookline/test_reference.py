# SPDX-License-Identifier: Apache-2.0
from hookline.reference import PAGES, main


def test_the_committed_pages_say_what_the_options_say():
    assert main(["--check"]) == 0


def test_a_stale_page_fails_with_the_command_that_mends_it(tmp_path, capsys):
    main([], tmp_path)
    (tmp_path / "agent.md").write_text("old")

    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err == "agent.md is stale; run: make generate\n"
    assert (PAGES / "consumer.md").read_text() == (tmp_path / "consumer.md").read_text()
