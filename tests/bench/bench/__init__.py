# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each figure is a ratio of two things that were measured in turn, in one run."""
