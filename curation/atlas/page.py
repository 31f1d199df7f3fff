"""The page of a map: Bokeh's plot, a panel beside it, and all that they need, in one file."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import colorcet
import numpy as np
from bokeh.core.json_encoder import serialize_json
from bokeh.core.properties import value
from bokeh.embed import json_item
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    HoverTool,
    PanTool,
    Plot,
    Range1d,
    ResetTool,
    Scatter,
    Segment,
    TapTool,
    Text,
    Toolbar,
    WheelZoomTool,
)
from bokeh.models.renderers import GlyphRenderer
from bokeh.palettes import Colorblind8, Viridis256
from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from curation.atlas.labels import Label
from curation.atlas.points import Points

_HERE = Path(__file__).parent
_INK = "#1d2330"
# For few values, Okabe and Ito's colours, which the colour-blind can tell apart, without their light yellow.
_FEW_COLOURS = tuple(Colorblind8[i] for i in (0, 5, 3, 6, 1, 4, 7))
_MANY_COLOURS = tuple(colorcet.b_glasbey_bw_minc_20_maxl_70[:24])  # more cannot be told apart: the rest share a grey
_BOKEH = Resources(mode="inline", components=["bokeh", "bokeh-gl"], minified=True)


def write_page(
    path: Path,
    points: Points,
    places: np.ndarray,
    labels: Sequence[Label] = (),
    *,
    title: str,
    subtitle: str,
    footer: str,
) -> None:
    """Write a map as one HTML file that needs nothing else: no server, no network.

    The same arguments give the same bytes under the same version of Bokeh. Texts of the data are shown as they are: the
    page's policy lets no script run but its own, and nothing be fetched.

    Args:
        path: the file.
        points: n texts with their columns and links.
        places: (n, 2).
        labels: words over regions.
        title: heading of the page.
        subtitle: what it shows, in a line.
        footer: how it was made, in a sentence or two.
    """
    columns = [
        {"name": name, "key": f"c{place}", "numeric": all(isinstance(v, int | float | None) for v in values)}
        for place, (name, values) in enumerate(points.columns.items())
    ]
    facts = {
        "columns": columns,
        "links": points.links.T.tolist(),
        "palettes": [_FEW_COLOURS, _MANY_COLOURS],
        "ramp": list(Viridis256),
        "size": _point_size(len(points)),
        "alpha": 0xD0 if len(points) < 20_000 else 0x90,
    }
    scripts = [*_BOKEH.js_raw, (_HERE / "page.js").read_text(encoding="utf-8")]
    environment = Environment(loader=FileSystemLoader(_HERE), undefined=StrictUndefined, autoescape=True)
    page = environment.get_template("page.html.jinja").render(
        title=title,
        subtitle=subtitle,
        footer=footer,
        count=len(points),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script_hashes=" ".join(map(_policy_hash, scripts)),
        scripts=scripts,
        facts=_json_in_html(json.dumps(facts)),
        plot=_json_in_html(_plot_json(points, places, labels, columns)),
        labelled=bool(labels),
    )
    path.write_text(page, encoding="utf-8")


def _point_size(count: int) -> float:
    """Diameter in pixels: points of a small map are easy to hit, those of a large one do not cover each other."""
    return round(min(max(500 / math.sqrt(count), 2.0), 9.0), 1)


def _plot_json(points: Points, places: np.ndarray, labels: Sequence[Label], columns: list[dict[str, Any]]) -> str:
    """The plot as Bokeh's script reads it."""
    data: dict[str, Any] = {
        "x": places[:, 0].astype(np.float32),
        "y": places[:, 1].astype(np.float32),
        "colour": np.zeros(len(points), dtype=np.uint32),
        "text": points.texts,
    }
    for column, values in zip(columns, points.columns.values(), strict=True):
        if column["numeric"]:
            data[column["key"]] = np.array([math.nan if value is None else value for value in values])
        else:
            data[column["key"]] = ["" if value is None else value for value in values]
    return serialize_json(_renumbered(json_item(_plot(data, labels, columns))))


