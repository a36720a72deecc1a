"""One model, four engines: train a network, draw its posterior by VI, Gibbs and enumeration, and ask which to trust."""

from pathlib import Path

import torch
from rich import print

from inference import IWAE, SVI, Exact, Guided, compare, fit
from inference.mcmc.gibbs import Gibbs
from ppl_models import SigmoidBeliefNetwork, data


def main(epochs: int = 40, out: Path = Path("runs/compare")) -> str:
    train, test = data.digits()
    x = data.binarize(test.x, torch.Generator().manual_seed(0))[:20]
    torch.manual_seed(0)
    sbn = SigmoidBeliefNetwork((64, 12), mean=train.x.mean(0))
    svi = SVI(sbn, IWAE(5), torch.optim.Adam(sbn.parameters(), 1e-2))
    fit(svi, data.Batches(train.x, 50, binarize=True), epochs, seed=0, progress=True)
    engines = {
        "guide": Guided(None),  # as it is
        "resampled": Guided(None, resample=20),  # each draw the best of 20, by lot
        "gibbs": Gibbs(chains=4),
        "exact": Exact(2000),
    }
    result = compare(sbn, x, engines, reference="exact")
    print(result)
    print(f"log p(x) = {result.rows[-1].log_evidence:.2f} nats a datum, exactly")
    if not out.exists():
        print(f"{result.save(out)}: the page")
    return result.answer


if __name__ == "__main__":
    main()
