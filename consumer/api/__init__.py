# SPDX-License-Identifier: Apache-2.0
"""ClickHouse's HTTP interface over the embedded engine, for reading the history only."""
