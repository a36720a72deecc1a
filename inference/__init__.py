"""Engines that train, sample and judge Pyro model/guide pairs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.adversarial.frechet import frechet_distance
    from inference.adversarial.freezing import FreezeOnAccuracy, FreezeOnLoss, FreezeSchedule
    from inference.adversarial.game import Adversarial
    from inference.adversarial.latent import arithmetic, interpolate
    from inference.adversarial.losses import Hinge, LeastSquares, Minimax, NonSaturating, Wasserstein
    from inference.adversarial.modes import mode_coverage, warn_of_collapse
    from inference.adversarial.neighbours import memorisation, nearest
    from inference.adversarial.parzen import parzen
    from inference.adversarial.penalties import R1, GradientPenalty
    from inference.adversarial.samples import judge_samples, stacked_modes
    from inference.adversarial.stabilisers import FeatureMatching, HistoricalAveraging, LabelSmoothing
    from inference.adversarial.virtual import virtual_batch_norm
    from inference.comparison.compare import Comparison, compare
    from inference.comparison.guided import Guided
    from inference.comparison.learning import learn
    from inference.comparison.local import LocalGaussian
    from inference.evidence.active import active_units, active_units_by_site
    from inference.evidence.ais import AIS, bdmc
    from inference.evidence.ais_draws import AnnealedHMC
    from inference.evidence.calibration import calibrate, calibration_error
    from inference.evidence.classify import bayes, classify
    from inference.evidence.exact import Exact, exact_posterior, exact_table
    from inference.evidence.importance import importance_weights, log_marginal
    from inference.evidence.labels import label_posterior
    from inference.evidence.marginal import exact_log_marginal
    from inference.evidence.proposal import tune_guide
    from inference.evidence.site_kl import kl_by_site
    from inference.mcmc.gibbs import Gibbs
    from inference.mcmc.hmc import HMC, NUTS
    from inference.mcmc.hmc_within_gibbs import HMCWithinGibbs
    from inference.mcmc.imputation import impute
    from inference.mcmc.kernel import GibbsKernel
    from inference.mcmc.learning import GibbsLearning
    from inference.pair import Pair
    from inference.training.fit import Saving, fit, linear
    from inference.vi.baselines import NVIL
    from inference.vi.disarm import DisARM
    from inference.vi.mean_field import MeanField, mean_field_bound
    from inference.vi.objectives import IWAE, TraceELBO, TraceEnumELBO
    from inference.vi.semi_supervised import SemiSupervisedELBO
    from inference.vi.svi import SVI
    from inference.vi.wake_sleep import Dreaming, ReweightedWakeSleep
    from inference.weights import log_weights

__all__ = [
    "AIS",
    "Adversarial",
    "AnnealedHMC",
    "Comparison",
    "DisARM",
    "Dreaming",
    "Exact",
    "FeatureMatching",
    "FreezeOnAccuracy",
    "FreezeOnLoss",
    "FreezeSchedule",
    "Gibbs",
    "GibbsKernel",
    "GibbsLearning",
    "GradientPenalty",
    "Guided",
    "HMC",
    "HMCWithinGibbs",
    "Hinge",
    "HistoricalAveraging",
    "IWAE",
    "LabelSmoothing",
    "LeastSquares",
    "LocalGaussian",
    "MeanField",
    "Minimax",
    "NUTS",
    "NVIL",
    "NonSaturating",
    "Pair",
    "R1",
    "ReweightedWakeSleep",
    "SVI",
    "Saving",
    "SemiSupervisedELBO",
    "TraceELBO",
    "TraceEnumELBO",
    "Wasserstein",
    "active_units",
    "active_units_by_site",
    "arithmetic",
    "bayes",
    "bdmc",
    "calibrate",
    "calibration_error",
    "classify",
    "compare",
    "exact_log_marginal",
    "exact_posterior",
    "exact_table",
    "fit",
    "frechet_distance",
    "importance_weights",
    "impute",
    "interpolate",
    "judge_samples",
    "kl_by_site",
    "label_posterior",
    "learn",
    "linear",
    "log_marginal",
    "log_weights",
    "mean_field_bound",
    "memorisation",
    "mode_coverage",
    "nearest",
    "parzen",
    "stacked_modes",
    "tune_guide",
    "virtual_batch_norm",
    "warn_of_collapse",
]

# The same at run time, each module imported at the first use of its names: `ppl --help` need not wait for torch.
_MODULES = {
    "adversarial.freezing": ("FreezeOnAccuracy", "FreezeOnLoss", "FreezeSchedule"),
    "adversarial.frechet": ("frechet_distance",),
    "adversarial.game": ("Adversarial",),
    "adversarial.latent": ("arithmetic", "interpolate"),
    "adversarial.losses": ("Hinge", "LeastSquares", "Minimax", "NonSaturating", "Wasserstein"),
    "adversarial.modes": ("mode_coverage", "warn_of_collapse"),
    "adversarial.neighbours": ("memorisation", "nearest"),
    "adversarial.parzen": ("parzen",),
    "adversarial.penalties": ("R1", "GradientPenalty"),
    "adversarial.samples": ("judge_samples", "stacked_modes"),
    "adversarial.stabilisers": ("FeatureMatching", "HistoricalAveraging", "LabelSmoothing"),
    "adversarial.virtual": ("virtual_batch_norm",),
    "comparison.compare": ("Comparison", "compare"),
    "comparison.guided": ("Guided",),
    "comparison.local": ("LocalGaussian",),
    "comparison.learning": ("learn",),
    "evidence.active": ("active_units", "active_units_by_site"),
    "evidence.ais": ("AIS", "bdmc"),
    "evidence.ais_draws": ("AnnealedHMC",),
    "evidence.calibration": ("calibrate", "calibration_error"),
    "evidence.classify": ("bayes", "classify"),
    "evidence.exact": ("Exact", "exact_posterior", "exact_table"),
    "evidence.importance": ("importance_weights", "log_marginal"),
    "evidence.labels": ("label_posterior",),
    "evidence.marginal": ("exact_log_marginal",),
    "evidence.proposal": ("tune_guide",),
    "evidence.site_kl": ("kl_by_site",),
    "mcmc.gibbs": ("Gibbs",),
    "mcmc.hmc": ("HMC", "NUTS"),
    "mcmc.hmc_within_gibbs": ("HMCWithinGibbs",),
    "mcmc.imputation": ("impute",),
    "mcmc.kernel": ("GibbsKernel",),
    "mcmc.learning": ("GibbsLearning",),
    "pair": ("Pair",),
    "training.fit": ("Saving", "linear", "fit"),
    "vi.baselines": ("NVIL",),
    "vi.disarm": ("DisARM",),
    "vi.mean_field": ("MeanField", "mean_field_bound"),
    "vi.objectives": ("IWAE", "TraceELBO", "TraceEnumELBO"),
    "vi.semi_supervised": ("SemiSupervisedELBO",),
    "vi.svi": ("SVI",),
    "vi.wake_sleep": ("Dreaming", "ReweightedWakeSleep"),
    "weights": ("log_weights",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"inference.{module}"), name)
    raise AttributeError(f"module 'inference' has no attribute '{name}'")
