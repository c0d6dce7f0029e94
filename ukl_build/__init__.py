# SPDX-License-Identifier: Apache-2.0
"""Builds Unikernel Linux images and runs them under QEMU."""
