# SPDX-License-Identifier: Apache-2.0
"""The command that people type: it composes agent and consumer, and holds no logic of theirs."""
