"""A sigmoid belief network on 8x8 digits, learnt by three estimators and judged by the exact log p(x)."""

import torch

from inference import IWAE, NVIL, SVI, ReweightedWakeSleep, exact_log_marginal, fit, linear
from ppl_models import SigmoidBeliefNetwork, data


def main(epochs: int = 40) -> dict[str, float]:
    train, test = data.digits()
    x = data.binarize(test.x, torch.Generator().manual_seed(0))
    found = {}
    for name, objective in {"NVIL": NVIL(), "VIMCO": IWAE(5), "wake-sleep": ReweightedWakeSleep(5)}.items():
        torch.manual_seed(0)  # the same first weights for each
        sbn = SigmoidBeliefNetwork((64, 12), mean=train.x.mean(0))
        svi = SVI(sbn, objective, lambda parameters: torch.optim.Adam(parameters, 1e-2))  # of NVIL's baselines too
        batches = data.Batches(train.x, 50, binarize=True)
        fit(svi, batches, epochs, seed=0, schedule=linear(0.05), progress=True)
        with torch.no_grad():
            log_p = exact_log_marginal(sbn, x)
        found[name] = float(log_p.mean())
        print(f"{name:10}  log p(x) = {found[name]:.2f} +- {log_p.std() / len(x) ** 0.5:.2f} nats, exact")
    return found


if __name__ == "__main__":
    main()
