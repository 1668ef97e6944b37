# SPDX-License-Identifier: Apache-2.0
"""The library that was built from ``src``: where it is, whether it fits, and with whose linear algebra it works."""

import ctypes
import functools
import importlib.machinery
import os
from pathlib import Path

from mxfusion_mvn.compiler.native.digest import digest
from mxfusion_mvn.compiler.operators import FORMULAS

import mxnet as mx

_REMEDY = (
    "install the package again, in a clone by `pip install --no-deps --editable .`, else with `--force-reinstall "
    "--no-deps --no-cache-dir`"
)


class NotBuiltError(Exception):
    """The library is not there or does not fit; the message says why."""


@functools.lru_cache(maxsize=None)
def library():
    """
    The library, ready for use.

    :returns: a ctypes library.
    :raises NotBuiltError: if it was not built, or if MXNet has no BLAS that it can use.
    """
    try:
        found = ctypes.CDLL(str(path()))
    except OSError as error:
        raise NotBuiltError(f"it cannot be loaded: {error}; {_REMEDY}") from None
    if digest(FORMULAS) not in (None, _digest_of(found)):
        raise NotBuiltError(f"it was built from other sources; {_REMEDY}")
    found.mvn_train.restype = ctypes.c_int64
    blas = _openblas()
    routines = (ctypes.c_void_p * 6)(
        *(
            ctypes.cast(getattr(blas, f"{letter}{name}_"), ctypes.c_void_p)
            for letter in "sd"
            for name in ("gemm", "trsm", "potrf")
        )
    )
    found.mvn_prepare(routines, int(os.environ.get("MXFUSION_MVN_INSTRUCTIONS", "2")))
    return found


def path():
    """
    Where it lies.

    :returns: a Path.
    :raises NotBuiltError: if it is not there.
    """
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        found = folder / f"_engine{suffix}"
        if found.exists():
            return found
    raise NotBuiltError(
        "it was not built, because that needs Linux and, while the package is installed, a C compiler; "
        f"install one, such as gcc, then {_REMEDY}"
    )


def _digest_of(found):
    try:
        return (ctypes.c_char * 16).in_dll(found, "mvn_digest").value.decode()
    except ValueError:  # as of a library from before there were digests
        return ""


def _openblas():
    for found in sorted(Path(mx.__file__).parent.glob("libopenblas*")):
        return ctypes.CDLL(str(found))
    raise NotBuiltError("MXNet brings no OpenBLAS")


def why_never(ctx):
    """
    Why no program can run natively.

    :param ctx: MXNet context.
    :returns: a text, None if programs can.
    """
    if ctx.device_type != "cpu":
        return f"it runs on processors, not on {ctx}"
    if os.environ.get("MXFUSION_MVN_NATIVE") == "0":
        return "MXFUSION_MVN_NATIVE is 0 in the environment"
    return None
