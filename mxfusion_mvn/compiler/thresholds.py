# SPDX-License-Identifier: Apache-2.0
"""From which size on one form of a computation is faster than another: measured on two cores of a server's processor.

``python benchmarks/thresholds.py`` measures the first of each kind again.
"""

# Constants with more entries are not searched for repeated or equal ones.
LARGE_CONSTANT = 10**7

# A sum or a broadcast of so many entries is faster by a dot product with ones: MXNet's sum takes 6 ns an entry and a
# dot product 0.7; MXNet's broadcast takes 5 ns and a dot product 0.4.
DOT_TO_SUM = 64
DOT_TO_BROADCAST = 128
# From so many entries on: picking the entries of a triangle by their positions instead of searching for them; functions
# of MKLDNN instead of MXNet's own; arrays of equal shapes where MXNet finds the gradients (1 ns instead of 30).
MANY_ENTRIES = 128
# Up to so many arrays are added one by one, because MKLDNN takes long to set up its sum.
FEW_SUMMANDS = 6
# An array with up to so many entries takes no longer to multiply by a scalar than a single entry.
CHEAP_TO_SCALE = 500
# So many arrays with up to so many entries are joined to be summed.
JOINED_ARRAYS = 3
JOINED_SIZE = 200

# A dense layer by MKLDNN takes 30 us to set up; it is faster for products of more multiplications than this.
DENSE_FROM = 50_000
LARGE_PRODUCT = 2_000_000
# For A^T A in float32 a layer is faster from so many columns on, with up to so many rows.
WIDE = 256
TALL = 3000
# A symmetric product of fewer entries, or of longer sums, is faster by syrk, although MXNet copies its other triangle
# at 11 ns an entry.
SMALL_SQUARE = 1024
LONG_SUMS = {"float32": 1000, "float64": 500}
# A triangular system with a constant factor is a product with its inverse up to so many multiplications.
SMALL_SYSTEM = 200_000
# The gradient of `take` goes by a table of the copies of each entry. A larger one, mostly of gaps because few entries
# have most of the copies, takes longer than MXNet's own gradient.
SMALL_TABLE = 100_000
# A product with so few columns takes less time than a transposition.
NARROW = 4

# Two threads are faster than one from here on: rows of a factorised matrix, multiplications of a product, entries of
# any other array.
THREADED_MATRIX = 400
THREADED_PRODUCT = 10**7
THREADED_ARRAY = 10**6
