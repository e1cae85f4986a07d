"""One self-contained page of a study: opens without a network, on a laptop and on a phone."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from plotly.offline import get_plotlyjs

from automl_prune.errors import StudyNotFoundError
from automl_prune.records import TrialRecord
from automl_prune.report import compare_with_uniform, pareto_rows
from dashboards import figures

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from automl_prune.reading import StudyReader
    from automl_prune.records import StudyFacts
    from automl_prune.report import ResultRow

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #d9e2ec; }
body { font-family: system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; color: var(--ink);
  margin: 0 auto; max-width: 1080px; padding: 24px 20px 60px; line-height: 1.5; }
h1 { font-size: 1.6rem; margin: 0 0 4px; } h2 { font-size: 1.15rem; margin: 36px 0 8px; }
p.lead { color: var(--soft); margin: 0 0 16px; }
p.verdict { background: #f0f4f8; border-left: 4px solid #0072B2; padding: 12px 16px;
  margin: 0 0 8px; }
div.figure { border: 1px solid var(--line); border-radius: 8px; padding: 8px; margin: 16px 0; }
div.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
"""


def front_page(study: StudyReader) -> str:
    """The page of one stored study as HTML.

    Raises:
        StudyNotFoundError: no trial has finished yet.
    """
    rows, facts = study.rows(), study.facts
    if not any(row.accuracy is not None for row in rows):
        raise StudyNotFoundError(
            f"study {study.name!r} has no finished trial to show yet; run `automl-prune search`"
        )
    front = pareto_rows(rows)
    shown = [figures.pareto_figure(rows, facts), figures.hypervolume_figure(rows, facts)]
    if front:
        records = {row.number: study.record(row.number) for row in front}
        kept = {n: r for n, r in records.items() if isinstance(r, TrialRecord)}
        shown.insert(1, figures.keep_ratio_figure(kept, facts))
        middle = front[len(front) // 2].number
        curves = study.curves(middle)
        shown.append(figures.ratio_figure(curves, trial=middle))
        shown.append(figures.loss_figure(curves, trial=middle))
    return _page(
        title=study.name,
        lead=_lead(rows, facts),
        verdict=compare_with_uniform(rows, facts).sentence,
        shown=shown,
        table=_table(front, facts),
    )


def _lead(rows: list[ResultRow], facts: StudyFacts) -> str:
    finished = len(rows)
    return (
        f"{finished} finished trials; dense model: {facts.dense_accuracy:.2f} % on select, "
        f"{facts.dense_macs:,} MACs, {facts.dense_params:,} parameters. "
        "MACs are multiply-accumulates of one forward pass at batch 1."
        + (
            " The dense weights came from outside and may have seen the images of select."
            if facts.select_contaminated
            else ""
        )
    )


def _table(front: list[ResultRow], facts: StudyFacts) -> str:
    head = "<tr><th>trial</th><th>accuracy, %</th><th>to dense</th><th>MACs</th><th>% of dense"
    head += "</th><th>parameters</th><th>latency, ms</th></tr>"
    body = []
    for row in front:
        assert row.accuracy is not None
        assert row.macs is not None
        latency = "" if row.latency_ms is None else f"{row.latency_ms:.2f}"
        cells = (
            str(row.number),
            f"{row.accuracy:.2f}",
            f"{row.accuracy - facts.dense_accuracy:+.2f}",
            f"{row.macs:,}",
            f"{100 * row.macs / facts.dense_macs:.1f}",
            f"{row.params:,}",
            latency,
        )
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<div class='scroll'><table>{head}{''.join(body)}</table></div>"


def _page(*, title: str, lead: str, verdict: str, shown: list[go.Figure], table: str) -> str:
    verdict = verdict[0].upper() + verdict[1:]
    drawn = "".join(
        "<div class='figure'>"
        + figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"figure-{number}",
            config={"displaylogo": False, "responsive": True},
        )
        + "</div>"
        for number, figure in enumerate(shown)
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}: accuracy against MACs</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>"
        f"<h1>{html.escape(title)}</h1><p class='lead'>{html.escape(lead)}</p>"
        f"<p class='verdict'>{html.escape(verdict)}.</p>{drawn}"
        f"<h2>The front</h2>{table}</body></html>\n"
    )
