"""Fifty labels and 1450 images without: M2 on scikit-learn's digits, beside a classifier that sees the labels alone."""

import torch
from sklearn.svm import SVC

from inference import SVI, SemiSupervisedELBO, fit, label_posterior, linear
from ppl_models import SemiSupervisedVAE, data


def main(epochs: int = 100) -> float:
    train, test = data.digits()
    labelled, unlabelled = data.split_labels(train, 50, seed=0)
    # a step sees 50 of each: all the labels, and a thirtieth of the images
    batches = data.Interleave(labelled, unlabelled, batch_size=50, labelled_size=50, binarize=True)
    torch.manual_seed(0)
    m2 = SemiSupervisedVAE(64, z_dim=10, hidden=(200,), activation="relu", mean=train.x.mean(0))
    # labels are observed in the first 50 rows of a batch, and summed out of the bound in the others
    svi = SVI(m2, SemiSupervisedELBO(alpha=50), torch.optim.Adam(m2.parameters(), 3e-3), compile=False)
    history = fit(svi, batches, epochs, seed=0, schedule=linear(0.01), progress=True)
    print(f"bound {-history[-1]['loss']:.2f} nats")

    error = float((m2.classify(test.x).argmax(1) != test.y).double().mean())
    alone = 1 - SVC(C=10).fit(labelled.x, labelled.y).score(test.x, test.y)
    print(f"test error {100 * error:.1f} %, of a support vector machine on the 50 labels {100 * alone:.1f} %")

    posterior = label_posterior(m2, data.binarize(test.x[:50], torch.Generator().manual_seed(0)), k=100)
    print(f"q(y | x) and the model's own p(y | x) agree on {100 * posterior.agreement:.0f} % of 50 images")
    return error


if __name__ == "__main__":
    main()
