# SPDX-License-Identifier: Apache-2.0
"""See the package docstring of ukl_build; docs/design.md draws the way of the data."""
