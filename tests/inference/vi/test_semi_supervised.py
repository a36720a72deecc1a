"""SemiSupervisedELBO against closed forms: a conjugate M2 (oracle O15), and every term written out by hand."""

import math

import pytest
import torch
from pyro.distributions import Categorical, Independent, MultivariateNormal, Normal
from torch import nn

from inference import IWAE, SVI, SemiSupervisedELBO, TraceELBO, TraceEnumELBO, log_weights
from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import as_pair
from ppl_models import SemiSupervisedVAE

C, D, Z, S = 4, 5, 2, 0.7


class Conjugate(SemiSupervisedVAE):
    """x | y, z ~ N(a_y + B z, S^2): its guide is the exact posterior, its classifier the exact p(y | x)."""

    def __init__(self):
        super().__init__(D, Z, C, (3,))
        g = torch.Generator().manual_seed(0)
        self.a, self.b = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((C, D), (D, Z)))
        self.precision = torch.eye(Z, dtype=torch.float64) + self.b.T @ self.b / S**2
        self.classifier = nn.Module()
        self.classifier.forward = self.log_joint  # pyright: ignore

    def p_x(self, y, z):
        return Independent(Normal(self.a[y] + z @ self.b.T, S), 1)

    def q_z(self, x, y):
        mean = torch.linalg.solve(self.precision, ((x - self.a[y]) @ self.b / S**2).unsqueeze(-1)).squeeze(-1)
        return MultivariateNormal(mean, precision_matrix=self.precision)

    def log_joint(self, x):
        """Log p(x, y) for every y: (N, C)."""
        cover = S**2 * torch.eye(D, dtype=torch.float64) + self.b @ self.b.T
        return MultivariateNormal(self.a, cover).log_prob(x.unsqueeze(-2)) - math.log(C)


def conjugate_batch(n=7, labelled=3):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, D, generator=g, dtype=torch.float64), torch.randint(C, (labelled,), generator=g)


def exact(pair, x, y):
    """Mean over rows of log p(x, y) where y is known and log p(x) where it is not."""
    joint = pair.log_joint(x)
    known = joint[: len(y)].gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return torch.cat([known, joint[len(y) :].logsumexp(-1)]).mean()


@pytest.mark.parametrize("labelled", [0, 3, 7])
@pytest.mark.parametrize("bound", [TraceEnumELBO(2, closed_form_kl=False), TraceELBO(2, closed_form_kl=False), IWAE(3)])
def test_the_bound_is_log_p_where_the_guide_is_exact(bound, labelled):
    pair, (x, y) = Conjugate(), conjugate_batch(labelled=labelled)
    for objective in (SemiSupervisedELBO(0.3, bound=bound), bound):  # split, and known row by row inside one program
        torch.manual_seed(0)
        assert objective(pair, x, y).bound.item() == pytest.approx(exact(pair, x, y).item(), abs=1e-10)


def test_a_pair_knows_batches_with_all_some_and_no_labels_apart():
    pair = as_pair(Conjugate())
    for labelled, summed in ((7, frozenset()), (3, {"y"}), (0, {"y"}), (7, frozenset())):
        assert pair.structure(*conjugate_batch(labelled=labelled)).guide_enum == summed


def test_weights_of_a_mixed_batch_are_exact_row_by_row():
    pair, (x, y) = Conjugate(), conjugate_batch()
    joint = pair.log_joint(x)
    expected = torch.cat([joint[:3].gather(-1, y.unsqueeze(-1)).squeeze(-1), joint[3:].logsumexp(-1)])
    torch.testing.assert_close(log_weights(pair, x, y, k=4), expected.expand(4, -1), atol=1e-10, rtol=0)


def m2(seed=0, **options):
    torch.manual_seed(seed)
    return SemiSupervisedVAE(D, Z, C, (6,), **options).double()


def binary(n, seed=2):
    return torch.rand(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).round()


def terms(pair, x, y, eps):
    """L's terms for classes y (..., N) and noise eps (..., N, Z): log p(x | y, z) and KL(q(z | x, y) || p(z))."""
    q = pair.q_z(x, y).base_dist
    z = q.loc + q.scale * eps
    logits = pair.p_x(y, z).logits
    rec = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    kl = 0.5 * (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log()).sum(-1)
    ratio = Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    return rec, kl, ratio


