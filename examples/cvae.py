"""Three quadrants of 8x8 digits predicted from one: pixel by pixel, and by a conditional VAE, whose pixels agree."""

from pathlib import Path

import pyro
import torch

from inference import SVI, TraceELBO, fit, linear, log_marginal
from inference.comparison.figures import image_grid, save_png
from ppl_models import ConditionalVAE, data
from ppl_models.nn import BernoulliVector, mlp


class Pixelwise(torch.nn.Sequential):
    def model(self, x, c):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", BernoulliVector(self(c)), obs=x)

    def guide(self, x, c): ...  # nothing is latent


def main(epochs: int = 40, out: Path = Path("cvae.png")) -> list[float]:
    train, test = data.digits()
    parts, found = data.image_parts("quadrant", train.image_shape), []
    x, c = parts.split(data.binarize(test.x, torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    for pair in (Pixelwise(*mlp((16, 100, 48))), cvae := ConditionalVAE(48, 16, z_dim=10, hidden=(100,))):
        svi = SVI(pair, TraceELBO(), torch.optim.Adam(pair.parameters(), 3e-3))
        batches = data.SplitBatches(data.Batches(train.x, 25, binarize=True), parts)
        fit(svi, batches, epochs, seed=0, schedule=linear(0.01), progress=True)
        found.append(log_marginal(pair, (x, c), k=500).mean)
        print(f"{type(pair).__name__}: log p(x | c) >= {found[-1]:.2f} nats")
    drawn = parts.join(cvae.predict(c[:8], draws=6), c[:8])  # six completions of eight digits
    save_png(image_grid(drawn.transpose(0, 1).reshape(-1, *train.image_shape), columns=6), out)
    return found


if __name__ == "__main__":
    main()
