"""What training on many processes gives and costs, and a model of it that is checked on a case it has not seen.

`python -m bench.ranks` prints the tables of the README. Two ranks send over TCP to each other on this machine, in a
network namespace of their own whose loopback tc slows down: Linux, root and iproute2.
"""

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

import nn
import train
from bench.common import ROOT, describe_machine, header, line

if TYPE_CHECKING:
    from mpi4py import MPI

MPIEXEC = Path(sys.executable).with_name("mpiexec")
SHAPED = """set -e
ip link set lo mtu 9000 up
tc qdisc add dev lo root tbf rate {}mbit burst 64kb latency 50ms
exec "$@"
"""  # both directions share the rate, in Mbit/s
TCP_ALONE = {"MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}  # no shared memory
WIDTHS, BATCHES, RATES = (1, 128, 512, 1024), (128, 1024), (1000, 4000)  # units, samples, Mbit/s
UNSEEN = (384, 512, 2000)  # which the model is not fitted to


class Job(NamedTuple):
    """An epoch to time, of 784-width-width-10 with Adam."""

    width: int
    batch: int
    steps: int = 20

    @property
    def size(self) -> int:
        """Numbers in the parameters."""
        layers = 784, self.width, self.width, 10
        return sum((m + 1) * n for m, n in zip(layers, layers[1:]))


class Timed:
    """A communicator that counts the seconds spent in Allreduce, on the data and on waiting for the others."""

    def __init__(self, comm: "MPI.Comm") -> None:
        self.comm, self.rank, self.size, self.seconds = comm, comm.rank, comm.size, 0.0

    def Allreduce(self, part: nn.Array, total: nn.Array) -> None:
        started = time.perf_counter()
        self.comm.Allreduce(part, total)
        self.seconds += time.perf_counter() - started


class Step(NamedTuple):
    """Mean seconds of a step, and of its Allreduce."""

    seconds: float
    allreduce: float


def work(job: Job, comm: "MPI.Comm") -> Step:
    """Trains two epochs as one of the ranks, and times the second."""
    flags = f"--layers 784 {job.width} {job.width} 10 --batch-size {job.batch} --samples {job.batch * job.steps}"
    config, timed = train.parse_config(f"{flags} --augment none".split()), Timed(comm)
    sets, run = train.start(config)
    state = cast(nn.State, run["state"])
    for epoch in (1, 2):
        timed.seconds, started = 0.0, time.perf_counter()
        state = train.train_epoch(config, sets.training, state, epoch, cast("MPI.Comm", timed))
    return Step((time.perf_counter() - started) / job.steps, timed.seconds / job.steps)


def launch(job: Job, ranks: int = 2, threads: int = 1, rate: int = 0) -> Step:
    """Trains with ranks on this machine, over a line of rate Mbit/s if given. CalledProcessError where they fail."""
    shaped = ["unshare", "--net", "sh", "-c", SHAPED.format(rate), "sh"] if rate else []
    worker = ["-m", "mpi4py", "-m", "bench.ranks", "--worker", *map(str, job)]
    variables = {"OPENBLAS_NUM_THREADS": str(threads)} | (TCP_ALONE if rate else {})
    command = [*shaped, str(MPIEXEC), *["-iface", "lo"] * bool(rate), "-n", str(ranks), sys.executable, *worker]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | variables, check=True)
    return Step(*map(float, done.stdout.split()))


class Model(NamedTuple):
    """Seconds of a step with p ranks of which each takes rows of a batch, for parameters of that size:

    per_step + per_product * rows * size + per_number * size
    + log2(p) * latency + 2 (p - 1) / p * 4 size * (per_byte + line / rate).
    """

    per_step: float
    per_product: float
    per_number: float
    latency: float
    per_byte: float
    line: float  # how often each byte crosses the line; rate in bytes a second

    def predict(self, job: Job, ranks: int, rate: float) -> Step:
        """What a step and its Allreduce take; rate in Mbit/s."""
        rows = job.batch / ranks
        compute = self.per_step + self.per_product * rows * job.size + self.per_number * job.size
        moved = 2 * (ranks - 1) / ranks * 4 * job.size
        allreduce = math.log2(ranks) * self.latency + moved * (self.per_byte + self.line * 8 / (1e6 * rate))
        return Step(compute + allreduce, allreduce)


