# SPDX-License-Identifier: Apache-2.0
"""The agent's API: HTTP over a unix socket."""
