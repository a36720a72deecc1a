"""Models as Pyro model/guide pairs, and the data sets they are trained on."""

from ppl_models import classic, data
from ppl_models.bayesian_network import BayesianNetwork
from ppl_models.belief_network import BeliefNetwork
from ppl_models.classifier import ImageClassifier
from ppl_models.cvae import ConditionalVAE
from ppl_models.dcgan import DCGAN28, DCGAN32, DCGAN64, DCGANDiscriminator, DCGANGenerator
from ppl_models.dlgm import DLGM
from ppl_models.draw import DRAW
from ppl_models.gan import Discriminator, Generator
from ppl_models.lapgan import LAPGAN
from ppl_models.players import MinibatchDiscrimination
from ppl_models.pyramid import collapse, laplacian_pyramid
from ppl_models.sbn import SigmoidBeliefNetwork
from ppl_models.ssvae import SemiSupervisedVAE, StackedVAE
from ppl_models.vae import VAE

__all__ = [
    "DCGAN28",
    "DCGAN32",
    "DCGAN64",
    "DLGM",
    "DRAW",
    "VAE",
    "BayesianNetwork",
    "BeliefNetwork",
    "ConditionalVAE",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Discriminator",
    "Generator",
    "LAPGAN",
    "ImageClassifier",
    "MinibatchDiscrimination",
    "SemiSupervisedVAE",
    "SigmoidBeliefNetwork",
    "StackedVAE",
    "classic",
    "collapse",
    "data",
    "laplacian_pyramid",
]
