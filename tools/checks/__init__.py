# SPDX-License-Identifier: Apache-2.0
"""The parts of `make test`: what they run, how they are watched, how they are counted."""
