# SPDX-License-Identifier: Apache-2.0
"""How fast inference is beside MXFusion, Pyro and NumPyro. Writes docs/speed.md.

Run by `make bench`. Every library runs in a process of its own, the peers by the Python named on the command line.
``--quick`` measures less, and writes nothing.
"""

import argparse
import datetime
import sys
import tempfile
from pathlib import Path

import speed_race
import speed_steps
from contest import Pythons, machine, mxnets_kernels, versions
from speed_setting import Bench, Settings

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
FULL = Settings(rounds=5, seconds=0.1, threads=(1, 2), quick=False)
QUICK = Settings(rounds=3, seconds=0.03, threads=(1,), quick=True)
SECTIONS = {
    "density": speed_steps.density,
    "training": speed_steps.training,
    "operators": speed_steps.operators,
    "growth": speed_steps.growth,
    "accuracy": speed_race.time_to_accuracy,
    "memory": speed_race.memory,
}

INTRODUCTION = """\
# How fast it is

`make bench` writes this page; no number on it is typed by hand. It took {versions}, on {machine}, on {date}.

Every library runs in a process of its own. All are timed in turn, round by round, and the results are medians over
{rounds} rounds: our time in microseconds, and how many times as long the others take in the same round. Above 1 we are
ahead, below 1 behind. Compilation is left out, except in the time to an accuracy. The models, data, priors, guides,
numbers of draws and the optimizer (Adam) are the same everywhere: `benchmarks/problems.py` lists them. All is in
float32 unless said. One thread means that the library's own pool has one; it may use the other core for Python.
{kernels}"""

KERNELS = """\

The OpenBLAS inside MXNet is from 2020 and treats newer processors as very old ones. Here, also for MXFusion, it runs
with `OPENBLAS_CORETYPE=Haswell`; do the same if the processor is newer and has AVX2."""


def page(bench, sections):
    """The lines of docs/speed.md."""
    found = {**versions(bench.pythons.ours), **versions(bench.pythons.peers), **_own_numpy(bench)}
    yield INTRODUCTION.format(
        versions=", ".join(f"{name} {version}" for name, version in sorted(found.items())),
        machine=machine(),
        date=datetime.date.today().isoformat(),
        rounds=bench.settings.rounds,
        kernels=KERNELS if mxnets_kernels() else "",
    ).rstrip()
    yield "\n## Where it stands\n"
    yield from table(["what", "measured", "aim"], [_claim(claim) for claim in bench.claims])
    for section in sections:
        yield from render(section)


def _own_numpy(bench):
    return {"numpy": versions(bench.pythons.ours)["numpy"]}


def _claim(claim):
    sign = "<=" if claim.below else ">="
    return [claim.text, f"{claim.value:.2f}", f"{sign} {claim.bound:g}: {'yes' if claim.holds else '**no**'}"]


def render(section):
    """A section as Markdown."""
    yield f"\n## {section.heading}\n"
    yield section.text
    for caption, columns, rows in section.tables:
        yield f"\n### {caption}\n"
        yield from table(columns, rows)


def table(columns, rows):
    """A table as Markdown."""
    yield "| " + " | ".join(columns) + " |"
    yield "|:--|" + "--:|" * (len(columns) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", help="the Python of the environment with torch, Pyro, JAX and NumPyro")
    parser.add_argument("--quick", action="store_true", help="a few minutes, less certain; writes nothing")
    parser.add_argument("--only", choices=SECTIONS, help="one section; writes nothing")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Measure, print and write."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        pythons = Pythons(sys.executable, options.peers)
        bench = Bench(pythons, Path(folder), QUICK if options.quick else FULL)
        sections = []
        for name in [options.only] if options.only else SECTIONS:
            sections.append(SECTIONS[name](bench))
            print("\n".join(render(sections[-1])), flush=True)
        lines = list(page(bench, sections))
    print("\n".join(table(["what", "measured", "aim"], [_claim(claim) for claim in bench.claims])))
    if not options.quick and not options.only:
        PAGE.write_text("\n".join(lines) + "\n")
        print(f"\nWritten: {PAGE.name}")


if __name__ == "__main__":
    main()