def solve(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """The coefficients that miss the seconds by the least squares of relative errors."""
    scaled = np.array(rows) / np.array(seconds)[:, None]
    return [float(c) for c in np.linalg.lstsq(scaled, np.ones(len(rows)), rcond=None)[0]]


def fit(measured: Mapping[tuple[Job, int], Step]) -> Model:
    """The model of steps of two ranks, measured at rates in Mbit/s."""
    compute = [(1.0, job.batch / 2 * job.size, job.size) for job, _ in measured]
    allreduce = [(1.0, 4 * job.size, 4 * job.size * 8 / (1e6 * rate)) for job, rate in measured]
    computed = solve(compute, [step.seconds - step.allreduce for step in measured.values()])
    return Model(*computed, *solve(allreduce, [step.allreduce for step in measured.values()]))


def compare_on_one_machine() -> None:
    """Prints one process of two threads beside two ranks of one thread."""
    times = "1 process, 2 threads: s an epoch", "2 ranks, 1 thread: s an epoch"
    print(header("width", "batch", *times, "ranks / process", "in Allreduce"))
    for width in (128, 512, 1024):
        for batch in BATCHES:
            job = Job(width, batch, max(10, 60_000 * 64 // (batch * width)))
            pairs = [(launch(job, 1, threads=2), launch(job, 2)) for _ in range(3)]
            one, two = (statistics.median(step.seconds for step in steps) for steps in zip(*pairs))
            waiting = statistics.median(pair[1].allreduce / pair[1].seconds for pair in pairs)
            epochs = (f"{step * 60_000 / batch:.3g}" for step in (one, two))
            print(line(str(width), str(batch), *epochs, f"{two / one:.2f}", f"{waiting:.0%}"), flush=True)


def measure(cases: Sequence[tuple[int, int, int]]) -> dict[tuple[Job, int], Step]:
    """Prints and returns the median of three runs of two ranks for each width, batch and rate."""
    print(header("width", "batch", "Mbit/s", "ms a step", "in Allreduce, ms"))
    measured = {}
    for width, batch, rate in cases:
        job = Job(width, batch)
        step = measured[job, rate] = sorted(launch(job, rate=rate) for _ in range(3))[1]
        print(line(str(width), str(batch), str(rate), *(f"{1e3 * s:.3g}" for s in step)), flush=True)
    return measured


def print_model(measured: Mapping[tuple[Job, int], Step]) -> None:
    """Prints the model of all cases but the last, its error on that, and what it predicts for more ranks."""
    *known, (unseen, rate) = measured
    model = fit({case: measured[case] for case in known})
    print(
        f"\na step takes {1e6 * model.per_step:.0f} us + {1e12 * model.per_product:.1f} ps a sample and parameter"
        f" + {1e9 * model.per_number:.2f} ns a parameter, and with p ranks log2(p) {1e6 * model.latency:.0f} us"
        f" + 2 (p - 1) / p bytes ({1e9 * model.per_byte:.2f} ns + {model.line:.2f} / rate)"
    )
    misses = [abs(model.predict(job, 2, rate).seconds / measured[job, rate].seconds - 1) for job, rate in known]
    print(f"error on the {len(known)} cases it was fitted to: {statistics.median(misses):.0%} (median)")
    step, guess = measured[unseen, rate].seconds, model.predict(unseen, 2, rate).seconds
    print(
        f"error on the unseen case, width {unseen.width}, batch {unseen.batch}, {rate} Mbit/s: {guess / step - 1:+.1%}"
        f" ({1e3 * guess:.1f} ms predicted, {1e3 * step:.1f} ms measured)"
    )
    print("\nPredicted efficiency, the speed of p ranks over p times that of one:")
    counts = [2**k for k in range(1, 8)]
    print(header("width", "batch", "Mbit/s", *(f"{p} ranks" for p in counts)))
    for width, batch, rate in ((512, 1024, 1000), (512, 16384, 1000), (512, 1024, 100_000), (512, 16384, 100_000)):
        job = Job(width, batch)
        efficiencies = (model.predict(job, 1, rate).seconds / p / model.predict(job, p, rate).seconds for p in counts)
        print(line(str(width), str(batch), str(rate), *(f"{e:.0%}" for e in efficiencies)))


def can_shape() -> bool:
    """Whether this is Linux, the user is root, and ip, tc and unshare are there."""
    return sys.platform == "linux" and os.geteuid() == 0 and None not in map(shutil.which, ("ip", "tc", "unshare"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", nargs=3, type=int, help=argparse.SUPPRESS)
    if worker := parser.parse_args(arguments).worker:
        from mpi4py import MPI

        step = work(Job(*worker), MPI.COMM_WORLD)
        if MPI.COMM_WORLD.rank == 0:
            print(*step)
        return
    if not can_shape():
        sys.exit("bench.ranks: a slower line between ranks takes Linux, root, and the package iproute2")
    print(f"{describe_machine()}\n")
    compare_on_one_machine()
    cases = [(width, batch, rate) for rate in RATES for width in WIDTHS for batch in BATCHES]
    print_model(measure([*cases, UNSEEN]))


if __name__ == "__main__":
    main()
