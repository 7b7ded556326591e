# SPDX-License-Identifier: Apache-2.0
"""The policy language and its engine: pure, no file, no socket (DESIGN §6)."""
