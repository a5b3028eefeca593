# SPDX-License-Identifier: Apache-2.0
"""Watch the stream of records and tell people what is wrong with the network."""
