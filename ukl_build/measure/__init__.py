# SPDX-License-Identifier: Apache-2.0
"""Counts the guest's instructions for each request; docs/measuring.md says what that tells."""
