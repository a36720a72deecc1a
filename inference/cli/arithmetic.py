"""`ppl arithmetic`: sums of latent codes, the survey's Figure 9, and walks between two, of any trained generator."""

from pathlib import Path
from typing import Annotated, Any

import typer

from inference.cli.app import app, guarded

__all__ = ["arithmetic"]

JITTER = 0.25  # standard deviation of the noise around the sum, where that of a code is 1
STEPS = 10


@app.command()
@guarded
def arithmetic(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="a run of gan, dcgan, lapgan or vae, of images")],
    out: Annotated[Path, typer.Option(help="the PNG file to write")],
    plus: Annotated[str | None, typer.Option(help="numbers of samples that show a property: 3,17,42")] = None,
    minus: Annotated[str | None, typer.Option(help="of samples that are alike but lack it: 5,8,9")] = None,
    to: Annotated[str | None, typer.Option(help="of samples that are to get it: 1,2,6")] = None,
    between: Annotated[str | None, typer.Option(help="walk between two samples in their place: 3,17")] = None,
    n: Annotated[int, typer.Option("-n", help="samples to choose from")] = 64,
    seed: Annotated[int, typer.Option(help="of the samples: their numbers hold for one seed and every -n")] = 0,
) -> None:
    """Add and subtract what samples show: without numbers a sheet of samples to pick them from."""
    from inference.cli.sample import check_png
    from inference.comparison.figures import image_grid, save_png
    from inference.comparison.game_pictures import numbered
    from inference.errors import RunError

    check_png(out, n)
    sums = {"plus": plus, "minus": minus, "to": to}
    given = [name for name, words in sums.items() if words is not None]
    if between is not None and given:
        raise RunError(f"--between is a walk and --{given[0]} part of a sum: give one of the two")
    if given and len(given) < 3:
        missing = next(name for name, words in sums.items() if words is None)
        raise RunError(
            f"a sum takes --plus, --minus and --to, and --{missing} is missing: add it, such as --{missing} 1,2,6"
        )
    picked = {
        name: _numbers(name, words, n) for name, words in {**sums, "between": between}.items() if words is not None
    }
    if between is not None and len(picked["between"]) != 2:
        raise RunError(f"--between takes the numbers of two samples, got {between}: pass for example --between 3,17")
    generator, shape, classes = _generator(run_dir)
    z = _codes(generator, n, seed)
    if between is not None:
        x, columns = _walk(generator, z, picked["between"], classes), STEPS
    elif given:
        x, columns = _sum(generator, z, picked, classes, seed)
    else:
        x, columns = _images(generator, z, classes, range(n)), max(1, round(n**0.5))
    pixels = x.reshape(-1, *shape)
    sheet = numbered(pixels, columns) if not picked else image_grid(pixels, columns, cell=64)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_png(sheet, out)
    typer.echo(str(out))
    if not picked:
        typer.echo("Pick by number: --plus 3,17,42 --minus 5,8,9 --to 1,2,6, or --between 3,17.", err=True)


def _numbers(name: str, words: str, n: int) -> list[int]:
    """The samples that an option names."""
    from inference.cli.running import integers
    from inference.errors import RunError

    chosen = integers(name, words)
    bad = [number for number in chosen if not 0 <= number < n]
    if bad:
        raise RunError(f"--{name} names sample {bad[0]}, and the sheet has those from 0 to {n - 1}: raise -n")
    return chosen


def _generator(folder: Path) -> tuple[Any, tuple[int, ...], int | None]:
    """Something with `noise` and `forward`, the shape of its images, and its classes."""
    from inference.cli.game_folder import is_game, load_game, open_game
    from inference.cli.runs import load_model, open_run
    from inference.errors import RunError

    if is_game(folder):
        game = open_game(folder)
        if game.image_shape is None:
            raise RunError(f"{folder} is a game of points, not images: look at {folder / 'report.html'}")
        return load_game(folder, game).generator, tuple(game.image_shape), game.generator.get("n_classes")
    run = open_run(folder)
    if run.model != "vae" or run.options["image_shape"][1] < 2:
        raise RunError(f"{folder} holds a run of {run.model}: name one of gan, dcgan, lapgan or vae, of images")
    return _Decoder(load_model(folder, run)[0].owner, run.options["z_dim"]), tuple(run.options["image_shape"]), None


class _Decoder:
    """A VAE as a generator: mean images of draws from the prior."""

    def __init__(self, vae: Any, z_dim: int):
        self.vae, self.z_dim, self.parameters = vae, z_dim, vae.parameters

    def noise(self, n: int) -> Any:
        import torch

        return torch.randn(n, self.z_dim)

    def __call__(self, z: Any) -> Any:
        return self.vae.decode(z)


def _codes(generator: Any, n: int, seed: int) -> Any:
    """A code for each number, the same for every n: (n, Z)."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.cat([generator.noise(1).cpu() for _ in range(n)])


def _images(generator: Any, z: Any, classes: int | None, numbers: Any) -> Any:
    """Images of codes; sample i is of class i in turn, where there are classes."""
    import torch

    from inference.cli.image_pictures import decoded

    return decoded(generator, z, *(() if classes is None else (torch.tensor([i % classes for i in numbers]),)))


def _walk(generator: Any, z: Any, ends: list[int], classes: int | None) -> Any:
    """From one sample to another along a great circle, in the first one's class."""
    from inference.adversarial.latent import interpolate

    return _images(generator, interpolate(z[ends[0]], z[ends[1]], STEPS), classes, [ends[0]] * STEPS)


def _sum(generator: Any, z: Any, picked: dict[str, list[int]], classes: int | None, seed: int) -> tuple[Any, int]:
    """A row for each term, its exemplars and their mean; below the result's image and eight around it: (N, D)."""
    import torch

    from inference.adversarial.latent import arithmetic

    columns = max(4, 1 + max(len(numbers) for numbers in picked.values()))
    rows = []
    for numbers in picked.values():
        codes = torch.cat([z[numbers], z[numbers].mean(0, keepdim=True)])
        x = _images(generator, codes, classes, [*numbers, numbers[0]])
        grey = torch.full((columns - len(x), x.shape[1]), 0.5)
        rows += [x[:-1], grey, x[-1:]]  # the mean at the right
    result = arithmetic(*(z[picked[name]] for name in ("plus", "minus", "to")))
    count = 2 * columns
    noise = torch.randn(count - 1, len(result), generator=torch.Generator().manual_seed(seed))
    around = torch.cat([result.unsqueeze(0), result + JITTER * noise])
    return torch.cat([*rows, _images(generator, around, classes, [picked["to"][0]] * count)]), columns
