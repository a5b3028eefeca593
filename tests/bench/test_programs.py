# SPDX-License-Identifier: Apache-2.0
"""Programs to be measured are loaded on all CPUs, also by a subject that keeps itself on one."""

import os
from contextlib import ExitStack, contextmanager

import pytest

from bench.programs import at_once

ALL = os.sched_getaffinity(0)


@contextmanager
def loading(ended, name):
    yield os.sched_getaffinity(0)
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
