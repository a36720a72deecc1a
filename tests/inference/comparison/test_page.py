"""The page of a comparison: self-contained, escaped, legible on a telephone and a desk, light and dark."""

import html
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.comparison.charts import Chart
from inference.comparison.compare import Comparison, compare
from inference.comparison.diagnostics import read_netcdf
from inference.comparison.guided import Guided
from inference.comparison.learning import Curve, Snapshot
from inference.comparison.page import page
from inference.comparison.table import number
from inference.errors import RunError
from inference.evidence.exact import Exact
from tests.inference.comparison.engines import Coupled, Sampled, Stuck, X
from tests.inference.comparison.test_report import CHROMIUM, QUIET

EVIL = '<script>alert("&")</script>'


@pytest.fixture(scope="module")
def result() -> Comparison:
    torch.manual_seed(0)
    engines = {
        "guide": Guided(None, num_samples=200),
        "guide, resampled": Guided(None, num_samples=200, resample=5),
        "gibbs": Sampled(300),
        "stuck": Stuck(),
        "exact": Exact(300),
    }
    learning = tuple(
        Curve(
            name,
            tuple(Snapshot(0.1 * 2**i, 10 * 2**i, -20 - off - 3 / (i + 1), 0.3) for i in range(6)),
            None,
            -torch.arange(5.0) - off,
        )
        for name, off in (("svi", 0.4), ("gibbs", 0.0), ("exact", -0.2))
    )
    found = compare(Coupled(), X, engines, reference="exact")
    return found._replace(learning=learning, title="SBN 3-2 on toys", notes={"model": "SBN 3-2"})


