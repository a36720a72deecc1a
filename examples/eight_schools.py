"""Eight schools by variational inference and NUTS, judged by quadrature: which has tau too narrow?"""

from pathlib import Path

from rich import print

from inference import IWAE, Guided, compare
from inference.cli.schools import Quadrature
from inference.comparison.guided import automatic, full_rank
from inference.mcmc.hmc import NUTS
from ppl_models import classic


def main(epochs: int = 40, out: Path = Path("runs/eight_schools")) -> str:
    y, sigma = classic.eight_schools_data()
    steps = 50 * epochs
    engines = {
        "mean field": Guided(steps=steps, lr=5e-2, guide=automatic),
        "full rank": Guided(steps=steps, lr=5e-2, guide=full_rank),
        "iwae": Guided(IWAE(10), steps=steps, lr=5e-2, guide=automatic, resample=10),
        "nuts": NUTS(chains=4, target_accept=0.9),
        "quadrature": Quadrature(),
    }
    result = compare(classic.eight_schools, (y, sigma), engines, reference="quadrature")
    print(result)
    print(f"log p(y) = {result.rows[-1].log_evidence:.4f} nats")
    if not out.exists():
        print(f"{result.save(out)}: the page")
    return result.answer


if __name__ == "__main__":
    main()
