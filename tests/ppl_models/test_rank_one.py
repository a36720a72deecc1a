"""ppl_models.rank_one: against the dense Gaussian of the same precision."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from inference.capture.record import record
from ppl_models.rank_one import RankOneHead, RankOneNormal

Z = 5


def parameters(*batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    loc, d, u = (torch.randn(*batch, Z, dtype=torch.float64, generator=generator) for _ in range(3))
    return loc, d.exp(), 2 * u


def dense(loc: Tensor, d: Tensor, u: Tensor) -> MultivariateNormal:
    return MultivariateNormal(loc, precision_matrix=d.diag_embed() + u.unsqueeze(-1) * u.unsqueeze(-2))


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_density_moments_and_entropy_are_those_of_the_dense_gaussian(batch: tuple[int, ...]) -> None:
    loc, d, u = parameters(*batch)
    ours, theirs = RankOneNormal(loc, d, u, validate_args=True), dense(loc, d, u)
    assert ours.batch_shape == batch and ours.event_shape == (Z,)
    value = torch.randn(4, *batch, Z, dtype=torch.float64)
    for a, b in (
        (ours.log_prob(value), theirs.log_prob(value)),
        (ours.entropy(), theirs.entropy()),
        (ours.mean, theirs.mean),
        (ours.mode, theirs.mode),
        (ours.variance, theirs.variance),
        (ours.log_det, theirs.covariance_matrix.logdet()),
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_factor_of_a_draw_is_a_root_of_the_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit vectors in place of noise give the columns of R."""
    loc, d, u = parameters()
    eye = torch.eye(Z, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: eye.reshape(shape))
    root = (RankOneNormal(loc, d, u).rsample(torch.Size((Z,))) - loc).T
    torch.testing.assert_close(root @ root.T, dense(loc, d, u).covariance_matrix, rtol=1e-10, atol=1e-10)


def test_draws_have_the_mean_and_the_covariance() -> None:
    loc, d, u = parameters()
    torch.manual_seed(0)
    n = 100_000
    draws = RankOneNormal(loc, d, u).sample(torch.Size((n,)))
    cov = dense(loc, d, u).covariance_matrix
    variance = cov.diagonal()
    assert bool(((draws.mean(0) - loc).abs() < 4 * (variance / n).sqrt()).all())
    se = ((variance.outer(variance) + cov.square()) / n).sqrt()  # of a Gaussian's sample covariance
    assert bool(((draws.T.cov() - cov).abs() < 4 * se).all())


def test_without_a_direction_it_is_the_diagonal_gaussian() -> None:
    loc, d, u = parameters(3)
    ours, theirs = RankOneNormal(loc, d, 0 * u), Independent(Normal(loc, d.rsqrt()), 1)
    value = torch.randn(3, Z, dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value), rtol=1e-12, atol=1e-12)
    torch.manual_seed(1)
    first = ours.rsample()
    torch.manual_seed(1)
    torch.testing.assert_close(first, loc + d.rsqrt() * torch.randn(3, Z, dtype=torch.float64))
    torch.testing.assert_close(ours.variance, 1 / d)


def test_far_along_its_direction_it_stays_finite() -> None:
    loc, d, u = (part.float() for part in parameters())
    q = RankOneNormal(loc, d, 1e6 * u)
    assert bool(q.rsample().isfinite().all()) and bool(q.entropy().isfinite())
    assert bool((q.variance >= 0).all())


# ---- divergences


def test_divergence_from_a_diagonal_gaussian_is_torchs_dense_one() -> None:
    loc, d, u = parameters(3)
    mean, scale = parameters(3, seed=1)[:2]
    theirs = kl_divergence(dense(loc, d, u), MultivariateNormal(mean, scale.square().diag_embed()))
    for p in (Independent(Normal(mean, scale), 1), dist.Normal(mean, scale).to_event(1)):
        torch.testing.assert_close(kl_divergence(RankOneNormal(loc, d, u), p), theirs, rtol=1e-10, atol=1e-10)
    zero = loc.new_zeros(())
    prior = dist.Normal(zero, zero + 1).expand(torch.Size([Z])).to_event(1)
    theirs = kl_divergence(dense(loc, d, u), MultivariateNormal(loc.new_zeros(Z), torch.eye(Z).double()))
    torch.testing.assert_close(kl_divergence(RankOneNormal(loc, d, u), prior), theirs, rtol=1e-10, atol=1e-10)


