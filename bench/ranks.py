"""What training on many processes gives and costs, on one machine and over a network, and a model of it.

`python -m bench.ranks`: the tables of the README. Linux alone; the network is two namespaces, which only root can make.
"""

import argparse
import contextlib
import fcntl
import json
import math
import multiprocessing
import os
import re
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

import nn
import train
from bench.compare import ROOT, describe_machine, header, line
from data.augment import Strengths, usual_strengths
from data.batches import make_batches
from data.load import load, scale_pixels
from data.pickles import load_tree, save_tree

if TYPE_CHECKING:
    from mpi4py import MPI

MPIEXEC = Path(sys.executable).with_name("mpiexec")
GIGABIT = 1e9 / 8  # bytes a second
HOSTS = ("mlp-a", "mlp-b")  # network namespaces
ENTER = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done  # flags of ssh
host=$1
shift
exec ip netns exec "$host" sh -c "$*"
"""
TCP_ALONE = {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "v0"}  # no shared memory between them
WIDTHS, BATCHES, DELAYS = (1, 128, 512, 1024), (128, 1024), (0.0, 1.0, 10.0)  # units, samples, ms one way
UNSEEN = (384, 512, 5.0)  # which the model is not fitted to


class Job(NamedTuple):
    """A training to time, 784-width-width-10 with Adam."""

    width: int
    batch: int
    steps: int  # an epoch
    epochs: int = 2  # the last is timed
    dtype: str = "float32"
    augmented: bool = False
    save: str = ""  # a file for the parameters

    @property
    def layers(self) -> list[int]:
        """Units of each layer."""
        return [784, self.width, self.width, 10]

    @property
    def size(self) -> int:
        """Numbers in the parameters."""
        return sum((m + 1) * n for m, n in zip(self.layers, self.layers[1:]))


class Timed:
    """A communicator that counts the seconds spent in Allreduce, on the data and on waiting for the others."""

    def __init__(self, comm: "MPI.Comm") -> None:
        self.comm, self.seconds = comm, 0.0

    def Allreduce(self, part: nn.Array, total: nn.Array) -> None:
        started = time.perf_counter()
        self.comm.Allreduce(part, total)
        self.seconds += time.perf_counter() - started


class Step(NamedTuple):
    """Mean seconds of a step, and of its Allreduce."""

    seconds: float
    allreduce: float


def work(job: Job, comm: "MPI.Comm") -> Step:
    """Trains as one of the ranks, and times the last epoch."""
    np.empty(30_000_000, np.uint8)  # as train.main does
    timed, (X, Y) = Timed(comm), load("mnist", "train")
    X, T = X[: job.batch * job.steps], nn.one_hot(Y[: job.batch * job.steps], job.layers[-1])
    local: nn.Gradients = lambda params, x, t: nn.loss_and_gradients(params, scale_pixels(x), t)
    gradients = train.all_reduce(local, cast("MPI.Comm", timed))
    params = nn.init_params(job.layers, nn.INITS["he"], np.random.default_rng(0), job.dtype)
    optimizer, strengths = nn.OPTIMIZERS["adam"], usual_strengths("mnist") if job.augmented else Strengths()
    state = nn.init_state(params, optimizer)
    for epoch in range(job.epochs):
        timed.seconds, started = 0.0, time.perf_counter()
        batches = make_batches(X, T, job.batch, np.random.default_rng([0, epoch]), strengths, comm.rank, comm.size)
        states = nn.gradient_descent(state, batches, optimizer, lambda step: 0.001, gradients)
        state = deque(states, maxlen=1).pop()
        seconds = time.perf_counter() - started
    if job.save and comm.rank == 0:
        save_tree(Path(job.save), state["params"])
    return Step(seconds / job.steps, timed.seconds / job.steps)


def launch(job: Job, ranks: int = 2, threads: int = 1, far: bool = False) -> Step:
    """Trains with ranks on this machine, or one on each of HOSTS. RuntimeError where they fail."""
    worker = ["-m", "mpi4py", "-m", "bench.ranks", "--worker", json.dumps(job)]
    start, variables = [str(MPIEXEC), "-n", str(ranks)], {"OPENBLAS_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        if far:
            enter = Path(folder) / "enter"
            enter.write_text(ENTER)
            enter.chmod(0o755)
            start += f"-launcher ssh -launcher-exec {enter} -hosts {','.join(HOSTS)} -ppn 1 -iface v0".split()
            start, variables = ["ip", "netns", "exec", HOSTS[0], *start], variables | TCP_ALONE
        return Step(*json.loads(execute(start, worker, variables)))


def execute(start: list[str], command: list[str], variables: Mapping[str, str]) -> str:
    """What a Python command prints when start, of mpiexec, has started it. RuntimeError where it fails."""
    whole, environment = [*start, sys.executable, *command], os.environ | variables
    done = subprocess.run(whole, cwd=ROOT, capture_output=True, env=environment, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def relay(ends: Sequence[int], delay: float) -> None:
    """Carries Ethernet frames between two TAP devices, at a gigabit a second and delay seconds late, until killed."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)  # the ranks keep all cores busy
    underway: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in ends}
    free = dict.fromkeys(ends, 0.0)  # when the line has sent all it was given
    while True:
        due = min((frames[0][0] for frames in underway.values() if frames), default=math.inf)
        wait = None if due == math.inf else max(0.0, due - time.monotonic())
        for end in select.select(ends, [], [], wait)[0]:
            frame = os.read(end, 65536)
            free[end] = max(free[end], time.monotonic()) + len(frame) / GIGABIT
            underway[end].append((free[end] + delay, frame))
        for end, other in zip(ends, reversed(ends)):
            while underway[end] and underway[end][0][0] <= time.monotonic():
                os.write(other, underway[end].popleft()[1])


