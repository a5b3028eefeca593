# SPDX-License-Identifier: Apache-2.0
"""Programs to be measured are loaded on all CPUs, also by a subject that keeps itself on one."""

import os
from contextlib import ExitStack, contextmanager

import pytest

from bench.programs import at_once

ALL = os.sched_getaffinity(0)


@contextmanager
def loading(ended, name):
    try:
        yield os.sched_getaffinity(0)
    finally:
        ended.append(name)


@pytest.fixture
def on_one_cpu():
    os.sched_setaffinity(0, {min(ALL)})
    yield
    os.sched_setaffinity(0, ALL)


@pytest.mark.usefixtures("on_one_cpu")
def test_what_is_loaded_at_once_has_all_cpus_and_is_ended_with_the_stack():
    ended = []
    with ExitStack() as stack:
        found = at_once(stack, {name: loading(ended, name) for name in "abc"})

        assert found == dict.fromkeys("abc", ALL)
        assert os.sched_getaffinity(0) == {min(ALL)}
        assert not ended

    assert sorted(ended) == ["a", "b", "c"]


@contextmanager
def failing():
    raise OSError
    yield


def test_where_one_fails_those_that_had_begun_are_ended():
    ended = []
    with pytest.raises(OSError), ExitStack() as stack:
        at_once(stack, {"a": loading(ended, "a"), "b": failing(), "c": loading(ended, "c")})

    assert "a" in ended
