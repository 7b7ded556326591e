# SPDX-License-Identifier: Apache-2.0
"""What the network does: flows, Hubble's API, the relay. Runs in a process of its own (decision 0014)."""
