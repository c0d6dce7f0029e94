# SPDX-License-Identifier: Apache-2.0
"""What there is to know of an image, on one page: ``ukl report``."""
