# SPDX-License-Identifier: Apache-2.0
"""What the commands agree on: where the history is, and how to tell that `up` serves it."""

from pathlib import Path

DEFAULT_DATA = Path("/var/lib/hookline")
# {"pid": …, "http": "http://127.0.0.1:8123", "kafka": "127.0.0.1:9092"}, below the data directory while `up` runs.
RUNNING_FILE = "up.json"
