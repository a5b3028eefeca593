# SPDX-License-Identifier: Apache-2.0
"""Captures as the kernel programs' second source of packets."""
