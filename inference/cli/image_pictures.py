"""Pictures of a game of images: samples, their nearest training images beside them, what lies between two of them."""

from typing import Any

import torch
from torch import Tensor

from inference.adversarial.latent import interpolate
from inference.adversarial.neighbours import nearest
from inference.cli.game_data import GameData
from inference.cli.games import GameRun
from inference.cli.snapshots import conditions_of
from inference.comparison.figures import image_grid, png_bytes
from inference.comparison.game_report import Picture

__all__ = ["decoded", "image_pictures"]

SAMPLES, BESIDE, NEIGHBOURS, WALKS, STEPS = 64, 16, 3, 6, 10


@torch.no_grad()
def decoded(generator: Any, z: Tensor, *conditions: Tensor) -> Tensor:
    """Images (N, D) of noise z (N, Z), the generator in eval mode as it was loaded."""
    like = next(generator.parameters())
    return generator(z.to(like), *(part.to(like.device) for part in conditions)).cpu()


def image_pictures(run: GameRun, generator: Any, found: GameData) -> list[Picture]:
    """The page's pictures; the generator is in eval mode."""
    shape = found.image_shape
    assert shape is not None

    def grid(x: Tensor, columns: int) -> bytes:
        return png_bytes(image_grid(x.reshape(-1, *shape), columns))

    x = generator.generate(SAMPLES, run.seed, *conditions_of(run, SAMPLES)).cpu()
    near = nearest(x[:BESIDE], found.x, NEIGHBOURS)
    beside = torch.cat([x[:BESIDE], *(found.x[column] for column in near.index.T)])
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        z = generator.noise(2 * WALKS).cpu()
    walks = torch.cat([interpolate(z[i], z[i + 1], STEPS) for i in range(0, 2 * WALKS, 2)])
    classes = (conditions_of(run, WALKS)[0].repeat_interleave(STEPS),) if run.labels else ()
    return [
        Picture(
            "Samples", f"{SAMPLES} draws of the generator{', the classes in turn' if run.labels else ''}.", grid(x, 16)
        ),
        Picture(
            "Nearest training images",
            f"Samples on top; below each the {NEIGHBOURS} training images nearest to it, by pixels. Where they are the "
            "same image, the generator has learnt it by heart.",
            grid(beside, BESIDE),
        ),
        Picture(
            "Interpolations",
            f"From one draw of noise on the left to another on the right, in {STEPS} steps along a great circle.",
            grid(decoded(generator, walks, *classes), STEPS),
        ),
    ]
