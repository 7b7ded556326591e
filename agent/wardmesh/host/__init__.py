# SPDX-License-Identifier: Apache-2.0
"""The few ways in which the agent touches files, processes and sysctls."""
