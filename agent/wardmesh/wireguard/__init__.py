# SPDX-License-Identifier: Apache-2.0
"""The tunnel: keys, backends, peers, routes, rules and who is reachable through it."""
