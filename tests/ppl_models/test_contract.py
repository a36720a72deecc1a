"""Every model of the package under the shared contract."""

import torch

from ppl_models import DLGM, DRAW, VAE, ConditionalVAE
from tests.suites import ModelGuideSuite


class TestVAE(ModelGuideSuite):
    def make(self):
        return VAE(16, z_dim=3, hidden=(8, 6))

    def batch(self, n):
        return (torch.rand(n, 16, generator=torch.Generator().manual_seed(n)).round(),)


class TestGaussianVAE(TestVAE):
    def make(self):
        return VAE(16, z_dim=3, hidden=(8,), activation="relu", likelihood="gaussian")


class TestConvolutionalVAE(TestVAE):
    def make(self):
        return VAE(16, z_dim=3, hidden=(4, 8), activation="elu", image_shape=(1, 4, 4), conv=True)


class TestConditionalVAE(ModelGuideSuite):
    def make(self):
        return ConditionalVAE(10, 6, z_dim=3, hidden=(8, 6))

    def batch(self, n):
        return torch.rand(n, 16, generator=torch.Generator().manual_seed(n)).round().split((10, 6), -1)


class TestGaussianConditionalVAE(TestConditionalVAE):
    def make(self):
        return ConditionalVAE(10, 6, z_dim=3, hidden=(8,), activation="relu", likelihood="gaussian")


class TestDRAW(TestVAE):
    latents = frozenset({"z1", "z2"})

    def make(self):
        return DRAW(16, (1, 4, 4), glimpses=2, z_dim=3, units=6)


class TestAttentiveDRAW(TestDRAW):
    def make(self):
        return DRAW(16, (1, 4, 4), glimpses=2, z_dim=3, units=6, read=2, write=3)


class TestGaussianDRAW(TestDRAW):
    def make(self):
        return DRAW(16, glimpses=2, z_dim=3, units=6, likelihood="gaussian")


class TestDLGM(TestVAE):
    latents = frozenset({"z1", "z2"})

    def make(self):
        return DLGM(16, (4, 3), ((8, 6), (5,)))


class TestRankOneDLGM(TestDLGM):
    def make(self):
        return DLGM(16, (4, 3), ((8,), ()), likelihood="gaussian", guide="parallel", posterior="rank_one")


class TestLadderDLGM(TestDLGM):
    def make(self):
        return DLGM(16, (4, 3), ((8,), (5,)), guide="ladder", noise="learned")
