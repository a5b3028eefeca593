# SPDX-License-Identifier: Apache-2.0
"""Three hosts on one machine, the traffic between them, and what Hookline found of it."""
