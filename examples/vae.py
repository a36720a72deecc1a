"""A VAE on scikit-learn's 8x8 digits: trained, judged by log p(x) in nats, and sampled into a PNG."""

from pathlib import Path

import torch

from inference import SVI, TraceELBO, fit, linear, log_marginal
from inference.comparison.figures import image_grid, save_png
from ppl_models import VAE, data


def main(epochs: int = 100, out: Path = Path("vae.png")) -> float:
    train, test = data.digits()
    vae = VAE(64, z_dim=20, hidden=(200, 200), mean=train.x.mean(0))
    svi = SVI(vae, TraceELBO(), torch.optim.Adam(vae.parameters(), 3e-3))
    # grey pixels are probabilities: every visit draws black and white anew
    batches = data.Batches(train.x, 25, binarize=True)
    history = fit(svi, batches, epochs, seed=0, schedule=linear(0.01), progress=True)
    last = history[-1]
    print(f"loss {last['loss']:.2f} = KL {-last['reg']:.2f} + reconstruction {-last['rec']:.2f} nats")

    binary = data.binarize(test.x, torch.Generator().manual_seed(0))
    nats = log_marginal(vae, binary, k=1000)
    print(f"log p(x) >= {nats.mean:.2f} +- {nats.se:.2f} nats on {nats.num_data} test images (k = {nats.k})")

    save_png(image_grid(vae.generate(64).reshape(-1, *train.image_shape), columns=16), out)
    return nats.mean


if __name__ == "__main__":
    main()
