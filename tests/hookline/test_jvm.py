# SPDX-License-Identifier: Apache-2.0
"""What is missing for the embedded broker is said in one line that names the remedy."""

from pathlib import Path

import pytest

from hookline.jvm import JavaError, class_path, find_java, java_version


def a_jdk(folder: Path, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\n")
    java.chmod(0o755)
    (folder / "release").write_text(f'IMPLEMENTOR="Debian"\nJAVA_VERSION="{version}"\n')
    return java


def test_a_machine_without_java_is_told_to_run_setup(tmp_path):
    with pytest.raises(JavaError, match="^java not found: run make setup$"):
        find_java(str(tmp_path))


def test_a_java_that_is_too_old_is_named_with_its_version(tmp_path):
    java = a_jdk(tmp_path, "11.0.22")

    with pytest.raises(JavaError, match=f"^{java} is Java 11, Kafka needs 17: run make setup$"):
        find_java(str(java.parent))


def test_the_oldest_java_that_will_do_is_taken(tmp_path):
    java = a_jdk(tmp_path, "17.0.1")

    assert find_java(str(java.parent)) == str(java)


def test_a_java_that_does_not_tell_its_version_is_tried(tmp_path):
    java = a_jdk(tmp_path, "17.0.1")
    (tmp_path / "release").unlink()

    assert find_java(str(java.parent)) == str(java)


def test_the_version_of_java_8_is_not_1(tmp_path):
    assert java_version(a_jdk(tmp_path, "1.8.0_392")) == 8


def test_missing_jars_are_named_with_their_folder(tmp_path):
    with pytest.raises(JavaError, match=f"^no Kafka jars in {tmp_path}: run make setup$"):
        class_path(tmp_path)


def test_jars_are_named_in_one_order(tmp_path):
    for name in ("slf4j.jar", "kafka.jar", "kafka-clients.jar"):
        (tmp_path / name).touch()

    assert class_path(tmp_path).split(":") == [
        f"{tmp_path}/kafka-clients.jar",
        f"{tmp_path}/kafka.jar",
        f"{tmp_path}/slf4j.jar",
    ]
