"""Factor analysis is a linear DLGM: fitted by SVI to scikit-learn's 8x8 digits, beside scikit-learn's own EM."""

import numpy as np
import torch
from sklearn.decomposition import FactorAnalysis

from inference import SVI, TraceELBO, fit, linear
from ppl_models import DLGM, data


def main(epochs: int = 100) -> tuple[float, float]:
    train, test = data.digits()
    torch.manual_seed(0)
    # some corner pixels are 0 in every image: noise bounds the density, which has no maximum without
    x, y = (part.x + 0.05 * torch.randn(part.x.shape) for part in (train, test))

    torch.manual_seed(1)
    model = DLGM(64, z_dims=(10,), hidden=((),), likelihood="gaussian", mean=x.mean(0))
    svi = SVI(model, TraceELBO(), torch.optim.Adam(model.parameters(), 3e-2))
    fit(svi, data.Batches(x, 100), epochs, seed=0, schedule=linear(0.01), progress=True)
    theirs = FactorAnalysis(10).fit(x.numpy())

    for name, rows in (("training", x), ("test", y)):
        ours = float(model.marginal().log_prob(rows).mean().detach())
        print(f"{name} images: DLGM {ours:.2f}, scikit-learn {np.mean(theirs.score_samples(rows.numpy())):.2f} nats")
    return ours, float(theirs.score(y.numpy()))


if __name__ == "__main__":
    main()