def _plot(data: dict[str, Any], labels: Sequence[Label], columns: list[dict[str, Any]]) -> Plot:
    source = ColumnDataSource(data, name="points")
    dots = GlyphRenderer(
        name="dots",
        data_source=source,
        glyph=Scatter(x="x", y="y", size=_point_size(len(data["x"])), fill_color="colour", line_color=None),
        nonselection_glyph=None,
        selection_glyph=None,
    )
    line = Segment(x0="x0", y0="y0", x1="x1", y1="y1", line_color=_INK, line_alpha=0.7, line_width=1.5)
    links = _overlay("links", line, {"x0": [], "y0": [], "x1": [], "y1": []})
    dot = Scatter(x="x", y="y", size=9, fill_color="colour", line_color="#ffffff")
    found = _overlay("found", dot, {"x": [], "y": [], "colour": []})
    circle = Scatter(x="x", y="y", size=16, fill_color=None, line_color=_INK, line_width=2)
    ring = _overlay("ring", circle, {"x": [], "y": []})
    over = Text(
        x="x",
        y="y",
        text="text",
        text_color=_INK,
        text_font=value("sans-serif"),
        text_font_size="13px",
        text_align="center",
        text_baseline="middle",
        background_fill_color="#ffffff",
        background_fill_alpha=0.82,
    )
    over.update(padding=3, border_radius=4)
    shown = {key: [getattr(label, key) for label in labels] for key in ("x", "y", "text")}
    words = _overlay("labels", over, shown)
    words.name = "words"
    scroll, pan = WheelZoomTool(), PanTool()
    hover = HoverTool(renderers=[dots], tooltips=_tooltip(columns), limit=1, attachment="horizontal")
    tap = TapTool(renderers=[dots])
    return Plot(
        name="plot",
        renderers=[dots, links, found, ring, words],
        x_range=_range(data["x"]),
        y_range=_range(data["y"]),
        toolbar=Toolbar(
            logo=None,
            tools=[pan, scroll, BoxZoomTool(), ResetTool(), hover, tap],
            active_scroll=scroll,
            active_drag=pan,
            active_inspect=hover,
            active_tap=tap,
        ),
        toolbar_location="above",
        output_backend="webgl",
        lod_threshold=50_000,
        sizing_mode="stretch_both",
        outline_line_color=None,
        title=None,
    )


def _overlay(name: str, glyph: Any, data: dict[str, list]) -> GlyphRenderer:
    """Something on top of the points; the page's script fills what is empty at first."""
    source = ColumnDataSource(data, name=name)
    return GlyphRenderer(data_source=source, glyph=glyph, nonselection_glyph=None, selection_glyph=None)


def _range(values: np.ndarray) -> Range1d:
    low, high = float(values.min()), float(values.max())
    margin = 0.03 * (high - low) or 1.0
    return Range1d(start=low - margin, end=high + margin)


def _tooltip(columns: list[dict[str, Any]]) -> str:
    """What hovering shows. Bokeh fills in the values, escaped; the names of columns are escaped here."""
    rows = [
        f'<div style="color:#5b6475;font-size:11px">{_plain(column["name"])}: @{column["key"]}</div>'
        for column in columns
    ]
    text = '<div style="white-space:pre-wrap;overflow-wrap:anywhere">@text</div>'
    return f'<div style="max-width:340px;font:13px/1.4 system-ui,sans-serif">{text}{"".join(rows)}</div>'


def _plain(name: str) -> str:
    """A name as HTML in which Bokeh finds no field to fill in."""
    return html.escape(name).replace("@", "&#64;").replace("$", "&#36;")


def _renumbered(item: Any) -> Any:
    """A description of Bokeh models with ids that do not depend on what else the process has made."""
    names: dict[str, str] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rename(part) if key in ("id", "root_id") else walk(part) for key, part in value.items()}
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            return [walk(part) for part in value]
        return value

    def rename(name: Any) -> Any:
        return names.setdefault(name, f"m{len(names)}") if isinstance(name, str) else walk(name)

    return walk(item)


def _json_in_html(text: str) -> str:
    """JSON for a script element of data: no text in it can end the element."""
    return text.replace("<", "\\u003c")


def _policy_hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