def ip(*words: str) -> None:
    """Runs a command of iproute2."""
    subprocess.run(["ip", *words], check=True)


def join_hosts(late: bool) -> list[int]:
    """Gives each of HOSTS its end, v0, of a gigabit line: of a veth pair, or if late, of what relay is to carry.

    Returns the ends that relay takes. Not every kernel has netem, which could delay a veth pair.
    """
    ends: list[int] = []
    if not late:
        ip("link", "add", "v0", "netns", HOSTS[0], "type", "veth", "peer", "name", "v0", "netns", HOSTS[1])
    for number, host in enumerate(HOSTS, start=1):
        if late:
            ends.append(os.open("/dev/net/tun", os.O_RDWR))
            fcntl.ioctl(ends[-1], 0x400454CA, struct.pack("16sH22x", host.encode(), 0x1002))  # TUNSETIFF, TAP
            ip("link", "set", host, "netns", host, "name", "v0")
        else:
            limit = f"-n {host} qdisc add dev v0 root tbf rate 1gbit burst 32kb latency 50ms"
            subprocess.run(["tc", *limit.split()], check=True)
        ip("-n", host, "address", "add", f"10.9.0.{number}/24", "dev", "v0")
        ip("-n", host, "link", "set", "v0", "mtu", "9000", "up")
        ip("-n", host, "link", "set", "lo", "up")
    return ends


@contextlib.contextmanager
def network(delay: float) -> Iterator[None]:
    """HOSTS, joined by a gigabit a second, with a delay in ms one way."""
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], stderr=subprocess.DEVNULL)  # of a run that was killed
        ip("netns", "add", host)
    cable, ends = None, join_hosts(late=delay > 0)
    try:
        if ends:
            cable = multiprocessing.get_context("fork").Process(target=relay, args=(ends, delay / 1000), daemon=True)
            cable.start()
        time.sleep(2)  # the kernel takes a second to see that a line is up
        yield
    finally:
        if cable:
            cable.kill()
            cable.join()
        for end in ends:
            os.close(end)
        for host in HOSTS:
            ip("netns", "del", host)


