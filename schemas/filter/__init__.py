# SPDX-License-Identifier: Apache-2.0
"""The language in which people say which flows or packets they mean."""
