# SPDX-License-Identifier: Apache-2.0
"""What an event is: declared once here, derived everywhere else."""
