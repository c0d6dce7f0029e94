# SPDX-License-Identifier: Apache-2.0
"""What is said of a run that went wrong.

:mod:`console` reads what the kernel printed, :mod:`places` says what is at its addresses,
:mod:`rules` what probably happened, and :mod:`report` puts it together and shows it.
"""