def test_divergence_is_the_mean_of_the_log_ratio() -> None:
    loc, d, u = parameters()
    q, p = RankOneNormal(loc, d, u), dist.Normal(0 * loc, 1 + 0 * loc).to_event(1)
    torch.manual_seed(0)
    z = q.sample(torch.Size((50_000,)))
    ratio = q.log_prob(z) - p.log_prob(z)
    assert abs(float(ratio.mean() - kl_divergence(q, p))) < 4 * float(ratio.std()) / math.sqrt(len(z))


def test_no_divergence_is_claimed_from_other_distributions() -> None:
    q = RankOneNormal(*parameters(3))
    for p in (dist.Laplace(q.loc, q.d).to_event(1), dist.Normal(q.loc, q.d).to_event(2)):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)


# ---- gradients, shapes, graphs


def test_gradients_by_finite_differences() -> None:
    """Of densities, draws (the noise held), entropies and divergences, in all three parameters."""
    given = [part.requires_grad_() for part in parameters(2)]
    value = torch.randn(2, Z, dtype=torch.float64)

    def everything(loc: Tensor, d: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        q = RankOneNormal(loc, d, u)
        prior = dist.Normal(0 * value, 1 + 0 * value).to_event(1)
        return q.log_prob(value), q.rsample(), q.entropy(), kl_divergence(q, prior)

    assert torch.autograd.gradcheck(everything, given)


def test_shapes_expand_and_particles() -> None:
    loc, d, u = parameters(3)
    q = RankOneNormal(loc, d, u).expand([4, 3])
    assert q.batch_shape == (4, 3) and q.event_shape == (Z,)
    assert q.rsample().shape == (4, 3, Z) and q.mean.shape == q.variance.shape == (4, 3, Z)
    assert not torch.equal(*q.rsample()[:2])
    assert q.rsample(torch.Size((2,))).shape == (2, 4, 3, Z)
    assert q.log_prob(loc).shape == q.entropy().shape == (4, 3)
    assert RankOneNormal(loc, d, u).log_prob(q.rsample()).shape == (4, 3)
    assert RankOneNormal(loc, d[0], u[0]).batch_shape == (3,)  # they broadcast


def test_parameters_and_values_are_validated() -> None:
    loc, d, u = parameters(3)
    with pytest.raises(ValueError, match="d"):
        RankOneNormal(loc, -d, u, validate_args=True)
    with pytest.raises(ValueError):
        RankOneNormal(loc, d, u, validate_args=True).log_prob(loc * math.nan)


def test_draws_and_densities_record_to_a_graph() -> None:
    loc, d, u = parameters(3)

    def program(loc: Tensor, d: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        q = RankOneNormal(loc, d, u)
        z = q.rsample()
        return z, q.log_prob(z)

    recorded = record(program, loc, d, u)
    torch.manual_seed(2)
    theirs = program(loc, d, 3 * u)
    torch.manual_seed(2)
    for a, b in zip(recorded(loc, d, 3 * u), theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_head_starts_with_a_direction_and_positive_precisions() -> None:
    torch.manual_seed(0)
    head = RankOneHead(7, Z)
    loc, d, u = head(torch.randn(2, 3, 7))
    assert loc.shape == d.shape == u.shape == (2, 3, Z)
    assert bool((d > 0).all()) and bool((u != 0).all())
    RankOneNormal(loc, d, u).rsample().square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in head.parameters())
    direction = head.linear.weight.grad
    assert direction is not None and bool((direction[2 * Z :] != 0).any())
