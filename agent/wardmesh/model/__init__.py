# SPDX-License-Identifier: Apache-2.0
"""Pure types and parsers: no sockets, no files, no system access."""
