# SPDX-License-Identifier: Apache-2.0
"""Flows, metrics and Hubble's API, in a process of their own: enforcement never waits for them."""
