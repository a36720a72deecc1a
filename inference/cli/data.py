"""`ppl data`: the data sets by name, and where each would come from now."""

from inference.cli.app import app, guarded

__all__ = ["data"]


@app.command()
@guarded
def data() -> None:
    """List the data sets: what there is, and where from."""
    from rich.console import Console
    from rich.table import Table

    from ppl_models import data as datasets

    table = Table(title="data sets; a path to a .npy, .npz or folder of images works wherever a name does")
    for heading in ("name", "shape", "train", "test", "values", "from"):
        table.add_column(heading, overflow="fold")
    rows = datasets.available()
    for row in rows:
        shape = "x".join(map(str, row.image_shape))
        table.add_row(row.name, shape, str(row.train), str(row.test), row.values, row.source)
    console = Console()
    console.print(table)
    for row in rows:
        if row.source in ("download", "missing") and row.url:
            console.print(f"{row.name}: {row.url}", soft_wrap=True, highlight=False)
