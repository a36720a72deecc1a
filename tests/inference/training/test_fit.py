"""The epoch loop: a run that is killed, stopped or spoilt goes on as if nothing had happened, or says what did.

Run as a script, this file is the process that gets killed, or one of two processes that train together.
"""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from inference import SVI, Saving, TraceELBO, TraceEnumELBO, fit, linear
from inference.errors import NonFiniteError, RunError
from inference.training.checkpoint import load
from inference.training.monitor import Interrupted
from inference.training.run import CHECKPOINT, METRICS
from ppl_models import VAE, data

PPL = str(Path(sysconfig.get_path("scripts"), "ppl"))
EPOCHS, PER_EPOCH = 4, 6


def stepper(seed: int = 0) -> SVI:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = VAE(64, z_dim=3, hidden=(16,))
    return SVI(vae, TraceELBO(), lambda p: Adam(p, 1e-2), clip_norm=50.0, kl_warmup_steps=2 * PER_EPOCH)


def batches() -> data.Batches:
    return data.Batches(data.digits()[0].x[:290], 50, binarize=True)  # the last of 6 batches is smaller


def train(svi: SVI, out: Path | None = None, minutes: float = 10.0, epochs: int = EPOCHS, **more: Any) -> list[dict]:
    saving = None if out is None else Saving(out, minutes=minutes)
    return fit(svi, batches(), epochs, seed=3, saving=saving, schedule=linear(0.1), **more)


def before_step(svi: SVI, number: int, act: Any) -> None:
    """Do something just before step `number`, counted from 0; `act` takes the batch and gives it back."""
    step = svi.step

    def wrapped(*batch: Any) -> Any:
        return step(*(act(*batch) if svi.steps == number else batch))

    svi.step = wrapped  # type: ignore[method-assign]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def clockless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def assert_same_run(out: Path, other: Path) -> None:
    """Parameters, optimiser and RNG equal bit for bit, and the same line for every epoch."""
    (tensors, meta), (tensors2, meta2) = load(out / CHECKPOINT), load(other / CHECKPOINT)
    assert tensors.keys() == tensors2.keys()
    assert any("exp_avg_sq" in name for name in tensors)
    for name, value in tensors.items():
        assert torch.equal(value, tensors2[name]), name
    assert meta["stepper"] == meta2["stepper"]
    rows, rows2 = clockless(lines(out)), clockless(lines(other))
    assert len(rows) == len(rows2)
    for row, row2 in zip(rows, rows2, strict=True):
        assert row == pytest.approx(row2, rel=1e-12)  # sums in another order, where a stop cut them


