# SPDX-License-Identifier: Apache-2.0
"""What `hookline doctor` looks at; each check is a function that returns results."""
