# SPDX-License-Identifier: Apache-2.0
"""One agent a node: from packets in the kernel to batches in Kafka."""

import os

# As it is imported, numpy starts a thread for each further CPU, for algebra that nobody does here;
# one that cannot be told to give up its privileges.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
