"""Stacked MNIST: digits as the colour channels of an image, so that its modes can be counted.

    train, test = data.stacked_mnist()     # 3 digits an image: 1000 modes
    x = generator.generate(26_000)         # a classifier of digits names each channel, and so each sample's mode

The channels are drawn independently, so every one of the 10^3 triples is as likely as another, up to the frequency of
the digits: a generator that has lost modes is found out by counting [metz2017, srivastava2017, lin2018].
"""

import torch

from ppl_models.data import named
from ppl_models.data.dataset import DataError, Dataset, dataset, seeds

__all__ = ["stacked_mnist"]


def stacked_mnist(n: int = 60_000, digits: int = 3, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Stack random digits of MNIST: n training images (3, 28, 28) and 10,000 to test on, of 10^digits modes.

    Red, green and blue are digits of MNIST drawn with replacement, the training images' from its training part and the
    test images' from its test part. y = sum_j 10^(digits - 1 - j) digit_j, so 407 is 4 in red, 0 in green, 7 in blue.

    Args:
        n: training images; 60,000 take 0.6 GB.
        digits: 3, or 2 with a blue that is black, which has 100 modes and is learnt in less time.
        seed: draws the images.

    Raises:
        DataError: n below 2, digits other than 2 or 3, or MNIST is not to be had.
    """
    if n < 2 or digits not in (2, 3):
        raise DataError(
            f"stacked_mnist needs n >= 2 images of 2 or 3 digits, got n={n}, digits={digits}: pass n=60000, digits=3"
        )
    train, test = named.mnist()
    first, second = seeds(seed)
    return _stack(train, n, digits, first), _stack(test, 10_000, digits, second)


def _stack(data: Dataset, n: int, digits: int, seed: int) -> Dataset:
    assert data.y is not None  # MNIST has labels
    index = torch.randint(len(data.x), (n, digits), generator=torch.Generator().manual_seed(seed))
    x = torch.zeros(n, 3, data.x.shape[1])
    x[:, :digits] = data.x[index]
    place = 10 ** torch.arange(digits).flip(0)  # 100, 10, 1
    return dataset(x.flatten(1), (data.y[index] * place).sum(1), (3, 28, 28), "stacked_mnist", least=1)