class Mixture(nn.Module):
    """Three Gaussians, the label summed out: a bound without noise."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))
        self.means = nn.Parameter(torch.tensor([-1.0, 0.5, 2.0]))

    def model(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(self.means[y], 1.0), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        pass


def mix(fabric: Any = None, epochs: int = 1) -> tuple[Mixture, list[dict[str, Any]]]:
    mixture = Mixture()
    x = torch.randn(80, generator=torch.Generator().manual_seed(1)) * 2
    svi = SVI(mixture, TraceEnumELBO(), SGD(mixture.parameters(), 0.5))
    return mixture, fit(svi, data.Batches(x, 80 if epochs == 1 else 32), epochs, fabric=fabric)


# -- killed, stopped, resumed ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole")
    train(stepper(), out)
    torch.set_num_threads(threads)
    return out


@pytest.mark.parametrize(("minutes", "position"), [(10.0, 0), (0.0, 3)], ids=["every epoch", "every step"])
def test_killed_in_mid_epoch_and_resumed_a_run_is_the_same_bit_for_bit(tmp_path, whole, minutes, position):
    out = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, __file__, "hang", str(out), str(minutes), str(2 * PER_EPOCH + 3)],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    _, meta = load(out / CHECKPOINT)
    assert (meta["run"]["epoch"], meta["run"]["position"]) == (2, position)
    history = train(stepper(seed=9), out, resume=True)
    assert_same_run(out, whole)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert clockless(history) == clockless(lines(out))


def test_lines_after_the_last_checkpoint_are_written_anew(tmp_path, whole):
    svi = stepper()

    def spoil(x: torch.Tensor) -> tuple[torch.Tensor]:
        raise RuntimeError("power cut")

    before_step(svi, 3 * PER_EPOCH + 1, spoil)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(svi, batches(), EPOCHS, seed=3, saving=Saving(tmp_path, epochs=2), schedule=linear(0.1))
    assert len(lines(tmp_path)) == 3
    train(stepper(), tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [PER_EPOCH + 2, 2 * PER_EPOCH - 1])
def test_a_signal_stops_between_steps_and_saves(tmp_path, whole, number, step):
    svi = stepper()
    before_step(svi, step, lambda x: (os.kill(os.getpid(), number), (x,))[1])
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=re.escape(f"`ppl train --resume {tmp_path}`")):
        train(svi, tmp_path)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert svi.steps == step + 1
    train(stepper(), tmp_path, resume=True)
    assert_same_run(tmp_path, whole)


def test_a_signal_without_a_folder_says_that_nothing_is_saved():
    svi = stepper()
    before_step(svi, 2, lambda x: (os.kill(os.getpid(), signal.SIGINT), (x,))[1])
    with pytest.raises(Interrupted, match="nothing was saved"):
        train(svi)


def test_ctrl_c_on_the_command_line(tmp_path, monkeypatch, capfd):
    from inference.cli import main

    words = "train vae --data digits --hidden 16 --z-dim 2 --batch-size 50 --epochs 12 --threads 1 --out".split()
    with subprocess.Popen([PPL, *words, "a"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "a" / METRICS
        while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert len([line for line in said.splitlines() if "`ppl train --resume a`" in line]) == 1
    assert "Traceback" not in said
    done = load(tmp_path / "a" / CHECKPOINT)[1]["run"]["epoch"]
    assert 1 <= done < 12
    monkeypatch.chdir(tmp_path)
    for command in (["train", "--resume", "a"], [*words, "b"]):
        monkeypatch.setattr(sys, "argv", ["ppl", *command])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code in (0, None), capfd.readouterr().err
    assert len(lines(tmp_path / "a")) == 12
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_resume_refuses_what_does_not_fit(tmp_path, whole):
    with pytest.raises(RunError, match="resume with that seed"):
        fit(stepper(), batches(), 5, seed=4, saving=Saving(whole), resume=True)
    with pytest.raises(RunError, match="resume needs saving"):
        fit(stepper(), batches(), 5, resume=True)
    with pytest.raises(ValueError, match="there is no checkpoint"):
        fit(stepper(), batches(), 5, saving=Saving(tmp_path), resume=True)


def test_a_folder_that_holds_a_run_is_not_written_over(whole):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(RunError, match="holds a run already: pass resume=True"):
        train(stepper(), whole)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_a_finished_run_can_be_given_more_epochs(tmp_path):
    train(stepper(), tmp_path, epochs=1)
    assert len(train(stepper(), tmp_path, epochs=2, resume=True)) == len(lines(tmp_path)) == 2
    assert len(train(stepper(), tmp_path, epochs=2, resume=True)) == len(lines(tmp_path)) == 2


# -- randomness --------------------------------------------------------------------------------------------------------


def test_the_callers_rng_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    train(stepper(), tmp_path, epochs=1, validate=lambda: float(torch.rand(())))
    train(stepper(), tmp_path, epochs=2, resume=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_seed_one_result(whole):
    def last(seed: int, shift: int = 0) -> torch.Tensor:
        torch.manual_seed(shift)  # the caller's state is no ingredient
        svi = stepper()
        fit(svi, batches(), 2, seed=seed)
        return torch.cat([p.detach().flatten() for p in svi.pair.named_parameters().values()])

    assert torch.equal(last(0), last(0, shift=5))
    assert not torch.equal(last(0), last(1))


def test_validation_does_not_disturb_training(tmp_path, whole):
    history = train(stepper(), tmp_path, validate=lambda: float(torch.rand(1000).mean()))
    assert torch.equal(load(tmp_path / CHECKPOINT)[0]["rng.cpu"], load(whole / CHECKPOINT)[0]["rng.cpu"])
    assert [row["loss"] for row in history] == [row["loss"] for row in lines(whole)]


# -- history, early stopping, options ----------------------------------------------------------------------------------


def test_the_history_says_what_happened(whole):
    rows = lines(whole)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [6, 12, 18, 24]
    for row in rows:
        assert row["loss"] == pytest.approx(-row["reg"] - row["rec"], rel=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["lr"] == pytest.approx(1e-2 * (1 - 0.9 * 23 / 24))
    assert sorted(row["seconds"] for row in rows) == [row["seconds"] for row in rows]


def test_the_mean_of_an_epoch_is_weighted_by_rows():
    class Constant(SVI):
        def step(self, *batch: Any) -> Any:
            info = super().step(*batch)
            return info._replace(loss=torch.tensor(float(len(batch[0]))), reg=None, rec=None)

    vae = VAE(64, z_dim=2, hidden=(4,))
    (row,) = fit(Constant(vae, TraceELBO(), Adam(vae.parameters(), 1e-3)), batches(), 1)
    assert row["loss"] == pytest.approx((5 * 50 * 50 + 40 * 40) / 290)
    assert "reg" not in row


def test_patience_stops_and_keeps_the_history(tmp_path):
    losses = [3.0, 2.0, 2.5, 2.0, 1.0, 0.0]
    seen = iter(losses)
    history = train(stepper(), tmp_path, epochs=6, validate=lambda: next(seen), patience=2)
    assert [row["valid"] for row in history] == losses[:4]
    assert len(lines(tmp_path)) == load(tmp_path / CHECKPOINT)[1]["run"]["epoch"] == 4
    # resumed, it is a finished run
    again = train(stepper(), tmp_path, epochs=6, validate=lambda: next(seen), patience=2, resume=True)
    assert again == history
    assert len(lines(tmp_path)) == 4


def test_bad_options_are_refused_before_anything_is_written(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RunError, match="patience needs a validation loss: pass validate="):
        train(stepper(), out, patience=3)
    with pytest.raises(RunError, match="patience is at least 1"):
        train(stepper(), out, patience=0, validate=lambda: 0.0)
    with pytest.raises(RunError, match="epochs is at least 1, got 0"):
        train(stepper(), out, epochs=0)
    with pytest.raises(RunError, match="after at least 1 epoch"):
        fit(stepper(), batches(), 1, saving=Saving(out, epochs=0))
    assert not out.exists()


def test_tensorboard_gets_its_event_files(tmp_path):
    pytest.importorskip("tensorboard")
    fit(stepper(), batches(), 1, saving=Saving(tmp_path, tensorboard=True))
    (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert b"loss" in events.read_bytes()


def test_without_tensorboard_a_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("inference.training.fit.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"pip install 'ppl-models\[tensorboard\]'"):
        fit(stepper(), batches(), 1, saving=Saving(tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()


# -- NaN ---------------------------------------------------------------------------------------------------------------


def test_a_nan_names_step_site_and_checkpoint_and_leaves_the_parameters(tmp_path):
    svi = stepper()
    kept: dict[str, torch.Tensor] = {}

    def spoil(x: torch.Tensor) -> tuple[torch.Tensor]:
        kept.update({name: p.detach().clone() for name, p in svi.pair.named_parameters().items()})
        return (torch.full_like(x, torch.nan),)

    before_step(svi, 8, spoil)
    with pytest.raises(NonFiniteError) as error:
        train(svi, tmp_path)
    words = str(error.value)
    assert "\n" not in words
    assert "the loss is nan at step 9, first at the guide's site 'z'" in words
    assert f"the last good checkpoint is {tmp_path / CHECKPOINT}" in words
    assert all(torch.equal(p, kept[name]) for name, p in svi.pair.named_parameters().items())
    assert load(tmp_path / CHECKPOINT)[1]["run"]["epoch"] == 1


def test_a_nan_before_the_first_checkpoint_says_so(tmp_path):
    svi = stepper()
    before_step(svi, 1, lambda x: (x * torch.nan,))
    with pytest.raises(NonFiniteError, match="there is no checkpoint yet"):
        train(svi, tmp_path)


def test_parameters_that_a_last_step_spoilt_never_reach_the_checkpoint(tmp_path):
    svi = stepper()
    step = svi.step

    def spoilt(*batch: Any) -> Any:
        info = step(*batch)
        if svi.steps == 2 * PER_EPOCH:  # the loss was finite, the gradient was not
            with torch.no_grad():
                svi.pair.owner.head.linear.bias[0] = torch.nan
        return info

    svi.step = spoilt  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="'head.linear.bias' is not finite after 2 epochs") as error:
        train(svi, tmp_path)
    assert "the last good checkpoint is" in str(error.value)
    tensors, meta = load(tmp_path / CHECKPOINT)
    assert meta["run"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for name, value in tensors.items())


# -- two processes -----------------------------------------------------------------------------------------------------


def test_two_processes_take_the_steps_of_one_on_the_joint_batch(tmp_path):
    done = subprocess.run([sys.executable, __file__, "two", str(tmp_path / "two.pt")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for epochs, two in enumerate(torch.load(tmp_path / "two.pt", weights_only=True), start=1):
        one, history = mix(epochs=epochs)
        for name, value in one.state_dict().items():
            torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0)
            assert not torch.equal(value, Mixture().state_dict()[name])  # it did learn
        torch.testing.assert_close(two["losses"], torch.tensor([row["loss"] for row in history]), atol=1e-5, rtol=0)


def test_two_processes_on_the_command_line(tmp_path):
    words = "train vae --data digits --hidden 16 --z-dim 2 --devices 2 --strategy ddp --epochs 1 --threads 1".split()
    done = subprocess.run([PPL, *words, "--out", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "checkpoint.safetensors",
        "config.json",
        "metrics.jsonl",
        "report.html",
    }
    assert len(lines(tmp_path / "run")) == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, target, *rest = sys.argv[1:]
    if what == "hang":  # train up to a step, say so, and wait there for the end
        hanging = stepper()
        before_step(hanging, int(rest[1]), lambda x: (print("ready", flush=True), time.sleep(600), (x,))[2])
        train(hanging, Path(target), float(rest[0]))
    else:
        from lightning_fabric import Fabric

        two = Fabric(accelerator="cpu", devices=2, strategy="ddp")
        two.launch()
        results = []
        for count in (1, 2):  # one step, then steps of several batches
            learned, rows = mix(two, count)
            results.append(learned.state_dict() | {"losses": torch.tensor([row["loss"] for row in rows])})
        if two.is_global_zero:
            torch.save(results, target)
