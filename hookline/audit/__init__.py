# SPDX-License-Identifier: Apache-2.0
"""`hookline audit`: the books of every packet, from the interface to the table, side by side."""
