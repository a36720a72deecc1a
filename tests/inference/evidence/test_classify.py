"""Classification by evidence against enumeration and closed forms; temperatures and calibration against known ones."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from inference import (
    TraceEnumELBO,
    bayes,
    calibrate,
    calibration_error,
    classify,
    exact_log_marginal,
    importance_weights,
    label_posterior,
    mean_field_bound,
)
from inference.errors import RunError, ShapeError, UnsupportedModelError
from inference.evidence.importance import bound_per_datum
from ppl_models import VAE, SemiSupervisedVAE, SigmoidBeliefNetwork, StackedVAE
from tests.inference.oracles import LinearGaussian

pytestmark = pytest.mark.usefixtures("double")


def networks(n=3):
    """Sigmoid belief networks 6-3-2 with weights of their own: 32 states each."""
    made = []
    for _ in range(n):
        sbn = SigmoidBeliefNetwork((6, 3, 2)).double()
        with torch.no_grad():
            for parameter in sbn.parameters():
                parameter.normal_()
        made.append(sbn)
    return made


def binary(n=20, d=6):
    return torch.bernoulli(torch.full((n, d), 0.5))


class TestBayes:
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def test_networks_enumerated(self):
        """Equation 1 by hand from the exact evidence of every class."""
        sbns, x = networks(), binary()
        found = classify(sbns, x, prior=self.prior, evidence=exact_log_marginal)
        joint = torch.stack([exact_log_marginal(sbn, x).exp() for sbn in sbns], 1) * self.prior
        torch.testing.assert_close(found.log_p.exp(), joint.sum(1))
        torch.testing.assert_close(found.log_prob.exp(), joint / joint.sum(1, keepdim=True))
        assert torch.equal(found.label, joint.argmax(1))
        assert not found.log_prob.requires_grad

    def test_importance_samples_come_near_it(self):
        """Within 4 standard errors of log of a mean of k weights."""
        sbns, x = networks(), binary()
        exact = classify(sbns, x, evidence=exact_log_marginal).log_evidence
        once = torch.stack([classify(sbns, x, k=500, seed=seed).log_evidence for seed in range(20)])
        gap = once.exp().mean(0) - exact.exp()  # the mean of the weights is unbiased for p(x | y)
        assert (gap.abs() < 4.5 * once.exp().std(0) / math.sqrt(20)).all()  # of 60

    def test_gaussians_in_closed_form(self):
        """With the exact posterior as guide a single sample has no error."""
        pairs = [LinearGaussian(torch.randn(4, 2), torch.randn(4), 0.5 + i) for i in range(3)]
        x = torch.randn(30, 4)
        found = classify(pairs, x, prior=self.prior, k=1)
        joint = torch.stack([pair.log_evidence(x) for pair in pairs], 1) + self.prior.log()
        torch.testing.assert_close(found.log_prob, joint.log_softmax(1))
        torch.testing.assert_close(found.log_p, joint.logsumexp(1))

    def test_any_estimate_will_do(self):
        sbns, x = networks(), binary(8)
        exact = classify(sbns, x, evidence=exact_log_marginal).log_evidence
        below = classify(sbns, x, evidence=lambda s, x: mean_field_bound(s.layers(), s.top_bias, x, 50).bound)
        assert (below.log_evidence < exact).all() and (below.log_evidence > exact - 2).all()

    def test_a_seed_gives_the_same_and_leaves_the_callers_alone(self):
        sbns, x = networks(), binary(5)
        state = torch.get_rng_state()
        first, second = (classify(sbns, x, k=5, seed=3).log_prob for _ in range(2))
        assert torch.equal(first, second) and torch.equal(state, torch.get_rng_state())
        assert not torch.equal(first, classify(sbns, x, k=5, seed=4).log_prob)

    def test_evidence_far_below_zero(self):
        found = bayes(torch.tensor([[-1e5, -1e5 - math.log(3), -math.inf]]))
        torch.testing.assert_close(found.log_prob.exp(), torch.tensor([[0.75, 0.25, 0.0]]))

    def test_a_temperature_leans_on_the_prior(self):
        """p(y) p(x | y)^(1/T): T = 2 takes the square root of the evidence, and none is left of it at infinity."""
        p = torch.tensor([[0.1, 0.4, 0.2]])
        joint = p.sqrt() * self.prior
        torch.testing.assert_close(bayes(p.log(), self.prior, 2.0).log_prob.exp(), joint / joint.sum())
        torch.testing.assert_close(bayes(p.log(), self.prior, 1e9).log_prob.exp()[0], self.prior, rtol=1e-6, atol=0)

    def test_errors_are_counted(self):
        found = bayes(torch.tensor([[0.0, -1.0], [0.0, -1.0], [-2.0, -1.0], [0.0, 1.0]]))
        assert found.label.tolist() == [0, 0, 1, 1]
        assert found.error(torch.tensor([0, 1, 1, 1])) == 0.25


class TestTemperature:
    def drawn(self, t, n=20000, classes=4):
        """Evidence of random rows, and labels drawn from p_T(y | x)."""
        evidence = 3 * torch.randn(n, classes)
        return evidence, torch.distributions.Categorical(logits=evidence / t).sample()

    @pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
    def test_the_temperature_that_made_the_labels(self, t):
        """Within 4 standard errors by the Fisher information of 1/T, sum_n Var_p(log p(x_n | y))."""
        evidence, y = self.drawn(t)
        p = (evidence / t).softmax(1)
        information = ((p * evidence**2).sum(1) - (p * evidence).sum(1) ** 2).sum()
        found = calibrate(evidence, y)
        assert abs(1 / found.temperature - 1 / t) < 4 / information.sqrt()

    def test_its_likelihood_is_the_greatest(self):
        """At the best T the evidence of the labels is what the model expects, and both neighbours are worse."""
        evidence, y = self.drawn(2.5, n=500)
        prior = torch.tensor([0.4, 0.3, 0.2, 0.1])
        found = calibrate(evidence, y, prior)
        at = {f: bayes(evidence, prior, f * found.temperature).log_prob for f in (0.98, 1.0, 1.02)}
        nll = {f: -float(log_prob.gather(1, y[:, None]).mean()) for f, log_prob in at.items()}
        assert nll[1.0] < nll[0.98] and nll[1.0] < nll[1.02]
        expected = (at[1.0].exp() * evidence).sum(1).mean()
        torch.testing.assert_close(evidence.gather(1, y[:, None]).mean(), expected, rtol=0, atol=1e-4)
        assert found.nll[1] == pytest.approx(nll[1.0]) and found.nll[1] < found.nll[0]

    def test_calibration_mends_what_is_too_sure(self):
        evidence, y = self.drawn(3.0)
        found = calibrate(evidence, y)
        assert found.ece[0] == calibration_error(bayes(evidence).log_prob, y) > 0.1
        assert found.ece[1] == calibration_error(bayes(evidence, temperature=found.temperature).log_prob, y) < 0.02

    def test_rows_without_an_error_have_the_least_temperature(self):
        found = calibrate(torch.eye(3), torch.arange(3))
        assert found.temperature < 0.1 and found.nll[1] < 1e-6


class TestCalibrationError:
    def test_by_hand(self):
        """Bins (0.4, 0.6] and (0.8, 1]: 4/6 |1/4 - 0.55| + 2/6 |1 - 0.9|."""
        confidence = torch.tensor([0.5, 0.6, 0.55, 0.55, 0.85, 0.95])
        log_prob = torch.stack([confidence, 1 - confidence], 1).log()
        log_prob[0] = torch.tensor([0.5001, 0.4999]).log()
        y = torch.tensor([0, 1, 1, 1, 0, 0])
        expected = 4 / 6 * abs(0.25 - (0.5001 + 0.6 + 1.1) / 4) + 2 / 6 * 0.1
        assert calibration_error(log_prob, y, bins=3) == pytest.approx(expected)

    def test_sure_and_right(self):
        assert calibration_error(torch.tensor([[0.0, -math.inf]]), torch.tensor([0])) == 0.0

    def test_too_sure_cannot_be_told_from_too_modest_in_one_bin_of_both(self):
        """Rows of one bin cancel: that is what bins are, and why they are many."""
        p = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()
        assert calibration_error(p, torch.tensor([0, 1]), bins=1) == pytest.approx(0.25)
        assert calibration_error(p, torch.tensor([0, 1]), bins=4) == pytest.approx(0.35)


class Mixture(nn.Module):
    """y ~ Cat(pi), z ~ N(0, I), x | y, z ~ N(W_y z + b_y, s_y^2 I): a linear Gaussian for each class, all exact."""

    def __init__(self, guide="exact", d=3, classes=3):
        super().__init__()
        self.prior = torch.tensor([0.5, 0.3, 0.2])[:classes]
        self.parts = nn.ModuleList(
            LinearGaussian(torch.randn(d, 2), torch.randn(d), 0.6 + 0.2 * i, guide) for i in range(classes)
        )
        self.classifier = nn.Linear(d, classes)

    def model(self, x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(self.prior), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            w, b = (torch.stack([getattr(part, name) for part in self.parts])[y] for name in ("w", "b"))
            s = torch.stack([part.log_s for part in self.parts])[y].exp()
            mean = (w @ z.unsqueeze(-1)).squeeze(-1) + b
            pyro.sample("x", dist.Normal(mean, s.unsqueeze(-1)).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            if y is None:
                y = pyro.sample("y", dist.Categorical(logits=self.classifier(x)), infer={"enumerate": "parallel"})
            every = [part.q(x) for part in self.parts]
            mean = torch.stack([q.mean.expand(len(x), 2) for q in every])
            root = torch.stack([_root(q).expand(len(x), 2, 2) for q in every])
            rows = torch.arange(len(x))
            pyro.sample("z", dist.MultivariateNormal(mean[y, rows], scale_tril=root[y, rows]))

    def log_joint(self, x):
        """Log p(x, y) (N, Y)."""
        return torch.stack([part.log_evidence(x) for part in self.parts], 1) + self.prior.log()


def _root(q):
    return q.scale_tril if isinstance(q, dist.MultivariateNormal) else torch.diag_embed(q.base_dist.scale)


class TestLabels:
    x = torch.linspace(-2, 2, 12).double().reshape(4, 3)

    def test_exact_guide(self):
        """With q(z | x, y) exact, a sample a class gives p(x, y) itself, and KL is the bound's whole gap."""
        pair, x = Mixture(), self.x
        found = label_posterior(pair, x, k=1)
        log_joint = pair.log_joint(x)
        torch.testing.assert_close(found.log_joint, log_joint)
        torch.testing.assert_close(found.log_posterior, log_joint.log_softmax(1))
        torch.testing.assert_close(found.log_p, log_joint.logsumexp(1))
        log_q = pair.classifier(x).log_softmax(1).detach()
        torch.testing.assert_close(found.log_q, log_q)
        torch.testing.assert_close(found.kl, (log_q.exp() * (log_q - log_joint.log_softmax(1))).sum(1))
        gap = log_joint.logsumexp(1).mean() - TraceEnumELBO(closed_form_kl=False)(pair, x).bound
        torch.testing.assert_close(found.kl.mean(), gap)

    def test_importance_sampling(self):
        """The mean weight is p(x, y) within 4.5 standard errors."""
        pair = Mixture("diagonal")
        with torch.no_grad():
            for part in pair.parts:
                part.q_log_s.zero_()  # as wide as the prior: the weights are bounded
        once = torch.stack([label_posterior(pair, self.x, k=100, seed=seed).log_joint.exp() for seed in range(20)])
        assert ((once.mean(0) - pair.log_joint(self.x).exp()).abs() < 4.5 * once.std(0) / math.sqrt(20)).all()

    def test_agreement_and_errors(self):
        pair, x = Mixture(), torch.randn(200, 3)
        found = label_posterior(pair, x, k=1)
        by_q, by_p = pair.classifier(x).argmax(1), pair.log_joint(x).argmax(1)
        assert found.agreement == pytest.approx(float((by_q == by_p).double().mean()))
        y = torch.randint(3, (200,))
        assert found.errors(y) == pytest.approx(
            (float((by_q != y).double().mean()), float((by_p != y).double().mean()))
        )
        with torch.no_grad():  # a classifier that is right
            assert found._replace(log_q=found.log_posterior).kl.abs().max() < 1e-12

    def test_a_class_that_the_guide_excludes(self):
        pair = Mixture()
        with torch.no_grad():
            pair.classifier.bias[1] = -math.inf
        found = label_posterior(pair, self.x, k=1)
        assert found.kl.isfinite().all()

    def test_m2(self):
        """Kingma's M2: the sum over classes is the evidence that enumeration inside each weight finds."""
        m2, x = SemiSupervisedVAE(6, 2, n_classes=3, hidden=(5,)), binary(4)
        found = label_posterior(m2, x, k=4000)
        torch.testing.assert_close(found.log_q, m2.q_y(x).logits.detach())
        log_w = importance_weights(m2, x, 4000, seed=1)
        torch.testing.assert_close(found.log_p, bound_per_datum(log_w, 4000), rtol=0, atol=0.03)
        assert found.log_posterior.exp().sum(1) == pytest.approx(torch.ones(4))

    def test_m1_and_m2_stacked(self):
        """Its q(y | x) is a mean over codes, and p(y | x) is Bayes' rule over all that is latent."""
        m1 = VAE(6, z_dim=2, hidden=(5,))
        with torch.no_grad():
            m1.head.linear.bias[2:] = 1.5  # wide codes: even weights
        both, x = StackedVAE(m1, SemiSupervisedVAE(2, 2, n_classes=3, hidden=(5,), likelihood="gaussian")), binary(4)
        found = label_posterior(both, x, k=4000)
        with torch.no_grad():
            codes = m1.q_z(x).sample((4000,))
            q = both.m2.q_y(codes).probs
        assert ((found.log_q.exp() - q.mean(0)).abs() < 5 * 2**0.5 * q.std(0) / 4000**0.5).all()
        w = importance_weights(both, x, 4000, seed=1).exp()
        assert ((found.log_p.exp() - w.mean(0)).abs() < 5 * 2**0.5 * w.std(0) / 4000**0.5).all()

    def test_a_label_inferred_from_another_latent(self):
        """q(y | x) = E_q(a | x)[q(y | a)], here by quadrature; and log p(x, y), the rest drawn given the label."""

        def model(x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("class", dist.Bernoulli(0.3 * torch.ones(())), obs=y)
                a = pyro.sample("a", dist.Normal(2 * y, 1.0))
                pyro.sample("x", dist.Normal(a, 1.0), obs=x)

        def guide(x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                a = pyro.sample("a", dist.Normal(0.5 * x, 1.0))
                if y is None:
                    pyro.sample("class", dist.Bernoulli(logits=a))

        x, k = torch.tensor([-1.0, 1.5, 4.0]), 20000
        found = label_posterior((model, guide), x, k=k, site="class")
        a = torch.linspace(-9, 12, 4001)
        density = dist.Normal(0.5 * x.unsqueeze(1), 1.0).log_prob(a).exp()
        one = (density * torch.sigmoid(a)).sum(1) * (a[1] - a[0])
        assert (found.log_q[:, 1].exp() - one).abs().max() < 4 * 0.5 / math.sqrt(k)
        joint = torch.stack([math.log(p) + dist.Normal(m, 2**0.5).log_prob(x) for p, m in ((0.7, 0.0), (0.3, 2.0))], 1)
        torch.testing.assert_close(found.log_joint, joint, rtol=0, atol=0.1)
        assert found.values.tolist() == [0.0, 1.0]
        assert found.errors(torch.tensor([0.0, 1.0, 1.0])) == (0.0, pytest.approx(1 / 3))

    def test_rows_are_cut_into_parts(self, monkeypatch):
        pair = Mixture()
        whole = label_posterior(pair, self.x, k=1)
        monkeypatch.setattr("inference.evidence.labels._ROWS", 3)
        torch.testing.assert_close(label_posterior(pair, self.x, k=1).log_q, whole.log_q)

    def test_it_leaves_the_callers_generator_alone(self):
        pair, state = Mixture(), torch.get_rng_state()
        label_posterior(pair, self.x, k=3)
        assert torch.equal(state, torch.get_rng_state())


def _two_labels():
    """A pair with two labels for each datum."""

    def guide(x, y=None):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("two", 2, dim=-2):
            pyro.sample("y", dist.Bernoulli(0.5 * torch.ones(())), obs=y)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)
            with pyro.plate("two", 2, dim=-2):
                pyro.sample("y", dist.Bernoulli(0.5 * torch.ones(())), obs=y)

    return model, guide


class TestRefusals:
    evidence = torch.zeros(2, 3)

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda e: classify(networks(1), binary(2)), "at least 2 classes"),
            (lambda e: classify(networks(), binary(0)), "no datum"),
            (lambda e: classify(networks(), binary(2), k=0), "number of draws k"),
            (lambda e: classify(networks(), binary(2), evidence=lambda m, x: x.sum()), "a number for each of 2 rows"),
            (lambda e: bayes(e[0]), "a row for each datum"),
            (lambda e: bayes(e[:0]), "a row for each datum"),
            (lambda e: bayes(e, torch.tensor([0.5, 0.5])), "3 probabilities"),
            (lambda e: bayes(e, torch.tensor([0.5, 0.6, 0.2])), "add up to 1"),
            (lambda e: bayes(e, torch.tensor([1.5, -0.6, 0.1])), "3 probabilities"),
            (lambda e: bayes(e, temperature=0.0), "above 0"),
            (lambda e: bayes(e, temperature=math.nan), "above 0"),
            (lambda e: bayes(e - math.inf), "row 0 has log p"),
            (lambda e: bayes(torch.tensor([[0.0, 1.0], [0.0, math.nan]])), "row 1 has log p.x. = nan"),
            (lambda e: calibrate(e[:0], torch.zeros(0, dtype=torch.long)), "at least one"),
            (lambda e: bayes(e).error(torch.tensor([0])), "a label for each of 2 rows"),
            (lambda e: calibrate(e, torch.tensor([0, 3])), "0 ... 2, got 3"),
            (lambda e: calibrate(e, torch.tensor([-1, 0])), "got -1"),
            (lambda e: calibrate(torch.tensor([[0.0, -math.inf]]), torch.tensor([1])), "own class 1"),
            (lambda e: calibration_error(e, torch.tensor([0, 1]), bins=0), "bins is at least 1"),
            (lambda e: label_posterior(Mixture(), torch.zeros(2, 3), k=0), "k=0"),
            (lambda e: label_posterior(Mixture(), torch.zeros(0, 3)), "0 rows"),
            (lambda e: label_posterior(Mixture(), torch.zeros(2, 3), site="class"), "no discrete site 'class'"),
            (lambda e: label_posterior(Mixture(), torch.zeros(2, 3), site="z"), "no discrete site 'z'"),
            (lambda e: label_posterior(networks()[0], binary(2), site="h1"), "no discrete site 'h1'"),
            (lambda e: label_posterior(_two_labels(), torch.zeros(4)), "not one value for each of 4 rows"),
            (lambda e: label_posterior(Mixture(), torch.zeros(2, 3)).errors(torch.zeros(3)), "each of 2 rows"),
        ],
    )
    def test_a_sentence_each(self, call, says):
        with pytest.raises((ShapeError, UnsupportedModelError), match=says):
            call(self.evidence)

    def test_a_tuple_has_no_trained_parameters(self):
        def model(x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("y", dist.Bernoulli(0.5 * torch.ones(())), obs=y)
                pyro.sample("x", dist.Normal(pyro.param("m", torch.zeros(())) + y, 1.0), obs=x)

        def guide(x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                if y is None:
                    pyro.sample("y", dist.Bernoulli(logits=pyro.param("b", torch.zeros(())) + x))

        with pytest.raises(RunError, match="no trained pyro.param"):
            label_posterior((model, guide), torch.zeros(2))
