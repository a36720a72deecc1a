"""keep_freed_memory: a second use of freed memory costs no page faults."""

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
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)  # 64 MB taken and freed: more than glibc ever keeps by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_freed_memory_is_used_again():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "as it is")
    }
    assert faults["keep"] < 50
    assert faults["as it is"] > 200  # 32 huge pages each time, or 16,384 small ones


def test_another_c_library_is_left_alone(monkeypatch):
    def none(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", none)
    assert not keep_freed_memory()
