# SPDX-License-Identifier: Apache-2.0
"""`python -m consumer.alerts`."""

import sys

from consumer.alerts.cli import main

sys.exit(main())
