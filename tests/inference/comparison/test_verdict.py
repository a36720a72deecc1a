"""The rules of the verdict, one by one: each alone decides, and R-hat alone never acquits."""

import pytest

from inference.comparison import verdict as v
from inference.comparison.rows import Row


def row(**changes) -> Row:
    """A Gibbs run that is right, less what the test changes."""
    good = Row(
        engine="gibbs", is_reference=False, exact=False, chains=4, draws=1000,
        error=0.006, error_mcse=0.006, error_max=0.03, error_max_mcse=0.012, error_max_at="h1[3, 1]", error_z=2.9,
        sd_error=None, sd_error_mcse=None, log_p_error=0.002, log_p_mcse=0.004,
        r_hat=1.004, ess_bulk=900.0, ess_tail=850.0, ess_per_second=900.0,
        elbo=None, bound=None, bound_k=None, gap=None, log_evidence=-20.0,
        khat_joint=None, khat_median=None, khat_max=None, khat_share=None,
        seconds=1.0, warmup_seconds=0.2, compile_seconds=0.0, seconds_total=1.2, evaluations=1100, seconds_to_error=0.4,
    )  # fmt: skip
    return good._replace(**changes)


EXACT = row(engine="exact", is_reference=True, exact=True, error_z=0.0, seconds_total=3.0, chains=1, r_hat=None)
LONG = row(engine="long", is_reference=True, error_z=0.0, seconds_total=60.0)
GUIDE = {
    "engine": "guide", "chains": 1, "elbo": -21.0, "bound": -20.5, "bound_k": 1000, "gap": 1.0, "ess_per_second": None,
    "khat_joint": 0.6, "khat_median": 0.3, "khat_max": 0.6, "khat_share": 0.0, "r_hat": 1.0, "seconds_total": 0.5,
}  # fmt: skip


def judge(reference=EXACT, **changes) -> v.Verdict:
    each = row(**changes)
    return v.verdicts([each, reference])[each.engine]


def test_a_sampled_reference_is_in_doubt_by_many_divergences_and_not_by_one():
    assert judge(LONG._replace(divergences=4)).word == v.TRUST
    assert "is in doubt itself" in judge(LONG._replace(divergences=5)).why


def test_a_run_without_fault_is_trusted_with_its_error():
    said = judge()
    assert said == (v.TRUST, "its means agree with exact's within 0.030 (2.9 MCSE at most)")


@pytest.mark.parametrize(
    ("changes", "word", "says"),
    [
        ({"error_z": 4.1, "error_max": 0.12}, v.NOT, "off by up to 0.12 (4.1 MCSE) at h1[3, 1]"),
        ({"error_z": 9.0, "error_max": 0.05}, v.CARE, "off by up to 0.050"),
        ({"sds_off": (("tau", -0.4), ("mu", -0.2))}, v.NOT, "deviations are too small: tau by 40%, mu by 20%"),
        ({"sds_off": (("tau", 0.06),)}, v.CARE, "deviations are too large: tau by 6%"),
        ({"sds_off": (("tau", -0.06), ("mu", 0.05))}, v.CARE, "deviations are off: tau by −6%, mu by +5%"),
        ({"log_p_error": -0.3, "log_p_mcse": 0.05}, v.CARE, "−0.30 nats per datum"),
        ({"log_p_error": -0.3, "log_p_mcse": 0.05, "whole": True}, v.CARE, "−0.30 nats:"),
        ({"divergences": 3}, v.CARE, "3 of 4,000 transitions diverged"),
        ({"divergences": 41}, v.NOT, "41 of 4,000 transitions diverged"),
        ({"r_hat": 1.02}, v.CARE, "R-hat 1.020 > 1.01"),
        ({"r_hat": 1.3}, v.NOT, "its chains disagree"),
        ({"ess_bulk": 120.0}, v.CARE, "120 effective draws"),
        ({"ess_tail": 90.0}, v.CARE, "90 effective draws"),
        ({"ess_bulk": None, "ess_tail": None}, v.CARE, "too few draws"),
        ({"chains": 1}, v.CARE, "one chain"),
        (GUIDE | {"khat_max": 1.1, "khat_share": 0.3, "khat_median": 0.5}, v.NOT, "above 0.7 for 30% of the data"),
        (GUIDE | {"khat_max": 0.9, "khat_share": 0.03}, v.CARE, "not for those"),
        (GUIDE | {"khat_max": 0.9, "khat_share": 1.0, "whole": True}, v.NOT, "k-hat is 0.9, above 0.7"),
    ],
)
def test_each_rule_alone(changes, word, says):
    said = judge(**changes)
    assert said.word == word
    assert says in said.why


@pytest.mark.parametrize(
    "changes",
    [
        {"error_z": 4.0, "error_max": 0.5},
        {"sd_error": 0.4, "sd_error_mcse": 0.1},
        {"log_p_error": -0.2, "log_p_mcse": 0.05},
        {"r_hat": 1.01},
        {"ess_bulk": 400.0, "ess_tail": 400.0},
        GUIDE | {"khat_max": 0.7},
    ],
)
def test_the_limit_itself_is_within(changes):
    assert judge(**changes).word == v.TRUST


def test_a_guide_with_perfect_chains_and_a_wrong_mean_is_not_trusted():
    """Fact 7: R-hat 1.00, all draws effective, and 0.42 off."""
    said = judge(**GUIDE | {"error_max": 0.42, "error_z": 26.0, "ess_bulk": 1710.0, "khat_max": 0.5})
    assert said.word == v.NOT
    assert "off by up to 0.42 (26.0 MCSE)" in said.why and "though R-hat is 1.00" in said.why


def test_the_worst_finding_decides_and_all_are_said():
    said = judge(error_z=8.0, error_max=0.05, r_hat=1.5, ess_bulk=12.0)
    assert said.word == v.NOT
    assert said.why.startswith("its chains disagree")
    assert "off by up to" in said.why and "12 effective draws" in said.why


def test_independent_draws_need_no_r_hat():
    assert judge(**GUIDE | {"r_hat": 1.02}).word == v.TRUST


def test_the_exact_reference_is_right_and_a_sampled_one_is_not_checked():
    assert v.verdicts([EXACT])["exact"] == (v.TRUST, "it enumerates every state")
    assert v.verdicts([LONG])["long"].word == v.CARE


def test_agreement_with_a_reference_in_doubt_proves_nothing():
    assert judge(LONG).word == v.TRUST
    said = judge(LONG._replace(r_hat=1.2))
    assert said.word == v.CARE and "the reference long is in doubt itself" in said.why


def test_the_answer_names_the_cheapest_that_is_right_and_every_cost():
    rows = [row(), EXACT, row(**GUIDE | {"error_max": 0.42, "error_z": 26.0}), row(engine="short", ess_bulk=50.0)]
    said = v.answer(rows)
    assert said.startswith("Trust gibbs here: the cheapest that is right, at 1.2 s; exact is right as well, at 3.0 s")
    assert "do not trust guide (0.50 s, off by up to 0.42)" in said
    assert "use short (1.2 s, off by up to 0.030) with care" in said
    assert said.endswith(".")


def test_the_answer_when_none_is_right():
    said = v.answer([row(r_hat=2.0), LONG])
    assert said.startswith("None of them can be trusted here as it stands; do not trust gibbs")
