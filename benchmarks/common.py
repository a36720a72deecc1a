"""What the benchmarks share: contestants in turn, the machine in one line, the ratios as they are reported."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

__all__ = ["Timing", "in_turn", "machine", "matmul_speed", "parser", "report"]


class Timing(NamedTuple):
    """Medians over the timed calls of one contestant."""

    ms: float  # wall clock, milliseconds a call
    cpu_ms: float  # of all threads of the process, milliseconds a call


def in_turn(
    candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int, block: int = 1
) -> dict[str, Timing]:
    """Time the contestants in one process, `block` calls of each a round, who goes first rotated from round to round.

    Whatever slows the machine for a while slows all of them, and nobody always runs behind the same neighbour.
    """
    names = list(candidates)
    for name in names:
        for _ in range(warmup):
            candidates[name]()
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for r in range(rounds):
        for i in range(len(names)):
            name = names[(r + i) % len(names)]
            call = candidates[name]
            for _ in range(block):
                wall0, cpu0 = time.perf_counter(), time.process_time()
                call()
                wall[name].append(time.perf_counter() - wall0)
                cpu[name].append(time.process_time() - cpu0)
    return {name: Timing(1e3 * statistics.median(wall[name]), 1e3 * statistics.median(cpu[name])) for name in names}


def matmul_speed(n: int, n_in: int, n_out: int, repeats: int = 300) -> float:
    """Floating-point operations a second of a float32 product (n, n_in) x (n_in, n_out), 2 a multiply-add."""
    a, b = torch.rand(n, n_in), torch.rand(n_in, n_out)
    best = float("inf")  # the fastest of all: a floor must not carry another job's load
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * n * n_in * n_out / best


def machine() -> str:
    """The machine and the versions that a figure belongs to."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = f"{len(models)} cores of {models[0]}" if models else cpu
    versions = ", ".join(f"{name} {version(dist)}" for name, dist in (("torch", "torch"), ("pyro", "pyro-ppl")))
    return f"{cpu}, {torch.get_num_threads()} threads, {versions}, python {platform.python_version()}"


def parser(text: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    p = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=rounds, help=f"turns of each contestant (default {rounds})")
    p.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there as well")
    return p


def report(ratios: Mapping[str, float], path: Path | None = None) -> None:
    """Print `name value` for each ratio, last of all, and write the same as JSON."""
    if path is not None:
        path.write_text(json.dumps({name: round(value, 4) for name, value in ratios.items()}, indent=2) + "\n")
    for name, value in ratios.items():
        print(f"{name} {value:.3f}")
