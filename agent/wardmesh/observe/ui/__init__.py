# SPDX-License-Identifier: Apache-2.0
"""A page to look at: service map and flows of the fleet, from a relay, over HTTP, and only to be read."""
