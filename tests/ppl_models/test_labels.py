"""split_labels and Interleave: who is labelled, what a batch holds, what is refused."""

import pytest
import torch

from ppl_models.data import DataError, Dataset, Interleave, split_labels


def rows(n: int = 40, classes: int = 4) -> Dataset:
    """Row i has class i % classes, and i / n in its one pixel."""
    return Dataset((torch.arange(n) / n).unsqueeze(1), torch.arange(n) % classes, (1, 1, 1), "rows")


@pytest.mark.parametrize("n_labelled", [0, 20, 30, 40])
@pytest.mark.parametrize("balanced", [True, False])
def test_each_row_is_in_one_of_the_two_with_its_own_label(n_labelled: int, balanced: bool) -> None:
    labelled, unlabelled = split_labels(rows(), n_labelled, balanced, seed=4)
    assert len(labelled.x) == n_labelled and len(unlabelled.x) == 40 - n_labelled
    every = torch.cat([labelled.x, unlabelled.x]).squeeze(1)
    assert torch.equal(every.sort().values, torch.arange(40) / 40)
    for part in (labelled, unlabelled):
        assert part.y is not None and torch.equal(part.y, (part.x.squeeze(1) * 40).round().long() % 4)


def test_balance_and_seeds() -> None:
    counts = torch.bincount(split_labels(rows(), 10)[0].y)  # pyright: ignore
    assert counts.tolist() == [3, 3, 2, 2]
    first, again, other = (split_labels(rows(), 12, seed=s)[0].x for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first.sort(0).values, other.sort(0).values)


def test_the_draw_without_balance_is_uniform() -> None:
    seen = torch.stack([split_labels(rows(), 20, balanced=False, seed=s)[0].x.squeeze(1) for s in range(200)])
    share = torch.bincount((seen * 40).round().long().flatten(), minlength=40) / 200
    assert (share - 0.5).abs().max() < 4.5 * (0.25 / 200) ** 0.5


@pytest.mark.parametrize(
    ("data", "n", "balanced", "message"),
    [
        (rows()._replace(y=None), 4, True, "rows has no labels"),
        (rows(), 41, True, "has 40 rows, so 0 to 40 of them can be labelled, got 41"),
        (rows(), -1, True, "got -1"),
        (rows(), 3, True, "3 labels are fewer than the 4 classes"),
        (rows()._replace(y=rows().y + (rows().y == 3).long()), 8, True, "class 3 never occurs among labels up to 4"),  # pyright: ignore
        (rows()._replace(y=rows().y - 1), 8, True, "a label is a class 0, 1, ..., got -1"),  # pyright: ignore
        (rows()._replace(y=(torch.arange(40) > 1).long()), 10, True, "2 rows of class 0, fewer than the 5"),
        (rows()._replace(y=(torch.arange(40) > 0).long()), 4, False, "none of class 0: draw more"),
    ],
)
def test_splits_that_cannot_be(data: Dataset, n: int, balanced: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_labels(data, n, balanced)


def test_a_batch_has_its_labelled_rows_first() -> None:
    labelled, unlabelled = split_labels(rows(), 8)
    batches = Interleave(labelled, unlabelled, 10, 4)
    seen = list(batches.epoch(0, seed=3))
    assert len(batches) == len(seen) == 3 and batches.num_rows == 42
    for x, y in seen:
        assert x.shape == (14, 1) and y.shape == (4,)
        assert torch.equal((x[:4, 0] * 40).round().long() % 4, y)
        assert set(x[:4, 0].tolist()) <= set(labelled.x[:, 0].tolist())
        assert set(x[4:, 0].tolist()) <= set(unlabelled.x[:, 0].tolist())
    drawn = torch.cat([x[4:, 0] for x, _ in seen])
    assert len(set(drawn.tolist())) == 30  # no unlabelled row twice
    assert sorted(torch.cat([x[:4, 0] for x, _ in seen[:2]]).tolist()) == sorted(labelled.x[:, 0].tolist())


def test_an_epoch_is_a_function_of_its_number_and_the_seed() -> None:
    batches = Interleave(*split_labels(rows(), 8), 10, 4, binarize=True)

    def flat(epoch: int, seed: int) -> torch.Tensor:
        return torch.cat([part.flatten().float() for batch in batches.epoch(epoch, seed) for part in batch])

    assert torch.equal(flat(1, 5), flat(1, 5))
    assert not torch.equal(flat(1, 5), flat(2, 5)) and not torch.equal(flat(1, 5), flat(1, 6))
    assert set(torch.cat([x for x, _ in batches]).flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(next(iter(batches.to("cpu")))[0], next(iter(batches))[0])


def test_the_two_sets_are_shuffled_and_drawn_apart() -> None:
    same = Interleave(rows(), rows(), 40, 40)
    x, _ = next(iter(same))
    assert not torch.equal(x[:40], x[40:])
    grey = rows()._replace(x=torch.full((40, 1), 0.5))
    x, _ = next(iter(Interleave(grey, grey, 40, 40, binarize=True)))
    assert not torch.equal(x[:40], x[40:])


def test_all_or_none_labelled() -> None:
    x, y = next(iter(Interleave(*split_labels(rows(), 0), 10, 4)))
    assert x.shape == (10, 1) and y.shape == (0,) and y.dtype == torch.int64
    batches = Interleave(*split_labels(rows(), 40), 10, 4)
    assert len(batches) == 4 and [(len(x), len(y)) for x, y in batches] == [(10, 10)] * 4
    small = Interleave(*split_labels(rows(), 8), 100, 100)  # sizes beyond the rows: all of them
    assert [(len(x), len(y)) for x, y in small] == [(40, 8)]


def test_batches_that_cannot_be() -> None:
    labelled, unlabelled = split_labels(rows(), 8)
    none = split_labels(rows(), 0)[0]
    with pytest.raises(DataError, match="at least 1 row"):
        Interleave(none, none)
    with pytest.raises(DataError, match="labelled_size must be at least 1, got 0"):
        Interleave(labelled, unlabelled, 10, 0)
    with pytest.raises(DataError, match="have no labels"):
        Interleave(labelled._replace(y=None), unlabelled)


def test_shifts_move_whole_images_by_whole_pixels() -> None:
    x = torch.zeros(500, 1, 6, 7)
    x[:, 0, 2:4, 3:5] = torch.arange(1, 501).reshape(-1, 1, 1) / 500  # each image has a grey of its own
    data = Dataset(x.flatten(1), torch.arange(500) % 4, (1, 6, 7), "blocks")
    batches = Interleave(*split_labels(data, 8), 492, 8, shift=2)
    moved, y = next(iter(batches))
    assert torch.equal(moved, next(iter(batches))[0])  # by seed and epoch
    images = moved.reshape(-1, 6, 7)
    greys = images.amax((1, 2))
    assert torch.equal(((greys[:8] * 500).round().long() - 1) % 4, y)
    assert torch.equal(greys.sort().values, torch.arange(1, 501) / 500)
    corners = {(int(i[0]), int(i[1])) for i in ((image > 0).nonzero()[0] for image in images)}
    assert corners == {(r, c) for r in range(5) for c in range(1, 6)}
    assert int((images > 0).sum()) == 500 * 4  # nothing left the image here, and nothing came back on the other side
    far, _ = next(iter(Interleave(data, data, 500, 500, shift=5)))
    assert int((far > 0).sum()) < 1000 * 4
    with pytest.raises(DataError, match="less than the sides of the images, got 6"):
        Interleave(data, data, shift=6)
