"""The survey's Figure 8, a game on the line in four moments; g(x) is a kernel estimate of 10,000 samples (sd 0.07)."""

import copy
from io import BytesIO

import torch
from matplotlib.figure import Figure

from inference import R1, Adversarial, FreezeSchedule, fit, linear
from inference.comparison.figures import write_atomic
from ppl_models import Discriminator, Generator, data


def main(epochs: int = 40, out: str = "gan_1d.png") -> None:
    toy, x, z = data.line((-1.5, 1.0), 0.5), torch.linspace(-4, 4, 401)[:, None], torch.linspace(-2.5, 2.5, 26)[:, None]
    torch.manual_seed(0)
    g, d = Generator(1, z_dim=1, hidden=(64, 64), activation="tanh"), Discriminator(1, hidden=(64, 64), fourier=(1,))
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), lr, betas=(0.0, 0.99)) for net, lr in ((g, 1e-3), (d, 1e-2)))
    turns = FreezeSchedule(generator=[(0, 400)], discriminator=[(400, 430)])
    game = Adversarial(g, d, opt_g, opt_d, penalties=(R1(0.1),), freeze=turns)
    v, moments = 0.0, {"(a) before training": copy.deepcopy((g, d))}
    for title, steps, passes in (("(b) D alone", 400, 1), ("(c) G alone", 30, 1), ("(d) at the end", 50, epochs)):
        batches = data.Batches(toy.sample(200 * steps, seed=steps), 200)
        v = -fit(game, batches, passes, schedule=linear(0.02 if steps == 50 else 1.0))[-1]["d_loss"]
        moments[title] = copy.deepcopy((g, d))
    fig, p = Figure((13, 4.6), layout="constrained"), toy.log_prob(x).exp()
    for (top, below), (title, (g, d)) in zip(fig.subplots(2, 4, height_ratios=(3, 1)).T, moments.items(), strict=True):
        q = torch.distributions.Normal(g.generate(10_000).flatten(), 0.07).log_prob(x).exp().mean(1)  # over samples
        top.plot(x, p, "k:", x, q, "C2", x, d(x).sigmoid().detach(), "C0--", x, p / (p + q), "C1-.")
        below.plot(torch.cat([z, g(z).detach()], 1).T, [1, 0], "0.5", lw=0.7)
        top.set(title=title, ylim=(0, 1.05), xlim=(-4, 4), xticks=[])
        below.set(xlim=(-4, 4), yticks=(0, 1), yticklabels="xz", ylim=(0, 1))
    fig.legend(top.lines, ("data p", "generator g", "D", "D* = p / (p + g)"), loc="outside lower center", ncols=4)
    fig.savefig(content := BytesIO(), format="png", dpi=120)
    write_atomic(out, content.getvalue())
    print(f"V = {v:.3f} nats at the end, -log 4 = -1.386 where g = p")


if __name__ == "__main__":
    main()
