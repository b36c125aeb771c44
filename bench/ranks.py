"""What training on many processes gives and costs, and a model of it that is checked on a case it has not seen.

`python -m bench.ranks` prints the table of the README, the steps that the model is fitted to, and the model. Two ranks
send over TCP to each other on this machine, in a network namespace of their own whose loopback tc slows down: Linux,
root and iproute2.
"""

import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

import nn
import train
from bench.common import ROOT, describe_machine, header, line

MPIEXEC = Path(sys.executable).with_name("mpiexec")
SHAPED = """set -e
ip link set lo mtu 9000 up
tc qdisc add dev lo root tbf rate {}mbit burst 64kb latency 50ms
exec "$@"
"""  # both directions share the rate, in Mbit/s
TCP_ALONE = {"MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}  # no shared memory
Model: TypeAlias = NDArray[np.float64]  # (2, 3), the coefficients of computing and of Allreduce


class Job(NamedTuple):
    """An epoch to time, of 784-width-width-10 with Adam."""

    width: int
    batch: int
    rate: int = 0  # Mbit/s between ranks, which else share memory
    steps: int = 20

    @property
    def size(self) -> int:
        """Numbers in the parameters."""
        layers = 784, self.width, self.width, 10
        return sum((m + 1) * n for m, n in zip(layers, layers[1:]))


JOBS = [Job(width, batch, rate) for rate in (1000, 4000) for width in (1, 128, 512, 1024) for batch in (128, 1024)]
UNSEEN = Job(384, 512, 2000)  # which the model is not fitted to


class Step(NamedTuple):
    """Mean seconds of a step, and of its Allreduce."""

    seconds: float
    allreduce: float


def work(job: Job) -> None:
    """Trains two epochs as one of the ranks. Rank 0 prints the Step of the second, which waits for the others, too."""
    from mpi4py import MPI

    flags = f"--layers 784 {job.width} {job.width} 10 --batch-size {job.batch} --samples {job.batch * job.steps}"
    config = train.parse_config(f"{flags} --augment none".split())
    (training, *_), run = train.start(config)
    world, state, allreduce = MPI.COMM_WORLD, cast(nn.State, run["state"]), 0.0

    def timed(part: nn.Array, total: nn.Array) -> None:
        nonlocal allreduce
        started = time.perf_counter()
        world.Allreduce(part, total)
        allreduce += time.perf_counter() - started

    comm = cast(MPI.Comm, SimpleNamespace(rank=world.rank, size=world.size, Allreduce=timed))
    for epoch in (1, 2):
        allreduce, started = 0.0, time.perf_counter()
        state = train.train_epoch(config, training, state, epoch, comm)
    if world.rank == 0:
        print((time.perf_counter() - started) / job.steps, allreduce / job.steps)


def launch(job: Job, ranks: int = 2, threads: int = 1) -> Step:
    """Trains with ranks on this machine. CalledProcessError where they fail."""
    shaped = ["unshare", "--net", "sh", "-c", SHAPED.format(job.rate), "sh"] if job.rate else []
    mpiexec = [str(MPIEXEC), *["-iface", "lo"] * bool(job.rate), "-n", str(ranks), sys.executable, "-m", "mpi4py"]
    command = [*shaped, *mpiexec, "-c", f"from bench import ranks; ranks.work(ranks.{job})"]
    variables = {"OPENBLAS_NUM_THREADS": str(threads)} | (TCP_ALONE if job.rate else {})
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | variables, check=True)
    return Step(*map(float, done.stdout.split()))


def terms(job: Job, ranks: int) -> Model:
    """What a model is multiplied with, of p ranks, to give the seconds of a step:

    a + b * rows of a rank * parameters + c * parameters
    + latency * log2(p) + (d + e / rate in bytes a second) * 2 (p - 1) / p * bytes of the parameters
    """
    rows, moved = job.batch / ranks, 2 * (ranks - 1) / ranks * 4 * job.size
    return np.array([(1, rows * job.size, job.size), (math.log2(ranks), moved, moved * 8 / (1e6 * job.rate))])


def predict(model: Model, job: Job, ranks: int = 2) -> Step:
    """What a step and its Allreduce take."""
    compute, allreduce = (model * terms(job, ranks)).sum(axis=1)
    return Step(compute + allreduce, allreduce)


def fit(measured: Mapping[Job, Step]) -> Model:
    """The model of steps of two ranks, by the least squares of relative errors."""
    parts = np.array([(step.seconds - step.allreduce, step.allreduce) for step in measured.values()])
    relative = np.array([terms(job, 2) for job in measured]) / parts[:, :, None]
    return np.array([np.linalg.lstsq(relative[:, i], np.ones(len(parts)), rcond=None)[0] for i in (0, 1)])


def compare_on_one_machine() -> None:
    """Prints one process of two threads beside two ranks of one thread."""
    times = "1 process, 2 threads: s/epoch", "2 ranks, 1 thread: s/epoch"
    print(header("width", "batch", *times, "ranks / process", "in Allreduce"))
    for width in (128, 512, 1024):
        for batch in (128, 1024):
            job = Job(width, batch, steps=max(10, 60_000 * 64 // (batch * width)))
            pairs = [(launch(job, 1, threads=2), launch(job, 2)) for _ in range(3)]
            one, two = (statistics.median(step.seconds for step in steps) for steps in zip(*pairs))
            waiting = statistics.median(pair[1].allreduce / pair[1].seconds for pair in pairs)
            epochs = (f"{step * 60_000 / batch:.3g}" for step in (one, two))
            print(line(str(width), str(batch), *epochs, f"{two / one:.2f}", f"{waiting:.0%}"), flush=True)


def measure(jobs: Sequence[Job]) -> dict[Job, Step]:
    """Prints and returns the median of three runs of two ranks for each job."""
    print(header("width", "batch", "Mbit/s", "ms/step", "in Allreduce, ms"))
    measured = {}
    for job in jobs:
        step = measured[job] = sorted(launch(job) for _ in range(3))[1]
        print(line(*map(str, job[:3]), *(f"{1e3 * seconds:.3g}" for seconds in step)), flush=True)
    return measured


def print_model(measured: Mapping[Job, Step]) -> None:
    """Prints the model that is fitted to all jobs but the last, its error on those, and on the last."""
    *known, unseen = measured
    model = fit({job: measured[job] for job in known})
    (a, b, c), (latency, d, e) = model
    print(f"\na = {1e6 * a:.0f} us, b = {1e12 * b:.1f} ps, c = {1e9 * c:.2f} ns, ", end="")
    print(f"latency = {1e6 * latency:.0f} us, d = {1e9 * d:.2f} ns, e = {e:.2f}")
    errors = {job: predict(model, job).seconds / step.seconds - 1 for job, step in measured.items()}
    misses = [abs(errors[job]) for job in known]
    print(f"error on the {len(known)} jobs it was fitted to: {statistics.median(misses):.0%} (median)")
    print(f"error on width {unseen.width}, batch {unseen.batch}, {unseen.rate} Mbit/s, unseen: {errors[unseen]:+.1%}")


def can_shape() -> bool:
    """Whether this is Linux, the user is root, and ip, tc and unshare are there."""
    return sys.platform == "linux" and os.geteuid() == 0 and None not in map(shutil.which, ("ip", "tc", "unshare"))


def main() -> None:
    """The command."""
    if not can_shape():
        sys.exit("bench.ranks: a slower line between ranks takes Linux, root, and the package iproute2")
    print(f"{describe_machine()}\n")
    compare_on_one_machine()
    print_model(measure([*JOBS, UNSEEN]))


if __name__ == "__main__":
    main()
