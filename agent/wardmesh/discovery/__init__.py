# SPDX-License-Identifier: Apache-2.0
"""Members by a store: records, who claims what, and the stores. Nothing here touches the kernel."""
