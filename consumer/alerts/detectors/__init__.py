# SPDX-License-Identifier: Apache-2.0
"""One detector a file: what it looks for, its options, and what it remembers."""
