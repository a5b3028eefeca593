# SPDX-License-Identifier: Apache-2.0
"""Where alerts go besides Kafka and ClickHouse: Alertmanager, webhooks, chat."""
