# SPDX-License-Identifier: Apache-2.0
"""`hookline dead-letter`: see what the consumer could not use, and send it again."""
