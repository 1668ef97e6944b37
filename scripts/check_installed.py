# SPDX-License-Identifier: Apache-2.0
"""Check what a wheel installed: the native engine is there, and runs a compiled fit that finds the right mean.

Run ``python check_installed.py`` outside the folder of the sources, of which Python would else import the package.
"""

import mxfusion_mvn
from mxfusion_mvn import MultivariateNormal
from mxfusion_mvn.inference import MAP, CompiledLoop, GradBasedInference

import mxnet as mx
import numpy as np
from mxfusion import Model, Variable

data = mx.nd.random.normal(shape=(200, 3))
model = Model()
model.N = Variable()
model.mean = Variable(shape=(3,))
model.x = MultivariateNormal(mean=model.mean, covariance=mx.nd.eye(3), shape=(model.N, 3))
loop = CompiledLoop()
inference = GradBasedInference(MAP(model=model, observed=[model.x]), grad_loop=loop)
inference.run(x=data, learning_rate=0.1, max_iter=500)

explained = loop.explain()
print(mxfusion_mvn.__file__, explained.splitlines()[0], sep="\n")
assert explained.startswith("Run by: the native engine\n"), explained
np.testing.assert_allclose(inference.params[model.mean].asnumpy(), data.mean(axis=0).asnumpy(), atol=1e-3)