def words(text: str) -> str:
    body = text.split("<body>")[1]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_folder_holds_three_files_and_is_never_overwritten(result, tmp_path):
    out = tmp_path / "new" / "out"
    assert result.save(str(out)) == out / "report.html"
    assert sorted(p.name for p in out.iterdir()) == ["comparison.nc", "report.html", "rows.json"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    with pytest.raises(RunError, match="exists and is not empty"):
        result.save(out)
    (tmp_path / "empty").mkdir()
    result.save(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is not empty"):
        result.save(tmp_path / "file")


def test_a_failure_leaves_nothing(result, tmp_path, monkeypatch):
    monkeypatch.setattr("inference.comparison.saving.page", lambda result: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        result.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_arviz_reads_a_group_for_each_engine(result, tmp_path):
    result.save(tmp_path / "out")
    for name, draws in result.draws.items():
        tree = read_netcdf(tmp_path / "out" / "comparison.nc", name)
        np.testing.assert_array_equal(tree["posterior"]["h1"].values, draws.values["h1"].numpy())
        np.testing.assert_allclose(tree["sample_stats"]["log_p"].values, draws.log_p.numpy())
        assert ("log_q" in tree["sample_stats"]) == (draws.log_q is not None)
        assert tree["posterior"].attrs["seconds"] == draws.seconds


def test_the_table_comes_first_and_its_numbers_are_the_rows(result):
    text = words(page(result))
    order = [text.index(word) for word in ("verdict", "Its means are off", "Marginals against", "Error against time")]
    order += [text.index(word) for word in ("Traces", "Pareto k-hat The tail", "Learning exact learnt best")]
    assert order == sorted(order)
    assert result.answer in text
    for row in result.rows:
        said = result.verdicts[row.engine]
        assert f"{row.engine} : {said.word}" in text.replace(f"{row.engine}: ", f"{row.engine} : ")
    gibbs = next(row for row in result.rows if row.engine == "gibbs")
    assert f"{number(gibbs.error_max)} ± {number(gibbs.error_max_mcse)}" in text
    assert "4 × 300" in text and "−20.5" not in text.split("Learning")[0]
    assert "svi" in text.split("Learning")[1]


def test_the_page_needs_no_other_file_and_no_nan_reaches_it(result):
    text = page(result)
    assert not re.search(r"https?:|//cdn|url\(|@import|<script|<link", text)
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    assert text.count('role="img"') == 4 + 2 + 5 + 1 + 2  # scatters, paths, traces, k-hats, learning


def test_words_are_escaped(result):
    rows = [m._replace(row=m.row._replace(engine=EVIL + m.row.engine)) for m in result.measured]
    draws = {EVIL + name: value for name, value in result.draws.items()}
    learning = tuple(curve._replace(method=EVIL) for curve in result.learning)
    text = page(result._replace(measured=tuple(rows), draws=draws, title=EVIL, learning=learning, notes={EVIL: EVIL}))
    assert "<script" not in text and text.count("&lt;script&gt;") > 20


def test_a_comparison_of_the_reference_alone_and_of_one_draw(tmp_path):
    for engines in (
        {"exact": Exact(1)},
        {"one": Sampled(1, 1), "exact": Exact(1)},
        {"few": Sampled(3, 2), "exact": Exact(5)},
    ):
        found = compare(Coupled(), X, engines, reference="exact")
        found.save(tmp_path / "-".join(engines) / str(len(engines)))
        assert found.verdicts["exact"].word == "trust"
        json.loads((tmp_path / "-".join(engines) / str(len(engines)) / "rows.json").read_text())


def test_a_chart_places_what_it_is_given_and_leaves_out_what_is_no_number():
    chart = Chart((0.0, 10.0), (1.0, 100.0), "x", "y", "t", width=364, height=254, y_log=True)
    chart.marks([(5.0, 10**0.5), (5.0, float("nan")), (5.0, 0.0)], 1)
    svg = chart.svg()
    assert svg.count("M208.0 162.0m-2.8") == 1  # half of 64 ... 352, a quarter of 212 ... 12
    assert re.findall(r'text-anchor="end">([^<]*)<', svg) == ["1", "2", "5", "10", "20", "50", "100"]
    assert "nan" not in svg


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to lay the page out: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_telephone_and_desk_in_light_and_dark(result, tmp_path, scheme):
    text = page(result._replace(notes={"path_" + "k" * 60: "v" * 200})).replace("<details", "<details open")
    # a headless browser prefers light: the dark rules, made unconditional, are what a dark one applies
    if scheme == "dark":
        assert text.count("@media (prefers-color-scheme: dark)") == 2
        text = text.replace("@media (prefers-color-scheme: dark)", "@media all")
    source = json.dumps(text).replace("</", "<\\/")
    outer = f"""<!DOCTYPE html><body><script>
    const luminance = (colour) => {{
      const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => {{
        v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }});
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }};
    for (const width of [400, 1400]) {{
      const frame = document.createElement("iframe");
      frame.style.cssText = `width:${{width}}px;height:900px;border:0`;
      frame.onload = () => {{
        const doc = frame.contentDocument, root = doc.documentElement, view = frame.contentWindow;
        const page = luminance(view.getComputedStyle(doc.body).backgroundColor);
        let least = 99, small = 99;
        for (const e of doc.querySelectorAll("h1, p, th, td, dt, dd, span, li, figcaption, svg[role] text")) {{
          const style = view.getComputedStyle(e);
          const ink = luminance(e.namespaceURI.includes("svg") ? style.fill : style.color);
          least = Math.min(least, (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05));
          const box = e.getBoundingClientRect();
          if (e.namespaceURI.includes("svg")) {{
            const chart = e.closest("svg[role]");
            const scale = chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
            small = Math.min(small, scale * parseFloat(style.fontSize));
          }} else small = Math.min(small, parseFloat(style.fontSize));
        }}
        const out = document.createElement("p");
        const charts = root.querySelectorAll("figure > svg").length;
        const found = [least.toFixed(2), small.toFixed(1), page.toFixed(3)];
        out.textContent = `RESULT ${{width}} ${{root.scrollWidth}} ${{charts}} ${{found.join(" ")}}`;
        document.body.append(out);
      }};
      frame.srcdoc = {source};
      document.body.append(frame);
    }}</script></body>"""
    (tmp_path / "outer.html").write_text(outer, encoding="utf-8")
    command = [str(CHROMIUM), *QUIET.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, Path(tmp_path / "outer.html").as_uri()], capture_output=True, text=True, timeout=60
    )
    found = {int(w): rest for w, rest in re.findall(r"<p>RESULT (\d+) ([^<]*)</p>", done.stdout)}
    assert found.keys() == {400, 1400}, done.stderr[-500:]
    for width, rest in found.items():
        scroll, charts, contrast, size, ground = map(float, rest.split())
        assert scroll <= width, found
        assert charts == 14
        assert contrast >= 4.5, found  # WCAG 2 AA for text
        assert size >= 9.0, found  # CSS pixels, after the charts have shrunk
        assert (ground > 0.5) == (scheme == "light")
