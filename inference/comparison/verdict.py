"""From a row to words, by rules that are stated here and nowhere else.

A rule looks at one row and finds fault or not. An engine is trusted when no rule does, and since the rule on errors is
one of them, never for its R-hat alone: the draws of a guide are independent, so that R-hat is 1.00 and the effective
sample size full however far off they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

from inference.comparison.rows import KHAT_LIMIT, MCSE_LIMIT, Row

__all__ = ["CARE", "NOT", "RULES", "TRUST", "Finding", "Verdict", "answer", "verdicts"]

TRUST, CARE, NOT = "trust", "use with care", "do not trust"

MATERIAL = 0.1  # our choice: an error of a probability, or in standard deviations, that would change a conclusion
KHAT_SHARE = 0.05  # our choice: so few data may have a k-hat over the limit by the noise of k-hat itself
R_HAT_LIMIT = 1.01  # vehtari2021rhat
R_HAT_OLD_LIMIT = 1.1  # gelman1992's, which vehtari2021rhat finds too lax: over it nothing is left to doubt
DIVERGENT_REFERENCE = 0.001  # our choice: of a reference's transitions; fewer do not move a mean that is judged by it
DIVERGENT_SHARE = 0.01  # our choice: of transitions; fewer are a warning, more a region that is not seen
ESS_LIMIT = 400.0  # vehtari2021rhat: of all chains together, else R-hat and MCSE are too noisy themselves
EXACT = {
    "enumeration": "it enumerates every state",
    "quadrature": "it is exact but for an integral that is done numerically",
}


class Finding(NamedTuple):
    """What a rule found: CARE or NOT, and why."""

    severity: str
    why: str


class Verdict(NamedTuple):
    """One engine's: the word, and one sentence that gives the reasons."""

    word: str
    why: str


def means(row: Row, reference: Row) -> Finding | None:
    """Means further from the reference's than chance allows."""
    if row.is_reference or row.error_z <= MCSE_LIMIT:
        return None
    unseen = f", though R-hat is {row.r_hat:.2f}" if row.r_hat is not None and row.r_hat <= R_HAT_LIMIT else ""
    why = f"its means are off by up to {row.error_max:#.2g} ({row.error_z:.1f} MCSE) at {row.error_max_at}{unseen}"
    return Finding(NOT if row.error_max >= MATERIAL else CARE, why)


def widths(row: Row, reference: Row) -> Finding | None:
    """Standard deviations of continuous sites further from the reference's than chance allows."""
    if not row.sds_off:
        return None
    named = [f"{at} by {abs(share):.0%}" for at, share in row.sds_off]
    ways = {share < 0 for _, share in row.sds_off}
    way = "off" if len(ways) > 1 else "too small" if ways == {True} else "too large"
    if len(ways) > 1:
        named = [f"{at} by {share:+.0%}".replace("-", "\N{MINUS SIGN}") for at, share in row.sds_off]
    severity = NOT if max(abs(share) for _, share in row.sds_off) >= MATERIAL else CARE
    return Finding(severity, f"its standard deviations are {way}: {', '.join(named)}")


def joint(row: Row, reference: Row) -> Finding | None:
    """E[log p(x, h)] off: right marginals with the wrong dependence show here."""
    if row.is_reference or abs(row.log_p_error) <= MCSE_LIMIT * row.log_p_mcse:
        return None
    off = f"{row.log_p_error:+#.2g}".rstrip(".").replace("-", "\N{MINUS SIGN}")
    unit = "nats" if row.whole else "nats per datum"
    return Finding(CARE, f"E[log p(x, h)] is off by {off} {unit}: mind what depends on what")


def tails(row: Row, reference: Row) -> Finding | None:
    """Importance weights of a guide whose tail is too heavy."""
    if row.khat_max is None or row.khat_median is None or row.khat_share is None or row.khat_max <= KHAT_LIMIT:
        return None
    if row.whole:
        return Finding(NOT, f"k-hat is {row.khat_max:.2g}, above {KHAT_LIMIT}: its tails are not the posterior's")
    if row.khat_share > KHAT_SHARE:
        why = f"k-hat is above {KHAT_LIMIT} for {row.khat_share:.0%} of the data (median {row.khat_median:.2g})"
        return Finding(NOT, why)
    return Finding(CARE, f"k-hat is above {KHAT_LIMIT} for {row.khat_share:.0%} of the data: not for those")


