"""The page of a run: self-contained, escaped, legible on a telephone, and never half written."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.comparison.figures import curves, image_grid, png_bytes, save_png, write_atomic
from inference.comparison.report import write_run
from inference.errors import ShapeError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync --virtual-time-budget=10000"


def history(epochs: int) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, epochs + 1):
        kl, loss = 5 * (1 - np.exp(-epoch / 6)), 18 + 7 * np.exp(-epoch / 12)
        row = {"epoch": epoch, "loss": loss, "reg": -kl, "rec": kl - loss, "valid": loss + 0.3}
        rows.append(row | {"step": 15 * epoch, "lr": 1e-3, "seconds": 0.4 * epoch, "cpu_seconds": 0.8 * epoch})
    return rows


def render(path: Path, **changes: Any) -> str:
    """Write a page with every part filled, less what the test changes; return its text."""
    digits = np.linspace(0, 1, 16 * 64).reshape(16, 1, 8, 8)
    parts: dict[str, Any] = {
        "title": "VAE on digits",
        "summary": {"Parameters": 107_328, "Device": "cpu", "Data": "digits, dynamic binarisation"},
        "config": {
            "command": "ppl train vae --data digits",
            "optimizer": {"lr": 1e-3},
            "versions": {"torch": "2"},
        },
        "history": history(100),
        "evaluation": [
            {
                "k": 5000,
                "mean": -16.93,
                "se": 0.21,
                "images": 360,
                "khat": 0.61,
                "active_units": 6,
                "units": 8,
            },
            {"k": 1, "mean": -18.4, "se": 0.2, "images": 360, "data": "digits, dynamic binarisation"},
        ],
        "images": [("Samples", "means of p(x | z)", png_bytes(image_grid(digits, 8)))],
    }
    write_run(path, **(parts | changes))
    return path.read_text(encoding="utf-8")


def words(page: str) -> str:
    """Text of the page as it is read, without markup."""
    body = page.split("<body>")[1]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_page_needs_no_other_file(tmp_path: Path) -> None:
    page = render(tmp_path / "run.html")
    assert not re.search(r"https?:|//cdn|url\(|@import|<script|<link", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    encoded = re.search(r'base64,([^"]+)" width="(\d+)" height="(\d+)" alt="Samples', page)
    assert encoded is not None
    with Image.open(io.BytesIO(base64.b64decode(encoded[1]))) as image:
        assert image.size == (int(encoded[2]), int(encoded[3]))


def test_page_states_figures_units_and_settings(tmp_path: Path) -> None:
    page = render(tmp_path / "run.html")
    text = words(page)
    assert page.count('role="img"') == 6  # loss, KL and reconstruction, by epoch and by CPU-seconds
    for fact in (
        "107,328",
        "nats per datum",
        "CPU-seconds",
        "5,000 −16.93 0.21 360 0.61",
        "6 of 8",
        "validation",
    ):
        assert fact in text
    for fact in (
        "ppl train vae --data digits",
        "optimizer.lr 0.001",
        "torch 2",
        "digits, dynamic binarisation",
    ):
        assert fact in text
    assert text.index("1 −18.40") < text.index("5,000 −16.93")  # rows in order of k


def test_parts_are_drawn_as_costs_that_add_to_the_loss(tmp_path: Path) -> None:
    page = render(tmp_path / "run.html", history=[{"epoch": 1, "loss": 18.0, "reg": -5.0, "rec": -13.0}])
    kl, rec = (page.split(f"<title>{name}")[1].split("</svg>")[0] for name in ("Regulariser", "Reconstruction"))
    assert ">5<" in kl and ">13<" in rec and "−" not in kl + rec


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_short_histories(tmp_path: Path, epochs: int) -> None:
    page = render(tmp_path / "run.html", history=history(epochs), images=[], evaluation=None)
    assert page.count('role="img"') == (6 if epochs else 0)
    assert f"ppl evaluate {tmp_path} --k 1,5,50,5000" in words(page)
    assert not re.search(r"\b(nan|inf|None)\b", page)


def test_history_without_parts_has_loss_only(tmp_path: Path) -> None:
    page = render(tmp_path / "run.html", history=[{"epoch": e, "loss": 20.0 - e} for e in range(1, 5)])
    assert page.count('role="img"') == 1 and "Regulariser" not in page


def test_no_nan_reaches_the_page(tmp_path: Path) -> None:
    rows = history(5)
    rows[2]["loss"], rows[3]["valid"], rows[4]["reg"] = float("nan"), float("inf"), None
    bad = [{"k": 1, "mean": float("nan"), "se": float("inf"), "images": 3, "khat": float("inf")}]
    page = render(tmp_path / "run.html", history=rows, evaluation=bad, summary={"Seconds": float("nan")})
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r'base64,[^"]*', "", page))
    assert "a few samples dominate" in words(page)


def test_text_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("&")</script>'
    picture = png_bytes(np.zeros((2, 2), np.uint8))
    page = render(
        tmp_path / "run.html",
        title=evil,
        summary={evil: evil},
        config={evil: evil, "command": evil},
        images=[(evil, evil, picture)],
    )
    assert "<script" not in page and page.count("&lt;script&gt;") >= 9
    assert "<b>" not in curves([{"x": 1, "y": 2}], "x", {"y": "<b>"}, x_label="<b>", y_label="<b>", title="<b>")


def test_first_epochs_do_not_flatten_the_rest() -> None:
    rows = [{"epoch": 1, "loss": 5000.0}] + [{"epoch": e, "loss": 18 + 7 / e} for e in range(2, 101)]
    svg = curves(rows, "epoch", {"loss": "training"}, x_label="epoch", y_label="nats", title="loss")
    ticks = [float(t) for t in re.findall(r'text-anchor="end">([\d.]+)<', svg)]
    assert 17 < min(ticks) and max(ticks) < 25 and "outside the axis" in svg


def test_image_grid_places_pixels() -> None:
    x = np.zeros((5, 1, 8, 8))
    x[1, 0, 0, 7], x[4] = 2.0, 0.5  # 2.0 is clipped to white
    grid = image_grid(x, 2, gap=3, cell=40)
    assert grid.shape == (3 * 40 + 2 * 3, 2 * 40 + 3, 3) and grid.dtype == np.uint8
    assert (grid[:5, 78:83] == 255).all() and (grid[:5, 43:78] == 0).all()  # one pixel, five times as large
    assert (grid[86:, :40] == 128).all() and (grid[40:43] == 128).all()
    assert image_grid(np.zeros((2, 3, 64, 64)), 8, gap=0).shape == (64, 128, 3)
    assert (image_grid(np.full((1, 1, 8, 8), np.nan), 1) == 0).all()


def test_image_grid_keeps_colours_apart() -> None:
    red = np.zeros((1, 3, 2, 2))
    red[:, 0] = 1
    assert (image_grid(red, 1) == [255, 0, 0]).all()


@pytest.mark.parametrize("shape", [(8, 8), (4, 8, 8), (4, 2, 8, 8), (0, 1, 8, 8)])
def test_image_grid_refuses_what_is_not_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\(N, C, H, W\)"):
        image_grid(np.zeros(shape), 2)
    with pytest.raises(ShapeError, match="columns"):
        image_grid(np.zeros((4, 1, 8, 8)), 0)


def test_save_png_round_trip(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    save_png(pixels, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert (np.asarray(image) == pixels).all()
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_failures_leave_the_old_page_and_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.html"
    old = render(path)
    with pytest.raises(KeyError):
        render(path, evaluation=[{"mean": 1.0}])
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            write_atomic(path, b"new")
    assert path.read_text(encoding="utf-8") == old and [p.name for p in tmp_path.iterdir()] == ["run.html"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to lay the page out: apt-get install chromium")
def test_page_fits_telephone_and_desk(tmp_path: Path) -> None:
    wide = png_bytes(image_grid(np.ones((40, 1, 28, 28)), 40))
    page = render(
        tmp_path / "run.html",
        title="a" * 120,
        config={"path_" + "k" * 60: "v" * 300, "command": "ppl train " + "--option value " * 40},
        images=[("Wide", "w" * 90, wide)],
    ).replace("<details", "<details open")
    # frames: a headless window is at least some 500 pixels wide; srcdoc: the script may look inside
    source = json.dumps(page).replace("</", "<\\/")
    outer = f"""<!DOCTYPE html><body><script>
    for (const width of [400, 1400]) {{
      const frame = document.createElement("iframe");
      frame.style.cssText = `width:${{width}}px;height:900px;border:0`;
      frame.onload = () => {{
        const root = frame.contentDocument.documentElement;
        const charts = root.querySelectorAll("figure > svg").length;
        const out = document.createElement("p");
        out.textContent = `RESULT ${{width}} ${{root.scrollWidth}} ${{charts}}`;
        document.body.append(out);
      }};
      frame.srcdoc = {source};
      document.body.append(frame);
    }}</script></body>"""
    (tmp_path / "outer.html").write_text(outer, encoding="utf-8")
    command = [str(CHROMIUM), *QUIET.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, (tmp_path / "outer.html").as_uri()], capture_output=True, text=True, timeout=60)
    found = {int(w): (int(s), int(c)) for w, s, c in re.findall(r"<p>RESULT (\d+) (\d+) (\d+)</p>", done.stdout)}
    assert found.keys() == {400, 1400}, done.stderr[-500:]
    assert all(scroll <= width and charts == 6 for width, (scroll, charts) in found.items()), found
