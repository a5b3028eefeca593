# SPDX-License-Identifier: Apache-2.0
"""`hookline drop`: rules that drop, limit or pass packets, and what they would do."""
