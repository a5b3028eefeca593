# SPDX-License-Identifier: Apache-2.0
"""What every test may ask for."""

pytest_plugins = [
    "tests.lab.fixtures",
    "tests.services.broker",
    "tests.services.cluster",
    "tests.services.secure_broker",
]
