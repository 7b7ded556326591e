# SPDX-License-Identifier: Apache-2.0
"""The datapath: eBPF programs of bpf/, compiled by bcc in a child, pinned, attached with tc."""
