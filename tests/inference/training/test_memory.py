"""keep_freed_memory: what a process frees stays with it."""

import platform
import subprocess
import sys

import pytest

from inference.training.memory import keep_freed_memory

COUNT = """
import resource, sys, torch
from inference.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
before = megabytes()
several = [torch.ones(2**20) for _ in range(16)]  # 64 MB
del several
print(megabytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_freed_memory_stays_with_the_process():
    held = {
        how: float(
            subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True).stdout
        )
        for how in ("keep", "as it is")
    }
    assert held["keep"] > 60
    assert held["as it is"] < 10


def test_another_c_library_is_left_alone(monkeypatch):
    def none(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", none)
    assert not keep_freed_memory()
