# SPDX-License-Identifier: Apache-2.0
"""`python -m hookline`: the same as the command `hookline`."""

import sys

from hookline.cli import main

sys.exit(main())
