# SPDX-License-Identifier: Apache-2.0
"""`python -m consumer`."""

import sys

from consumer.cli import main

sys.exit(main())
