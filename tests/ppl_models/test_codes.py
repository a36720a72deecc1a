"""Codes in the place of images: what a visit draws, and the units of an M1's codes."""

import pytest
import torch

from ppl_models import VAE, data
from ppl_models.data import Codes, Interleave, split_labels, standardised


@pytest.fixture(scope="module")
def m1():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        m1 = VAE(64, z_dim=3, hidden=(8,))
        with torch.no_grad():  # codes away from N(0, I)
            m1.head.linear.bias.copy_(torch.tensor([2.0, -1.0, 0.5, 1.0, -2.0, 0.3]))
    return m1


@pytest.fixture(scope="module")
def sets():
    return split_labels(data.digits()[0], 40, seed=1)


def test_a_batch_is_a_draw_of_q_in_the_order_of_the_images(m1, sets):
    labelled, unlabelled = sets
    codes, images = Codes(m1, labelled, unlabelled, 100, 20), Interleave(labelled, unlabelled, 100, 20)
    assert (len(codes), codes.num_rows) == (len(images), images.num_rows)
    scores = []
    for (z, y), (x, known) in zip(codes.epoch(3, seed=5), images.epoch(3, seed=5), strict=True):
        assert torch.equal(y, known)
        q = m1.q_z(x).base_dist
        scores.append(((z - q.loc) / q.scale).detach())
    score = torch.cat(scores).flatten()
    n = len(score)
    assert abs(float(score.mean())) < 4 / n**0.5
    assert abs(float(score.square().mean()) - 1) < 4 * (2 / n) ** 0.5


def test_an_epoch_is_a_function_of_seed_and_number(m1, sets):
    labelled, unlabelled = sets
    codes = Codes(m1, labelled, unlabelled, 100, 20)
    first, again, later, other = (
        torch.cat([z for z, _ in source.epoch(number, seed)])
        for source, number, seed in ((codes, 0, 1), (codes.to("cpu"), 0, 1), (codes, 1, 1), (codes, 0, 2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later) and not torch.equal(first, other)
    z = {tuple(row.tolist()) for row in first}
    assert len(z) == len(first)  # labelled rows come several times, each time another draw


@pytest.mark.parametrize("n", [0, 1500])
def test_no_row_labelled_and_all(m1, n):
    labelled, unlabelled = split_labels(data.digits()[0], n)
    z, y = next(iter(Codes(m1, labelled, unlabelled).epoch(0, seed=0)))
    assert z.shape == (100, 3) and y.shape == (100 if n else 0,)


@pytest.mark.parametrize("conv", [False, True])
def test_standardised_is_the_same_vae_in_other_units(conv):
    torch.manual_seed(1)
    m1 = VAE(64, z_dim=3, hidden=(4, 8), conv=conv, image_shape=(1, 8, 8)).double()
    with torch.no_grad():
        m1.head.linear.bias.copy_(torch.tensor([2.0, -1.0, 0.5, 1.0, -2.0, 0.3]))
    x = data.digits()[0].x.double()[:500]
    before = {name: value.clone() for name, value in m1.state_dict().items()}
    other = standardised(m1, x)
    assert all(torch.equal(before[name], value) for name, value in m1.state_dict().items())
    p, q = m1.q_z(x).base_dist, other.q_z(x).base_dist
    second = q.loc.square() + q.scale.square()
    torch.testing.assert_close(q.loc.mean(0), torch.zeros(3).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(second.mean(0), torch.ones(3).double(), atol=1e-10, rtol=0)
    scale = (p.scale / q.scale)[0]
    centre = (p.loc - scale * q.loc)[0]
    torch.testing.assert_close(p.loc, centre + scale * q.loc)
    torch.testing.assert_close(p.scale, scale * q.scale)
    z = torch.randn(5, 3).double()
    torch.testing.assert_close(other.p_x(z).logits, m1.p_x(centre + scale * z).logits)
