# SPDX-License-Identifier: Apache-2.0
"""What was learned outlives the process, and nothing else is taken for it."""

import stat

import numpy as np
import pytest

from consumer.alerts import keys
from consumer.alerts.detectors.beacon import Beacon
from consumer.alerts.detectors.beacon import Options as BeaconOptions
from consumer.alerts.detectors.drop_off import DropOff
from consumer.alerts.detectors.drop_off import Options as DropOptions
from consumer.alerts.detectors.new_peer import NewPeer, Options
from consumer.alerts.learned import FILE, keep, learned, restore
from tests.consumer.alerts.scenes import show
from tests.consumer.alerts.test_peers import C2, HOUR, calls, connects
from tests.consumer.alerts.test_quality import books


@pytest.fixture(autouse=True)
def own_secret(monkeypatch):
    """The secret of the process is that of other tests too."""
    monkeypatch.setattr(keys.HASH, "seed", keys.HASH.seed)


def a_restart(tmp_path, before, after):
    keep(tmp_path, learned([before]))
    keys.HASH.seed = np.uint64(12345)
    restore(tmp_path, [after])
    return after


def test_a_program_that_was_learned_is_known_after_a_restart(tmp_path):
    before = NewPeer(Options(learning=HOUR))
    show(before, connects("198.51.100.1", time=0), now=0)

    after = a_restart(tmp_path, before, NewPeer(Options(learning=HOUR)))

    assert not show(after, connects("198.51.100.7", time=HOUR), now=HOUR)
    assert show(after, connects(C2, time=HOUR), now=HOUR)


def test_a_pair_that_was_regular_before_is_no_beacon_after_a_restart(tmp_path):
    before = Beacon(BeaconOptions(learning=HOUR))
    show(before, calls(0), now=0)

    after = a_restart(tmp_path, before, Beacon(BeaconOptions(learning=HOUR)))

    for at in HOUR + np.arange(0, 1800, 60.0):
        assert not show(after, calls(at), now=at + 1)
    assert np.isfinite(after._began)


def test_a_baseline_goes_on_after_a_restart(tmp_path):
    before = DropOff(DropOptions(history=300))
    for second in range(400):
        assert not show(before, books(second, 1000), now=second + 1.0)

    after = a_restart(tmp_path, before, DropOff(DropOptions(history=300)))

    assert any(show(after, books(second, 2), now=second + 1.0) for second in range(400, 420))


def test_the_file_holds_the_secret_so_only_its_owner_may_read_it(tmp_path):
    keep(tmp_path, learned([]))

    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_what_does_not_fit_or_cannot_be_read_is_learned_anew(tmp_path, caplog):
    before = DropOff(DropOptions())
    before._rates._steps = np.zeros(7)
    a_restart(tmp_path, before, DropOff(DropOptions()))
    assert "does not fit" in caplog.text

    for content in (b"", b"PK\3\4 and then nothing", b"text"):
        (tmp_path / FILE).write_bytes(content)
        restore(tmp_path, [DropOff(DropOptions())])
    assert caplog.text.count("cannot be read") == 3
