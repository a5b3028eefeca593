# SPDX-License-Identifier: Apache-2.0
"""Rules in the kernel: their tables, the agent's record of them, and what they have counted."""
