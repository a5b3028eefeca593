# SPDX-License-Identifier: Apache-2.0
"""One agent a node: from packets in the kernel to batches in Kafka."""