def mixing(row: Row, reference: Row) -> Finding | None:
    """Chains that disagree; a guide's are independent draws by their making."""
    if row.exact or row.elbo is not None or row.r_hat is None or row.r_hat <= R_HAT_LIMIT:
        return None
    if row.r_hat > R_HAT_OLD_LIMIT:
        return Finding(NOT, f"its chains disagree (R-hat {row.r_hat:.2f})")
    return Finding(CARE, f"its chains do not quite agree yet (R-hat {row.r_hat:.3f} > {R_HAT_LIMIT}): run them longer")


def diverged(row: Row, reference: Row) -> Finding | None:
    """Trajectories that left theirs: a part of the posterior that is too narrow for the step."""
    if not row.divergences:
        return None
    total = row.chains * row.draws
    why = f"{row.divergences:,} of {total:,} transitions diverged: it may miss where the posterior is narrow"
    return Finding(NOT if row.divergences > DIVERGENT_SHARE * total else CARE, why)


def enough(row: Row, reference: Row) -> Finding | None:
    """Too few effective draws to judge by."""
    sizes = [size for size in (row.ess_bulk, row.ess_tail) if size is not None]
    if row.exact or (sizes and min(sizes) >= ESS_LIMIT):
        return None
    found = f"{min(sizes):.0f} effective draws" if sizes else "too few draws to count effective ones"
    return Finding(CARE, f"{found} at the worst, of {ESS_LIMIT:.0f} that R-hat and MCSE need: draw more")


def chains(row: Row, reference: Row) -> Finding | None:
    """One Markov chain alone."""
    if row.exact or row.elbo is not None or row.chains > 1:
        return None
    return Finding(CARE, "one chain cannot show that it misses a mode: run four")


def yardstick(row: Row, reference: Row) -> Finding | None:
    """A reference that is sampled, and in doubt itself."""
    if reference.exact:
        return None
    if row.is_reference:
        return Finding(CARE, "it is the reference, so nothing here checks it")
    doubts = [rule(reference, reference) for rule in (tails, mixing, enough, chains)]
    astray = (reference.divergences or 0) > DIVERGENT_REFERENCE * reference.chains * reference.draws
    if any(doubts) or astray:
        return Finding(CARE, f"the reference {reference.engine} is in doubt itself")
    return None


RULES = (means, widths, joint, tails, mixing, diverged, enough, chains, yardstick)


def verdicts(rows: Sequence[Row]) -> dict[str, Verdict]:
    """The verdict on every engine: its worst finding decides, and every finding is said."""
    reference = next(row for row in rows if row.is_reference)
    return {row.engine: _verdict(row, reference) for row in rows}


def _verdict(row: Row, reference: Row) -> Verdict:
    found = [finding for rule in RULES if (finding := rule(row, reference)) is not None]
    if not found:
        agrees = (
            f"its means agree with {reference.engine}'s within {row.error_max:#.2g} ({row.error_z:.1f} MCSE at most)"
        )
        return Verdict(TRUST, EXACT[row.how] if row.exact else agrees)
    found.sort(key=lambda finding: finding.severity != NOT)  # the gravest first; Python's sort keeps the rest in order
    return Verdict(found[0].severity, "; ".join(finding.why for finding in found))


def answer(rows: Sequence[Row]) -> str:
    """One sentence: which engine to trust here, and what it cost."""
    words = verdicts(rows)
    by_cost = sorted(rows, key=lambda row: row.seconds_total)
    trusted = [row for row in by_cost if words[row.engine].word == TRUST]
    clauses = []
    if trusted:
        first = trusted[0]
        cheapest = "the cheapest that is right" if len(trusted) > 1 else "the only one that is right"
        clauses.append(f"Trust {first.engine} here: {cheapest}, at {_seconds(first)}")
        clauses += [f"{row.engine} is right as well, at {_seconds(row)}" for row in trusted[1:]]
    else:
        clauses.append("None of them can be trusted here as it stands")
    for row in by_cost:
        word = words[row.engine].word
        if word != TRUST:
            off = "" if row.is_reference else f", off by up to {row.error_max:#.2g}"
            verb = "use" if word == CARE else "do not trust"
            clauses.append(f"{verb} {row.engine} ({_seconds(row)}{off}){' with care' if word == CARE else ''}")
    return "; ".join(clauses) + "."


def _seconds(row: Row) -> str:
    return f"{row.seconds_total:#.2g} s" if row.seconds_total < 10 else f"{row.seconds_total:,.0f} s"
