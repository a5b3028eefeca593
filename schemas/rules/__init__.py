# SPDX-License-Identifier: Apache-2.0
"""Rules about packets: what they say, what they mean, which one decides."""
