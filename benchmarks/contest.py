# SPDX-License-Identifier: Apache-2.0
"""Times libraries against each other: each in a process of its own, in turn, round by round.

A machine that slows down then slows all of them; what is compared is the ratio within a round, and what is reported
the median over the rounds.
"""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

import numpy as np

HERE = Path(__file__).parent
LONG = 1.0  # seconds of a step, beyond which fewer rounds must do
FEWEST = 3


class Contender(NamedTuple):
    """
    A way to compute something.

    :param name: for the tables.
    :param script: the file that has it.
    :param task: what it is called there.
    :param process: contenders of the same process share what their library has compiled; None for one of its own.
    :param environment: what its process gets beside what all get, pairs of strings.
    """

    name: str
    script: str
    task: str
    process: Optional[str] = None
    environment: Tuple[Tuple[str, str], ...] = ()


class Pythons(NamedTuple):
    """The interpreters: of this package's environment, and of the peers'."""

    ours: str
    peers: str

    def of(self, script):
        """The one that runs a file."""
        return self.ours if script == "ours.py" else self.peers


class Worker:
    """
    A process that answers the requests of worker.py.

    :param python: the interpreter.
    :param script: file name, in this folder.
    :param threads: how many the library may use.
    :param dtype: float32 or float64.
    :param cache: folder in which JAX keeps what it has compiled, None for nowhere.
    :param environment: as in :class:`Contender`.
    """

    def __init__(self, python, script, threads=1, dtype="float32", cache=None, environment=()):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "NPROC": str(threads),  # JAX's: no XLA flag limits its pool
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": str(int(dtype == "float64")),
            **(jaxs_cache(cache) if cache else {}),
            **(mxnets_kernels() if script == "ours.py" else {}),
            **dict(environment),
        }
        self._script = script
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **request):
        """
        Send a request and wait for the answer.

        :param request: see :func:`worker.serve`.
        :returns: the answer.
        :raises RuntimeError: if the process has died, or says that it failed.
        """
        self.send(**request)
        return self.receive()

    def send(self, **request):
        """
        Send a request.

        :param request: see :func:`worker.serve`.
        """
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self):
        """
        Wait for the answer to the oldest request that has none.

        :returns: the answer.
        :raises RuntimeError: if the process has died, or says that it failed.
        """
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._script} died")
        answer = json.loads(answer)
        if isinstance(answer, dict):
            raise RuntimeError(f"{self._script}:\n{answer['error']}")
        return answer

    def close(self):
        """Let the process end."""
        self._process.stdin.close()
        self._process.wait()


class Team:
    """
    Workers for some contenders, in a ``with`` block.

    :param contenders: list of :class:`Contender`.
    :param pythons: :class:`Pythons`.
    :param threads: how many each may use.
    :param dtype: float32 or float64.
    :param cache: as in :class:`Worker`.
    """

    def __init__(self, contenders, pythons, threads=1, dtype="float32", cache=None):
        self._contenders = {contender.name: contender for contender in contenders}
        self._workers = {}
        for contender in contenders:
            if _process(contender) not in self._workers:
                python, script = pythons.of(contender.script), contender.script
                worker = Worker(python, script, threads, dtype, cache, contender.environment)
                self._workers[_process(contender)] = worker

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self._workers.values():
            worker.close()

    @property
    def names(self):
        """Of all contenders, a list."""
        return list(self._contenders)

    def race(self, cases, rounds, seconds):
        """
        Time contenders in turn.

        :param cases: {name of the contender: case}.
        :param rounds: how often.
        :param seconds: how long one timing takes, if a step takes no longer.
        :returns: {name: array (rounds,) of seconds per step}.
        """
        for name, case in cases.items():
            self._worker(name).send(build=self._with_task(name, case), name=name)
        for name in cases:
            self._worker(name).receive()
        found = {name: [] for name in cases}
        for turn in range(rounds):
            for name in list(cases)[:: 1 if turn % 2 else -1]:
                found[name].append(self._worker(name).ask(time=seconds, name=name))
            if turn + 1 >= FEWEST and max(times[-1] for times in found.values()) > LONG:
                break
        return {name: np.array(times) for name, times in found.items()}

    def memory(self, name, small, case, steps):
        """
        What building and some steps take, beyond what the library takes for a small case.

        :param name: of the contender.
        :param small: a case of the same kind.
        :param case: the one in question.
        :param steps: how many to take.
        :returns: bytes.
        """
        for each in (small, case):
            self._worker(name).ask(build=self._with_task(name, each), name=name)
        return self._worker(name).ask(memory=steps, name=name)

    def explain(self, name, case):
        """
        Say what the steps of a contender are made of.

        :param name: of the contender.
        :param case: dict, without its task.
        :returns: a text.
        """
        self._worker(name).ask(build=self._with_task(name, case), name=name)
        return self._worker(name).ask(explain=name)

    def watch(self, name, case, steps, every, nats):
        """
        Follow a run until the posterior is close to the exact one.

        :param name: of the contender.
        :param case: dict, without its task.
        :param steps: how many to take at most.
        :param every: how many steps lie between two looks.
        :param nats: how close, as a KL divergence.
        :returns: array (looks, 2): seconds since the start, KL divergence from the exact posterior.
        """
        case = {**self._with_task(name, case), "every": every}
        return np.array(self._worker(name).ask(watch=case, steps=steps, every=every, nats=nats))

    def _worker(self, name):
        return self._workers[_process(self._contenders[name])]

    def _with_task(self, name, case):
        return {**case, "task": self._contenders[name].task}


def _process(contender):
    return contender.process or contender.name


def ratio(times, other, own):
    """
    How many times as long a contender takes.

    :param times: as :meth:`Team.race` returns them.
    :param other: name of the contender above.
    :param own: name of the one below.
    :returns: the median over the rounds.
    """
    return float(np.median(times[other] / times[own]))


def jaxs_cache(folder):
    """
    How JAX is told to compile nothing twice.

    :param folder: Path.
    :returns: a dict for the environment.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def mxnets_kernels():
    """
    Which kernels the OpenBLAS inside MXNet is told to use: of 2020, it takes newer processors for very old ones.

    :returns: a dict for the environment, empty where it decides for itself.
    """
    if "OPENBLAS_CORETYPE" in os.environ or "avx2" not in processor()["flags"].split():
        return {}
    return {"OPENBLAS_CORETYPE": "Haswell"}


def versions(python):
    """
    What is installed.

    :param python: an interpreter.
    :returns: {name: version} of what is timed here, in lower case.
    """
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    found = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    wanted = ("mxnet", "mxfusion", "mxfusion-mvn", "numpy", "torch", "pyro-ppl", "jax", "numpyro")
    return {name: found[name] for name in wanted if name in found}


def processor():
    """
    What the system says of the processor.

    :returns: dict with ``model name`` and ``flags``, both empty where it says nothing.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {"model name": "", "flags": "", **fields}


def machine():
    """
    What this runs on.

    :returns: a text.
    """
    name = processor()["model name"] or platform.machine()
    return f"{os.cpu_count()} cores ({name}), Python {platform.python_version()}"