class Model(NamedTuple):
    """Seconds of a step with p ranks of which each takes rows of a batch, for parameters of that size:

    per_step + per_product * rows * size + per_number * size
    + log2(p) * (latency + per_delay * delay) + 2 (p - 1) / p * 4 size / bandwidth.
    """

    per_step: float
    per_product: float
    per_number: float
    latency: float
    per_delay: float
    bandwidth: float  # bytes a second

    def predict(self, job: Job, ranks: int, delay: float) -> Step:
        """What a step and its Allreduce take; delay in ms one way."""
        rows = job.batch / ranks
        compute = self.per_step + self.per_product * rows * job.size + self.per_number * job.size
        late = math.log2(ranks) * (self.latency + self.per_delay * delay / 1000)
        allreduce = late + 2 * (ranks - 1) / ranks * 4 * job.size / self.bandwidth
        return Step(compute + allreduce, allreduce)


def solve(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """The coefficients that miss the seconds by the least squares of relative errors."""
    scaled = np.array(rows) / np.array(seconds)[:, None]
    return [float(c) for c in np.linalg.lstsq(scaled, np.ones(len(rows)), rcond=None)[0]]


def fit(measured: Mapping[tuple[Job, float], Step]) -> Model:
    """The model of steps of two ranks, measured with delays in ms."""
    compute = [(1.0, job.batch / 2 * job.size, job.size) for job, _ in measured]
    allreduce = [(1.0, delay / 1000, 4 * job.size) for job, delay in measured]
    per_step, per_product, per_number = solve(compute, [step.seconds - step.allreduce for step in measured.values()])
    latency, per_delay, per_byte = solve(allreduce, [step.allreduce for step in measured.values()])
    return Model(per_step, per_product, per_number, latency, per_delay, 1 / per_byte)


def compare_results() -> None:
    """Prints what ranks learn beside one process: the same parameters, and as good a test accuracy."""
    differences = "parameters after 468 steps in float64 differ by", "after one step in float32"
    print(header("ranks", *differences, "`make train`: test accuracy", "seconds of training"))
    with tempfile.TemporaryDirectory() as folder:
        trained: dict[int, list[nn.Params]] = {}
        for ranks in (1, 2, 3):
            trained[ranks] = []
            for job in (Job(128, 128, 468, 1, "float64", True), Job(128, 128, 1, 1, "float32", True)):
                launch(job._replace(save=f"{folder}/job.pkl"), ranks)
                trained[ranks].append(cast(nn.Params, load_tree(Path(folder) / "job.pkl")))
            command = ["-m", "mpi4py", "train.py", "--weights", f"{folder}/weights.pkl"]
            threads = {"OPENBLAS_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks))}
            said = execute([str(MPIEXEC), "-n", str(ranks)], command, threads)
            accuracy, seconds = re.findall(r"accuracy ([\d.]+%) .*, ([\d.]+) s", said)[0]
            pairs = zip(trained[ranks], trained[1])
            most = (max(np.abs(A - alone[k]).max() for k, A in params.items()) for params, alone in pairs)
            print(line(str(ranks), *(f"{difference:.1g}" for difference in most), accuracy, seconds), flush=True)


def compare_on_one_machine() -> None:
    """Prints one process of two threads beside two ranks of one thread."""
    times = "1 process, 2 threads: s an epoch", "2 ranks, 1 thread: s an epoch"
    print(header("width", "batch", *times, "ranks / process", "in Allreduce"))
    for width in (128, 256, 512, 1024):
        for batch in BATCHES:
            job = Job(width, batch, max(10, 60_000 * 64 // (batch * width)))
            pairs = [(launch(job, 1, threads=2), launch(job, 2)) for _ in range(3)]
            one, two = (statistics.median(step.seconds for step in steps) for steps in zip(*pairs))
            waiting = statistics.median(pair[1].allreduce / pair[1].seconds for pair in pairs)
            epochs = (f"{step * 60_000 / batch:.3g}" for step in (one, two))
            print(line(str(width), str(batch), *epochs, f"{two / one:.2f}", f"{waiting:.0%}"), flush=True)


def measure_network() -> dict[tuple[Job, float], Step]:
    """Prints steps of two hosts, the median of three runs, and returns them by job and delay, the unseen case last."""
    print(header("width", "batch", "delay, ms", "ms a step", "in Allreduce, ms"))
    measured = {}
    for delay in (*DELAYS, UNSEEN[2]):
        cases = [UNSEEN[:2]] if delay == UNSEEN[2] else [(width, batch) for width in WIDTHS for batch in BATCHES]
        with network(delay):
            for width, batch in cases:
                job = Job(width, batch, 20)
                steps = sorted(launch(job, far=True) for _ in range(3))
                step = measured[job, delay] = steps[1]
                print(line(str(width), str(batch), f"{delay:g}", *(f"{1e3 * s:.3g}" for s in step)), flush=True)
    return measured


def print_model(measured: Mapping[tuple[Job, float], Step]) -> None:
    """Prints the model, its error on the unseen case, and what it predicts."""
    *known, (unseen, delay) = measured
    model = fit({case: measured[case] for case in known})
    print(
        f"\na step takes {1e6 * model.per_step:.0f} us + {1e12 * model.per_product:.1f} ps a sample and parameter"
        f" + {1e9 * model.per_number:.2f} ns a parameter, and with p ranks log2(p) ({1e6 * model.latency:.0f} us +"
        f" {model.per_delay:.1f} delays) + 2 (p - 1) / p bytes / {model.bandwidth / 1e6:.0f} MB/s"
    )
    misses = [model.predict(case[0], 2, case[1]).seconds / measured[case].seconds - 1 for case in known]
    typical, worst = statistics.median(map(abs, misses)), max(map(abs, misses))
    print(f"error on the {len(known)} cases it was fitted to: {typical:.0%} (median), {worst:.0%} (worst)")
    step, guess = measured[unseen, delay].seconds, model.predict(unseen, 2, delay).seconds
    print(
        f"error on the unseen case, width {unseen.width}, batch {unseen.batch}, {delay:g} ms: {guess / step - 1:+.1%}"
        f" ({1e3 * guess:.1f} ms predicted, {1e3 * step:.1f} ms measured)\n"
    )
    print_efficiencies(model)


def print_efficiencies(model: Model) -> None:
    """Prints what the model predicts, far from where it was fitted, for more ranks than two."""
    print("Predicted efficiency, the speed of p ranks over p times that of one, without delay:\n")
    counts = [2**k for k in range(1, 11)]
    print(header("width", "batch", "Gbit/s", *(f"{p} ranks" for p in counts)))
    for width, batch in ((512, 1024), (512, 16384), (2048, 1024), (2048, 16384)):
        for speed in (1, 100):
            faster, job = model._replace(bandwidth=speed * model.bandwidth), Job(width, batch, 1)
            alone = faster.predict(job, 1, 0.0).seconds
            efficiencies = (f"{alone / p / faster.predict(job, p, 0.0).seconds:.0%}" for p in counts)
            print(line(str(width), str(batch), str(speed), *efficiencies))


def can_make_network() -> bool:
    """Whether this is Linux, the user is root, and ip and tc are there."""
    return Path("/dev/net/tun").exists() and os.geteuid() == 0 and None not in map(shutil.which, ("ip", "tc"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    if worker := parser.parse_args(arguments).worker:
        from mpi4py import MPI

        step = work(Job(*json.loads(worker)), MPI.COMM_WORLD)
        if MPI.COMM_WORLD.rank == 0:
            print(json.dumps(step))
        return
    if not can_make_network():
        sys.exit("bench.ranks: the network between two hosts takes Linux, root, and the package iproute2")
    print(f"{describe_machine().partition(' Not installed')[0]}\n")
    compare_results()
    print()
    compare_on_one_machine()
    print()
    print_model(measure_network())


if __name__ == "__main__":
    main()
