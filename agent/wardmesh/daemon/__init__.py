# SPDX-License-Identifier: Apache-2.0
"""The daemon: load, desired, diff, apply, and again."""
