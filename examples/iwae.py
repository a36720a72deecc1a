"""IWAE against the ELBO at equal steps, on the same images: the bound that a model was trained on shows in log p(x)."""

import torch

from inference import IWAE, SVI, TraceELBO, fit, importance_weights, linear
from inference.evidence.importance import bound_per_datum
from ppl_models import VAE, data


def main(epochs: int = 60) -> float:
    train, test = data.digits()
    binary = data.binarize(test.x, torch.Generator().manual_seed(0))
    log_p = {}
    for name, objective in {"ELBO": TraceELBO(), "IWAE": IWAE(5), "IWAE, DReG": IWAE(5, "dreg")}.items():
        torch.manual_seed(0)  # the same first weights for each
        vae = VAE(64, z_dim=20, hidden=(200, 200), mean=train.x.mean(0))
        svi = SVI(vae, objective, torch.optim.Adam(vae.parameters(), 3e-3))
        fit(svi, data.Batches(train.x, 25, binarize=True), epochs, seed=0, schedule=linear(0.01), progress=True)
        log_p[name] = bound_per_datum(importance_weights(vae, binary, 1000), 1000)
        difference = log_p[name] - log_p["ELBO"]
        se = difference.std() / len(difference) ** 0.5
        print(f"{name:10}  log p(x) >= {log_p[name].mean():.2f} nats; to the ELBO {difference.mean():+.2f} +- {se:.2f}")
    return float(log_p["IWAE"].mean())


if __name__ == "__main__":
    main()
