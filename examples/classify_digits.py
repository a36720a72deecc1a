"""Ten sigmoid belief networks, one a digit, classify by their mean log-evidence of ten binary draws of a grey image."""

import copy

import rich.table
import torch
from sklearn import datasets, linear_model, model_selection, neighbors

from inference import IWAE, SVI, bayes, calibrate, calibration_error, classify, fit, linear
from ppl_models import SigmoidBeliefNetwork, data


def learn(sbn: SigmoidBeliefNetwork, x: torch.Tensor, batch: int, epochs: int) -> SigmoidBeliefNetwork:
    svi = SVI(sbn, IWAE(k=5), torch.optim.Adam(sbn.parameters(), 1e-2))
    fit(svi, data.Batches(x, batch, binarize=True), epochs, seed=0, schedule=linear(0.02))
    return sbn


def main(epochs: int = 200, seed: int = 0) -> dict[str, float]:
    x, y = datasets.load_digits(return_X_y=True)
    x, x_test, y, y_test = model_selection.train_test_split(x / 16, y, test_size=1 / 3, stratify=y, random_state=seed)
    rows, held, truth = torch.tensor(x).float(), torch.tensor(x_test).float(), torch.tensor(y_test)
    torch.manual_seed(seed)  # a class has 120 rows: its network starts from one that has learnt all the digits
    start = learn(SigmoidBeliefNetwork((64, 24, 8), mean=rows.mean(0)), rows, 50, max(1, epochs // 5))
    sbns = [learn(copy.deepcopy(start), rows[torch.tensor(y == c)], 24, epochs) for c in range(10)]
    evidence = classify(sbns, data.binarize(held.repeat(10, 1)), k=20).log_evidence.unflatten(0, (10, -1)).mean(0)
    t = calibrate(evidence[::2], truth[::2]).temperature  # on every other row; calibration is judged on the rest
    found = {"ten networks": bayes(evidence).log_prob, f"at T = {t:.2f}": bayes(evidence, temperature=t).log_prob}
    for model in (linear_model.LogisticRegression(max_iter=5000), neighbors.KNeighborsClassifier()):
        found[type(model).__name__] = torch.tensor(model.fit(x, y).predict_proba(x_test)).log()
    table = rich.table.Table("classifier", "errors in %", "calibration error", title=f"{len(held)} digits held out")
    errors = {name: float((p.argmax(1) != truth).double().mean()) for name, p in found.items()}
    for name, p in found.items():
        table.add_row(name, f"{100 * errors[name]:.2f}", f"{calibration_error(p[1::2], truth[1::2]):.3f}")
    rich.print(table, f"log p(x | y) = {evidence.gather(1, truth[:, None]).mean():.2f} nats in a digit's own class")
    return errors


if __name__ == "__main__":
    main()
