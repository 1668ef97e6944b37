# SPDX-License-Identifier: Apache-2.0
"""The words of every refusal: the argument, what was got, what was expected and what to do next."""


def refusal(argument, got, expected, remedy):
    """
    The message of an error for a bad argument.

    :param argument: the name of the argument, as the user wrote it.
    :param got: what was given.
    :param expected: what can be used instead.
    :param remedy: what to do next, a full sentence.
    :returns: a text.
    """
    return f"`{argument}`: got {got}; expected {expected}. {remedy}"


def at_index(index):
    """
    Words for the position of a matrix within a batch.

    :param index: tuple of integers, empty for a single matrix.
    :returns: ``" at batch index (1, 2)"``, or nothing for a single matrix.
    """
    return f" at batch index {plain_index(index)}" if len(index) else ""


def plain_index(index):
    """
    An index as Python prints it.

    :param index: iterable of integers, also NumPy's.
    :returns: tuple of int.
    """
    return tuple(int(i) for i in index)


def show_shape(shape):
    """
    A shape in words, whose symbolic sizes are shown by name.

    :param shape: tuple of integers and Variables.
    :returns: for example ``"(N, 3)"``.
    """
    names = [str(s) if isinstance(s, (int, str)) else (getattr(s, "name", None) or "?") for s in shape]
    return "(" + ", ".join(names) + ("," if len(names) == 1 else "") + ")"
