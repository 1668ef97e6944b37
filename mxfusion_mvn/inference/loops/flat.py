# SPDX-License-Identifier: Apache-2.0
"""All parameters, and all gradients, in one array each, so that an update is one operator.

MXFusion's Parameters become views of the array while it lasts, and get their own arrays back after.
"""

import copy

from mxfusion_mvn.inference.loops.adam import Adam, can_be_prepared
from mxfusion_mvn.inference.loops.optimizers import copy_state, restore_state

import mxnet as mx
from mxnet import autograd, optimizer

# Optimizers that treat each entry by itself, and whose state is made of arrays of the shape of the parameter.
_ELEMENTWISE = (
    optimizer.SGD,
    optimizer.NAG,
    optimizer.Adam,
    optimizer.AdaGrad,
    optimizer.AdaDelta,
    optimizer.RMSProp,
    optimizer.Ftrl,
    optimizer.FTML,
    optimizer.Adamax,
    optimizer.Signum,
)


def can_be_flat(parameters, positions, rule):
    """
    Whether one update of all entries is the same as an update of each parameter.

    :param parameters: list of Gluon Parameters.
    :param positions: list of their indices in the updater.
    :param rule: an ``mxnet.optimizer.Optimizer``.
    :returns: a bool.
    """
    if type(rule) not in _ELEMENTWISE or rule.multi_precision or rule.idx2name:
        return False
    kinds = {(p.data().dtype, p.lr_mult, p.wd_mult, p.data().context) for p in parameters}
    counts = {rule._index_update_count[position] for position in positions}
    return len(kinds) == 1 and len(counts) == 1


class FlatParameters:
    """
    Parameters as views of one array, with their optimizer.

    :param parameters: dict from uuid to Gluon Parameter.
    :param positions: dict from uuid to the index of the parameter in the updater.
    :param updater: the ``mxnet.optimizer.Updater`` that has updated them so far.

    ``values`` and ``gradients`` are the arrays; ``adam`` is the :class:`~mxfusion_mvn.inference.loops.adam.Adam` that
    updates them, None for another optimizer.
    """

    def __init__(self, parameters, positions, updater):
        self._parameters = parameters
        self._positions = positions
        arrays = [parameter.data() for parameter in parameters.values()]
        self.values = _joined(arrays)
        self.gradients = mx.nd.zeros_like(self.values)
        self._own = {uuid: (p.data(), p.grad()) for uuid, p in parameters.items()}
        views = zip(self.views(self.values), self.views(self.gradients))
        for parameter, (value, gradient) in zip(parameters.values(), views):
            point_to(parameter, value, gradient)
        self._updater = self._flat_updater(updater)
        self.newest_gradients = self.gradients
        self._push_update = self._prepared_update()

    def views(self, array):
        """
        The parts of a flat array that belong to the parameters.

        :param array: NDArray of the size of all of them.
        :returns: list of NDArrays of their shapes.
        """
        views, begin = [], 0
        for own, _ in self._own.values():
            views.append(array[begin : begin + own.size].reshape(own.shape))
            begin += own.size
        return views

    def parts(self, array):
        """
        The same by parameter.

        :param array: NDArray of the size of all of them.
        :returns: dict from uuid to NDArray.
        """
        return dict(zip(self._parameters, self.views(array)))

    @property
    def size(self):
        """How many entries the parameters have."""
        return self.values.size

    def update(self, learning_rate, gradient=None):
        """
        Push an update.

        :param learning_rate: of this step.
        :param gradient: NDArray of the size of all parameters, None if the parameters have theirs.
        """
        self.newest_gradients = self.gradients if gradient is None else gradient
        self._push_update(learning_rate, self.newest_gradients)

    def deliver_gradients(self):
        """Give the parameters the gradients of the last update."""
        if self.newest_gradients is not self.gradients:
            self.newest_gradients.copyto(self.gradients)

    def snapshot(self):
        """
        Copy values and optimizer state.

        :returns: an object for :meth:`restore`.
        """
        return self.values.copy(), copy_state(self._updater)

    def restore(self, state):
        """
        Go back to a snapshot.

        :param state: what :meth:`snapshot` returned.
        """
        values, optimizer_state = state
        values.copyto(self.values)
        restore_state(self._updater, optimizer_state)
        self.newest_gradients = self.gradients  # those of a later step may not have been computed at all
        self._push_update = self._prepared_update()

    def release(self, updater):
        """
        Give the parameters their own arrays back, and an updater their state.

        :param updater: the ``mxnet.optimizer.Updater`` that updates them from now on.
        """
        self.deliver_gradients()
        views = zip(self.views(self.values), self.views(self.gradients))
        for parameter, view, own in zip(self._parameters.values(), views, self._own.values()):
            for mine, yours in zip(view, own):
                mine.copyto(yours)
            if parameter.grad_req == "null":  # fixed meanwhile
                parameter._data = [own[0].detach()]
            else:
                point_to(parameter, *own)
        count = self._updater.optimizer._index_update_count[0]
        parts = _zipped_state(self._updater.states[0], self.views)
        for number, uuid in enumerate(self._parameters):
            updater.states[self._positions[uuid]] = parts(number)
            updater.optimizer._index_update_count[self._positions[uuid]] = count
        updater.optimizer.num_update = self._updater.optimizer.num_update

    def _flat_updater(self, updater):
        first = next(iter(self._parameters))
        rule = copy.copy(updater.optimizer)
        rule.param_dict = {0: self._parameters[first]}
        counts = {0: updater.optimizer._index_update_count[self._positions[first]]}
        rule._all_index_update_counts, rule._index_update_count = {0: counts}, counts
        flat = mx.optimizer.get_updater(rule)
        flat.states[0] = _joined_state([updater.states[self._positions[uuid]] for uuid in self._parameters])
        flat.states_synced[0] = True
        return flat

    def _prepared_update(self):
        self.adam = Adam(self._updater, self.values) if can_be_prepared(self._updater.optimizer) else None
        return self._update_by_the_updater if self.adam is None else self.adam.update

    def _update_by_the_updater(self, learning_rate, gradient):
        self._updater.optimizer.set_learning_rate(learning_rate)
        self._updater(0, gradient, self.values)


def point_to(parameter, value, gradient):
    """
    Make arrays those of a parameter.

    :param parameter: Gluon Parameter.
    :param value: NDArray in its shape.
    :param gradient: NDArray in its shape.
    """
    parameter._data = [value]
    parameter._grad = [gradient]
    autograd.mark_variables(parameter._data, parameter._grad, parameter.grad_req)


def _joined(arrays):
    return mx.nd.concat(*[array.reshape((-1,)) for array in arrays], dim=0)


def _joined_state(states):
    """One state of an optimizer from those of all parameters: arrays, joined, in the same tuples."""
    if states[0] is None:
        return None
    if isinstance(states[0], mx.nd.NDArray):
        return _joined(states)
    return tuple(_joined_state(list(parts)) for parts in zip(*states))


def _zipped_state(state, views):
    """A function from the number of a parameter to its part of a flat state."""
    if state is None:
        return lambda number: None
    if isinstance(state, mx.nd.NDArray):
        parts = [view.copy() for view in views(state)]
        return lambda number: parts[number]
    zipped = [_zipped_state(part, views) for part in state]
    return lambda number: tuple(part(number) for part in zipped)
