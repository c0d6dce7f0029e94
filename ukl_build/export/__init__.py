# SPDX-License-Identifier: Apache-2.0
"""An image as other programs than ukl-run take it: ``ukl export``."""
