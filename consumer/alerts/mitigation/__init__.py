# SPDX-License-Identifier: Apache-2.0
"""From alerts to rules: which proposals become rules, how far they may go, when they are taken back."""
