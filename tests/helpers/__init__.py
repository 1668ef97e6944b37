# SPDX-License-Identifier: Apache-2.0
"""What several files of tests share: models, data, tables of cases, oracles and comparisons."""
