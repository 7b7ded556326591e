# SPDX-License-Identifier: Apache-2.0
"""The command line; verbs import what they need when they run, so that status stays quick."""
