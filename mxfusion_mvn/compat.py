# SPDX-License-Identifier: Apache-2.0
"""Importing MXNet, with every Python and NumPy that it can work with.

MXNet 1.9.1, its last release, is older than NumPy 1.24 and Python 3.12:

- NumPy 1.24 to 1.26: while it is imported MXNet copies ``numpy.bool``, an alias of ``bool`` that
  NumPy 1.24 removed. The alias is put back for the import, and then removed again. MXFusion needs
  it at no other time; ``mx.np.full`` and ``mx.test_utils`` do, and fail with or without this package.
- NumPy 2: too much is gone for an alias to help.
- Python 3.12: ``distutils`` is gone; setuptools provides it.
- Python 3.13: NumPy 1.26 has no build for it.

So with NumPy 1.24 or newer this package has to be imported before ``mxnet`` and ``mxfusion``.
"""

import contextlib
import sys

_REMEDIES = {
    "distutils": "MXNet imports it, Python 3.12 removed it, and setuptools brings it: run `pip install setuptools`.",
    "mxnet": "mxfusion_mvn needs MXNet: run `pip install 'mxnet>=1.6,<2'`.",
    "numpy": "mxfusion_mvn needs NumPy: run `pip install 'numpy<2'`.",
}


def import_mxnet() -> None:
    """
    Import MXNet, also with a NumPy that is too new for it. Does nothing if it was imported before.

    :raises ImportError: if MXNet cannot run on this Python or with this NumPy, or (as a
        ModuleNotFoundError) if a package it needs is missing. The message says what to install.
    """
    if "mxnet" in sys.modules:
        return
    if sys.version_info >= (3, 13):
        raise ImportError(
            "mxfusion_mvn cannot run on Python {}.{}: MXNet 1.9.1, its last release, needs "
            "numpy<2, which has no build for Python 3.13 or newer. Install Python 3.8 to 3.12, "
            "and this package in an environment made with it.".format(*sys.version_info)
        )
    try:
        import numpy

        with _removed_alias(numpy):
            import mxnet  # noqa: F401  (for imports after that of this package)
    except ModuleNotFoundError as error:
        if error.name not in _REMEDIES:
            raise
        message = f"{error.msg}. {_REMEDIES[error.name]}"
        raise ModuleNotFoundError(message, name=error.name) from error


@contextlib.contextmanager
def _removed_alias(numpy):
    """
    Put ``numpy.bool`` back for the span of a with statement, if this NumPy has removed it.

    :param numpy: the module.
    :raises ImportError: if this NumPy is too new for an alias to help.
    """
    version = tuple(int(part) for part in numpy.__version__.split(".")[:2])
    if version >= (2, 0):
        raise ImportError(
            f"mxfusion_mvn cannot run with NumPy {numpy.__version__}: MXNet 1.9.1, its last "
            "release, needs numpy<2. Run `pip install 'numpy<2'`."
        )
    # An alias that a user has put there for the same reason stays.
    if version < (1, 24) or "bool" in vars(numpy):
        yield
        return
    numpy.bool = bool
    try:
        yield
    finally:
        del numpy.bool
