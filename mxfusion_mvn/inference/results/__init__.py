# SPDX-License-Identifier: Apache-2.0
"""What a finished inference gives: draws, tables, ArviZ's data and files."""
