"""The options that every `ppl train MODEL` shares, each written once."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

__all__ = [
    "AdamEps", "BatchSize", "Binarize", "CheckpointEpochs", "CheckpointMinutes", "ClipNorm", "Compile", "Data",
    "Device", "Devices", "Epochs", "KlWarmup", "KlWeight", "Lr", "LrFinal", "Out", "Patience", "Precision", "Seed",
    "Strategy", "Tensorboard", "Threads", "WeightDecay", "learning",
]  # fmt: skip

learning = partial(Option, rich_help_panel="Learning")
_machine = partial(Option, rich_help_panel="Machine and files")

Data = Annotated[str, Option(help="a name from `ppl data`, or a .npy, .npz or folder of images")]
Out = Annotated[Path, Option(help="folder for the run; must be new or empty")]
Binarize = Annotated[str, Option(help="auto, dynamic (each visit draws grey images anew) or none")]
Epochs = Annotated[int, learning(help="passes over the data")]
BatchSize = Annotated[int, learning(help="rows in a step")]
Lr = Annotated[float, learning(help="Adam's learning rate at the start")]
LrFinal = Annotated[float, learning(help="and at the end; it falls on a straight line")]
Seed = Annotated[int, Option(help="of weights, batches and draws")]
WeightDecay = Annotated[float, learning(help="decoupled, of every weight")]
# Burda's 1e-4 for the VAE: pixels that are hardly ever on would else take steps as long as all others
AdamEps = Annotated[float, learning(help="Adam's eps: larger shortens the steps of rarely moved weights")]
ClipNorm = Annotated[float | None, learning(help="largest norm of the gradient")]
KlWeight = Annotated[float, learning(help="of the regulariser: 1 is the bound itself, less lets codes tell more")]
KlWarmup = Annotated[int, learning(help="epochs over which the regulariser's weight rises to 1")]
Patience = Annotated[int | None, learning(help="stop after so many epochs without a better held-out bound")]
Device = Annotated[str, _machine(help="cpu, cuda or auto")]
Devices = Annotated[int, _machine(help="processes, one a device")]
Strategy = Annotated[str, _machine(help="of several processes: auto or ddp")]
Compile = Annotated[str, _machine(help="compile the step: auto (once the run is long enough to pay for it), on or off")]
Precision = Annotated[str, _machine(help="32-true or bf16-mixed")]
Threads = Annotated[int, _machine(help="CPU threads; 0 leaves torch its own choice")]
CheckpointEpochs = Annotated[int, _machine(help="a checkpoint after so many epochs")]
CheckpointMinutes = Annotated[float, _machine(help="and after so many minutes")]
Tensorboard = Annotated[bool, _machine(help="log to OUT/tensorboard too")]