def test_the_unlabelled_bound_is_the_sum_over_classes_plus_the_entropy():
    """U(x) = sum_y q(y | x) L(x, y) + H(q(y | x)), to 1e-10 with the same noise."""
    pair, x = m2(), binary(6)
    y = torch.arange(C).unsqueeze(-1)
    torch.manual_seed(3)
    rec, kl, _ = terms(pair, x, y, torch.randn(C, 6, Z, dtype=torch.float64))
    q = pair.q_y(x).probs.T
    by_hand = (q * (rec - kl - math.log(C)) - q * q.log()).sum(0).mean()
    torch.manual_seed(3)
    estimate = SemiSupervisedELBO()(pair, x)
    assert abs(estimate.bound.item() - by_hand.item()) < 1e-10
    assert estimate.reg is not None and estimate.rec is not None
    assert abs(estimate.reg.item() + estimate.rec.item() - by_hand.item()) < 1e-10
    ours = torch.autograd.grad(estimate.loss, list(pair.parameters()))
    theirs = torch.autograd.grad(-by_hand, list(pair.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_the_loss_of_a_mixed_batch_is_equations_8_and_9_and_the_classification_term():
    pair, x, y, alpha = m2(), binary(6), torch.tensor([2, 0]), 0.4
    torch.manual_seed(3)
    known, kl_known, _ = terms(pair, x[:2], y, torch.randn(2, Z, dtype=torch.float64))
    rest, kl_rest, _ = terms(pair, x[2:], torch.arange(C).unsqueeze(-1), torch.randn(C, 4, Z, dtype=torch.float64))
    q = pair.q_y(x[2:]).probs.T
    labelled = (known - kl_known - math.log(C)).sum()
    unlabelled = (q * (rest - kl_rest - math.log(C)) - q * q.log()).sum()
    classes = Categorical(probs=pair.q_y(x[:2]).probs).log_prob(y)
    # alpha N / N_labelled for each labelled row, all divided by N
    by_hand = -(labelled + unlabelled + alpha * 6 / 2 * classes.sum()) / 6
    torch.manual_seed(3)
    estimate = SemiSupervisedELBO(alpha)(pair, x, y)
    assert abs(estimate.loss.item() - by_hand.item()) < 1e-10
    assert abs(estimate.bound.item() - (labelled + unlabelled).item() / 6) < 1e-10


def test_iwae_sums_the_classes_inside_each_particles_weight():
    pair, x, k = m2(), binary(6), 5
    torch.manual_seed(3)
    eps = torch.randn(C, k, 6, Z, dtype=torch.float64)
    rec, _, ratio = terms(pair, x, torch.arange(C).reshape(C, 1, 1), eps)
    by_hand = ((rec + ratio - math.log(C)).logsumexp(0).logsumexp(0) - math.log(k)).mean()
    torch.manual_seed(3)
    assert abs(SemiSupervisedELBO(bound=IWAE(k))(pair, x).bound.item() - by_hand.item()) < 1e-10


def test_under_iwae_the_classifier_learns_from_labelled_rows_alone():
    pair, x, y = m2(), binary(6), torch.tensor([2, 0])
    weights = list(pair.classifier.parameters())
    loss = SemiSupervisedELBO(0.5, bound=IWAE(5))(pair, x).loss
    assert all(g is None for g in torch.autograd.grad(loss, weights, allow_unused=True))
    found = torch.autograd.grad(SemiSupervisedELBO(0.5, bound=IWAE(5))(pair, x, y).loss, weights)
    expected = torch.autograd.grad(-0.5 * pair.q_y(x[:2]).log_prob(y).mean(), weights)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_sampled_labels_have_the_enumerated_gradient_on_average():
    pair, rows = m2(), binary(3)
    x = rows.repeat(100, 1)
    parameters = list(pair.parameters())

    def flat(bound):
        loss = SemiSupervisedELBO(bound=bound)(pair, x).loss
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    torch.manual_seed(4)
    sampled = torch.stack([flat(TraceELBO(num_particles=2)) for _ in range(100)])
    summed = torch.stack([flat(TraceEnumELBO()) for _ in range(100)])
    gap = sampled.mean(0) - summed.mean(0)
    se = (sampled.var(0) / len(sampled) + summed.var(0) / len(summed)).sqrt()
    assert (gap.abs() <= 4.5 * se + 1e-12).all()  # some 200 parameters: 4.5 standard errors, once in 700 runs
    # and it is worth summing: the classifier's gradient has less noise
    classifier = slice(0, sum(p.numel() for p in pair.classifier.parameters()))
    assert summed.var(0)[classifier].sum() < 0.2 * sampled.var(0)[classifier].sum()


def test_the_classifier_learns_from_labelled_rows_by_the_classification_term_alone():
    pair, x, y = m2(), binary(4), torch.tensor([0, 1, 2, 3])
    weights = list(pair.classifier.parameters())
    loss = SemiSupervisedELBO(0.5)(pair, x, y).loss
    found = torch.autograd.grad(loss, weights)
    expected = torch.autograd.grad(-0.5 * pair.q_y(x).log_prob(y).mean(), weights)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    loss = SemiSupervisedELBO(0.0)(pair, x, y).loss
    assert all(g is None for g in torch.autograd.grad(loss, weights, allow_unused=True))


def test_the_share_of_labelled_data_weighs_the_two_means():
    pair, (x, y) = Conjugate(), conjugate_batch()
    known, rest = exact(pair, x[:3], y).item(), exact(pair, x[3:], y[:0]).item()
    bound = TraceEnumELBO(closed_form_kl=False)
    estimate = SemiSupervisedELBO(0.5, 0.01, bound)(pair, x, y)
    assert estimate.bound.item() == pytest.approx(0.01 * known + 0.99 * rest, abs=1e-10)
    classes = pair.q_y(x[:3]).log_prob(y).mean().item()  # its weight is that of the mean, whatever the share
    assert estimate.loss.item() == pytest.approx(-estimate.bound.item() - 0.5 * classes, abs=1e-10)
    for part, expected in ((SemiSupervisedELBO(0, 0.01, bound)(pair, x[3:]), rest),
                           (SemiSupervisedELBO(0, 0.01, bound)(pair, x[:3], y), known)):  # fmt: skip
        assert part.bound.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("labelled", [0, 2, 6])
def test_it_trains_with_any_number_of_labels(labelled):
    pair = m2().float()
    svi = SVI(pair, SemiSupervisedELBO(1.0), torch.optim.Adam(pair.parameters(), 0.01), compile=False)
    x, y = binary(6).float(), torch.tensor([0, 1, 2, 3, 0, 1])[:labelled]
    losses = [float(svi.step(x, y).loss) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_a_compiled_step_is_the_programs_own():
    pair, x, y = m2().float(), binary(6).float(), torch.tensor([0, 1])
    kept = {name: value.clone() for name, value in pair.state_dict().items()}
    ends = []
    for compile in (False, True):
        pair.load_state_dict(kept)
        svi = SVI(pair, SemiSupervisedELBO(1.0), torch.optim.Adam(pair.parameters(), 0.01), compile=compile)
        torch.manual_seed(5)
        for _ in range(4):
            svi.step(x, y)
        ends.append(torch.cat([p.detach().flatten().clone() for p in pair.parameters()]))
    torch.testing.assert_close(*ends, atol=1e-4, rtol=1e-4)


def test_bad_input_is_said_in_a_sentence():
    pair, x = m2(), binary(4)
    with pytest.raises(ValueError, match=r"alpha weighs .* at least 0, got -1"):
        SemiSupervisedELBO(-1.0)
    with pytest.raises(ValueError, match=r"a share in \[0, 1\], got 2"):
        SemiSupervisedELBO(labelled_share=2)
    with pytest.raises(ValueError, match="at least 0, got nan"):
        SemiSupervisedELBO(math.nan)
    with pytest.raises(ShapeError, match="5 labels for 4 rows"):
        SemiSupervisedELBO()(pair, x, torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"a label is a class 0 ... 3, got 7"):
        SemiSupervisedELBO()(m2(), x, torch.tensor([0, 7]))
    with pytest.raises(ValueError, match=r"a label is a class 0 ... 3, got -1"):
        SemiSupervisedELBO()(m2(), x, torch.tensor([0, -1, 1, 2]))
    with pytest.raises(UnsupportedModelError, match="the guide has no site 'label'"):
        SemiSupervisedELBO(site="label")(pair, x, torch.tensor([0]))
