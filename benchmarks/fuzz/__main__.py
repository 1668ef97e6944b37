# SPDX-License-Identifier: Apache-2.0
"""Run the fuzz and write its record: python -m benchmarks.fuzz --inputs 20000 --seed 0 --report docs/robustness.md."""

import argparse
import platform
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import mxfusion_mvn

import mxnet as mx

from .calls import FAILURES, ROOMS
from .damage import change_texts, invert_bytes
from .damage import outcomes as outcomes_of
from .runs import PATIENCE, outcomes


def table(head, rows):
    """Lines of a table in Markdown."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines] + [""]


def report(results, seed, seconds, damage):
    """The lines of the record."""
    kinds = ("right", "accepted", "refused", *FAILURES)
    by_room = {room or "mxfusion_mvn": Counter() for room in ROOMS}
    for result in results:
        by_room.setdefault(result["room"], Counter())[result["outcome"]] += 1
    compared = Counter(name for result in results for name in result["compared"])
    raised = Counter(result["detail"].split(": ")[1] for result in results if result["outcome"] == "refused")
    failures = [result for result in results if result["outcome"] in FAILURES]
    rows = [[room, sum(count.values()), *(count[kind] for kind in kinds)] for room, count in by_room.items()]
    total = Counter(result["outcome"] for result in results)
    return [
        "# What happens to arguments of every kind",
        "",
        f"`python -m benchmarks.fuzz --inputs {len(results)} --seed {seed} --report docs/robustness.md` writes this "
        f"page; no number on it is typed by hand. It took mxfusion-mvn {mxfusion_mvn.__version__} on MXNet "
        f"{mx.__version__}, Python {platform.python_version()} and {seconds / 60:.0f} minutes.",
        "",
        "An input is a chain of one to three calls: a public name of one of the modules below, then methods of its "
        "result. Three quarters of the arguments are sensible for their parameter; a quarter of these are spoilt "
        "in one way (an entry that is NaN, huge or of the wrong sign, an additional axis, another dtype, masked, "
        "sparse, a DataFrame, ...). The other arguments are anything: None, numbers, strings, functions, Symbols, "
        "models. Methods of structures get arrays as a Gaussian passes them, after its checks; other methods that "
        "only MXFusion or the package calls are reached through declared variables, models and runs. Each input "
        "ends as",
        "",
        "- *right*: a result was compared with SciPy and NumPy in float64, and its error is at most 200 times the "
        "change of the right value when the arguments are rounded;",
        "- *accepted*: the calls returned, without NaN or infinity from finite arguments whose squares float32 can "
        "hold; there is no oracle, or the result depends on rounding only;",
        "- *refused*: an error of the package names the argument or the variable;",
        "- or a failure: *bare* (an error from inside), *unnamed* (an error of ours that names nothing), *silent* "
        f"(NaN), *wrong*, *hang* (over {PATIENCE} s) or *crash*.",
        "",
        *table(["module", "inputs", *kinds], [*rows, ["all", len(results), *(total[kind] for kind in kinds)]]),
        "Errors that were raised:",
        "",
        *table(["error", "times"], raised.most_common()),
        f"{sum(compared.values())} results were compared with an oracle:",
        "",
        *table(["result of", "comparisons"], sorted(compared.items())),
        "## Failures",
        "",
        *([f"- {r['number']} {r['outcome']}: {r['detail']} | {r['calls']}" for r in failures] or ["None."]),
        "",
        "## Damaged files",
        "",
        "Each byte of a saved inference is inverted, one at a time; and in 600 copies a random part of one of its "
        "JSON texts is replaced or left out. Each copy is either *loaded right* (the parameters are those that "
        "were saved), or *refused* by an error of ours that names the file, and the inference keeps its "
        "parameters.",
        "",
        *table(["", "copies", "loaded right", "refused", "failures"], damage),
    ]


def main():
    """Run the fuzz; the exit status says whether there were failures."""
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--report", help="the file to write the record to, with that of damaged files")
    options = parser.parse_args()
    started = time.perf_counter()
    bounds = [options.inputs * i // options.processes for i in range(options.processes + 1)]
    with ThreadPoolExecutor(options.processes) as pool:
        parts = pool.map(lambda part: list(outcomes(options.seed, *part)), zip(bounds, bounds[1:]))
        results = [result for part in parts for result in part]
    for result in results:
        if result["outcome"] in FAILURES:
            print(result["number"], result["outcome"], result["detail"], "|", result["calls"], flush=True)
    print(dict(Counter(result["outcome"] for result in results)), len({n for r in results for n in r["compared"]}))
    if options.report:
        damage = [outcomes_of("a byte inverted", invert_bytes), outcomes_of("a JSON text changed", change_texts)]
        lines = report(results, options.seed, time.perf_counter() - started, damage)
        with open(options.report, "w") as stream:
            stream.write("\n".join(lines))
    sys.exit(any(result["outcome"] in FAILURES for result in results))


if __name__ == "__main__":
    main()
