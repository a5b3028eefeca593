# SPDX-License-Identifier: Apache-2.0
from schemas.generate import ROOT, main, stale_files, write_files


def test_the_committed_files_are_what_the_declarations_say():
    assert stale_files(ROOT) == []


def test_what_was_just_written_is_not_stale(tmp_path):
    write_files(tmp_path)

    assert stale_files(tmp_path) == []
    assert main(["--check"], root=tmp_path) == 0


def test_a_file_edited_by_hand_is_named_with_the_command_that_mends_it(tmp_path, capsys):
    write_files(tmp_path)
    (tmp_path / "bpf/events.h").write_text("/* mine */")

    assert main(["--check"], root=tmp_path) == 1
    assert capsys.readouterr().err == "bpf/events.h is stale; run: make generate\n"


def test_a_missing_file_is_stale(tmp_path):
    write_files(tmp_path)
    (tmp_path / "consumer/tables.sql").unlink()

    assert stale_files(tmp_path) == ["consumer/tables.sql"]
