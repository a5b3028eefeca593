# SPDX-License-Identifier: Apache-2.0
"""The consumer: Kafka records in, ClickHouse rows out."""
