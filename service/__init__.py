# SPDX-License-Identifier: Apache-2.0
"""What the agent and the consumer share as processes: options, Kafka's address, log lines."""
