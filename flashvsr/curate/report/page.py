"""The report of a curation run: one HTML page that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flashvsr.curate.records import REPORT
from flashvsr.curate.report.contact_sheets import Pictures, anchor, contact_sheets, title
from flashvsr.curate.report.histogram import histogram, quantile
from flashvsr.curate.report.markup import (
    Markup,
    count,
    duration,
    figure,
    join,
    moment,
    plural,
    share,
    shorten,
    size,
    table,
    tag,
)
from flashvsr.curate.report.run_data import LISTED, Run, Score, read_run
from flashvsr.curate.report.style import STYLE

PAGE = "report.html"

_OPEN = 20  # a longer list of shards is folded

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STAGES = {
    "raw": "all videos and photographs that were found",
    "probe": "readable, large, long and fast enough",
    "scenes": "cut at scene changes and into segments",
    "quality": "good enough by every quality score",
    "motion": "moving enough",
    "duplicates": "not seen before",
    "write": "written to shards",
    "kept": "what is in the shards",
}
_SECTIONS = {
    "funnel": "Funnel",
    "reasons": "Reasons",
    "scores": "Scores",
    "kept": "Kept",
    "rejected": "Rejected",
    "shards": "Shards",
    "unusable": "Unusable files",
}


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from the records of a run.

    The page shows the funnel from raw to kept, the distribution of every score with its limits, contact sheets of
    kept samples and of those rejected for each reason, the shards, and the files that could not be used. Style,
    drawings and pictures are inside: it asks for nothing, runs no script, and stays below 10 MB for any run (what is
    left out is counted). The same records give the same bytes. An older page is replaced.

    Args:
        folder: That ``flashvsr curate`` wrote; `flashvsr.curate.records` says what lies in its ``report/``.

    Returns:
        The page.

    Raises:
        CurateError: If records are missing, damaged, or contradict each other.
    """
    run = read_run(folder)
    page, partial = folder / PAGE, folder / f".{PAGE}.partial"
    partial.write_bytes(_page(run, Pictures(folder / REPORT)).encode())
    partial.replace(page)
    return page


def _page(run: Run, pictures: Pictures) -> str:
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("link", rel="icon", href="data:,"),
            tag("title", f"Curation report: {run.recipe}"),
            tag("style", Markup(STYLE)),
        ],
        "\n",
    )
    main = [_funnel(run), _reasons(run), _scores(run), contact_sheets(run, pictures), _shards(run), _unusable(run)]
    footer = tag("footer", "Written by ", tag("code", "flashvsr curate"), " from the records in ", tag("code", REPORT))
    body = tag("body", _header(run), _navigation(), tag("main", join(main, "\n")), footer)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'


def _header(run: Run) -> Markup:
    raw, kept = run.funnel[0], run.kept
    seconds = raw["hours"] * 3600
    stored = sum(shard["bytes"] for shard in run.shards)
    samples = sum(shard["samples"] for shard in run.shards)
    tiles = [
        ("Video kept", duration(kept.seconds), f"{share(kept.seconds, seconds)} of {duration(seconds)}"),
        ("Segments kept", count(kept.clips), f"from {plural(raw['count'], 'video')}"),
        ("Photographs kept", count(kept.photos), f"{share(kept.photos, raw['photos'])} of {count(raw['photos'])}"),
        ("Shards", count(len(run.shards)), f"{size(stored)}, {plural(samples, 'sample')}"),
        ("Unusable files", count(run.unusable_count), "recorded and left out"),
    ]
    boxes = [tag("div", tag("dt", name), tag("dd", value, tag("small", note))) for name, value, note in tiles]
    return tag(
        "header",
        tag("h1", "Curation report"),
        tag("p", "Recipe ", tag("code", run.recipe), class_="lead"),
        tag("dl", *boxes, class_="tiles"),
    )


def _navigation() -> Markup:
    links = [tag("li", tag("a", name, href=f"#{mark}")) for mark, name in _SECTIONS.items()]
    return tag("nav", tag("ul", *links, role="list"), aria_label="Sections")


def _section(mark: str, *parts: str) -> Markup:
    return tag("section", tag("h2", _SECTIONS[mark]), *parts, id=mark)


def _bar(whole: float, **parts: float) -> Markup:
    """Parts of a whole side by side; their names become the classes of their colours."""
    scale = 100 / whole if whole else 0.0
    pieces = [tag("i", class_=name, style=f"width:{scale * part:.2f}%") for name, part in parts.items() if part > 0]
    return tag("span", *pieces, class_="bar")


def _key(**classes: str) -> Markup:
    return tag("p", *(tag("span", tag("i", class_=name), words) for name, words in classes.items()), class_="key")


def _funnel(run: Run) -> Markup:
    raw, rows, before = run.funnel[0], [], run.funnel[0]
    for row in run.funnel:
        stage, hours, photos = row["stage"], row["hours"], row["photos"]
        name = join([stage, tag("small", _STAGES[stage])]) if stage in _STAGES else stage
        bars = [
            _bar(raw["hours"], kept=hours, cut=before["hours"] - hours),
            _bar(raw["photos"], other=photos, cut=before["photos"] - photos),
        ]
        number = plural(row["count"], "video" if stage in ("raw", "probe") else "segment")
        rows.append([name, join(bars), number, duration(3600 * hours), share(hours, raw["hours"]), count(photos)])
        before = row
    head = ["after", "", "videos, segments", "h:mm:ss", "of raw", "photographs"]
    key = _key(kept="video, by duration", other="photographs, by number", cut="rejected at this stage")
    caption = "What is left after each stage, from raw to kept"
    return _section("funnel", key, table(head, rows, caption=caption, numbers=(2, 3, 4, 5), wide=1))


def _reasons(run: Run) -> Markup:
    reasons = run.reasons()
    if not reasons:
        return _section("reasons", tag("p", "Nothing was rejected.", class_="note"))
    most = max(group.count for _, group in reasons)
    rows = []
    for number, (reason, group) in enumerate(reasons):
        name = tag("a", title(reason), href=f"#{anchor(number)}")
        values = [count(group.clips), duration(group.seconds), count(group.photos)]
        rows.append([name, _bar(most, cut=group.count), *values])
    groups = [group for _, group in reasons]
    clips, photos = sum(group.clips for group in groups), sum(group.photos for group in groups)
    rows.append(["all", "", count(clips), duration(sum(group.seconds for group in groups)), count(photos)])
    head = ["rejected for", "", "videos, segments", "h:mm:ss", "photographs"]
    caption = "How much was rejected for each reason"
    return _section("reasons", table(head, rows, caption=caption, numbers=(2, 3, 4), wide=1))


def _scores(run: Run) -> Markup:
    words = {"kept": "kept", "other": "rejected for something else", "cut": "beyond this limit", "limit": "limit"}
    note = "Number of samples by score. A sample is scored until a stage rejects it; outliers count in the outer bars."
    cards = [_score(name, score) for name, score in run.scores.items()]
    grid = tag("div", *cards, class_="scores") if cards else tag("p", "The recipe computes no scores.", class_="note")
    return _section("scores", tag("p", note, class_="note"), _key(**words), grid)


def _score(name: str, score: Score) -> Markup:
    limits = [(label, value) for label, value in (("min", score.minimum), ("max", score.maximum)) if value is not None]
    cut = len(score.values["cut"])
    words = f"{count(cut)} of {count(score.count)} beyond ({share(cut, score.count)})" if limits else "no limit"
    if score.unusable:
        words += f", {count(score.unusable)} without a finite value"
    unit = f"({score.unit}) " if score.unit else ""
    head = [tag("b", name), " ", tag("span", unit + words, class_="note")]
    if not score.count:
        return tag("figure", *head, tag("p", "No sample reached this score.", class_="note"))
    values = sorted(value for part in score.values.values() for value in part)
    parts = [("lowest", 0.0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95), ("highest", 1.0)]
    summary = " · ".join(f"{label} {figure(quantile(values, part))}" for label, part in parts)
    label = f"{name}: {words}; {summary}"
    drawing = histogram(score.values, limits, label=label)
    return tag("figure", *head, drawing, tag("figcaption", summary))


def _shards(run: Run) -> Markup:
    if not run.shards:
        return _section("shards", tag("p", "No shards were written.", class_="note"))
    rows = []
    for name, split in sorted(run.splits.items()):
        own = [shard for shard in run.shards if shard["split"] == name]
        group, stored = split.group, sum(shard["bytes"] for shard in own)
        values = [len(split.sources), group.clips, group.photos, len(own)]
        rows.append([name, *map(count, values[:2]), duration(group.seconds), *map(count, values[2:]), size(stored)])
    head = ["split", "sources", "segments", "h:mm:ss", "photographs", "shards", "bytes"]
    splits = table(head, rows, caption="Training and validation split", numbers=range(1, 7))
    note = "No source is in both splits. Neighbouring segments are merged into one sample."
    return _section("shards", tag("p", note, class_="note"), splits, _shard_list(run.shards))


def _shard_list(shards: list[dict[str, Any]]) -> Markup:
    largest = max(shard["bytes"] for shard in shards)
    rows = []
    for shard in shards[:LISTED]:
        values = [count(shard["samples"]), duration(shard["seconds"]), size(shard["bytes"])]
        rows.append([tag("code", shard["name"]), _bar(largest, kept=shard["bytes"]), *values])
    head = ["shard", "", "samples", "h:mm:ss", "bytes"]
    listed = table(head, rows, caption="Shards and their sizes", numbers=(2, 3, 4), wide=1)
    sizes = sorted(shard["bytes"] for shard in shards)
    note = f"showing {count(len(rows))} of {count(len(shards))}; smallest {size(sizes[0])}, largest {size(sizes[-1])}"
    opened = "" if len(shards) <= _OPEN else None
    return tag("details", tag("summary", "Sizes ", tag("small", note)), listed, open=opened)


def _unusable(run: Run) -> Markup:
    if not run.unusable:
        return _section("unusable", tag("p", "Every file could be used.", class_="note"))
    rows = []
    for record in run.unusable:
        where = f"{moment(record['start'])} to {moment(record['end'])}" if record["end"] else "all"
        name = tag("span", shorten(record["source"], 300), class_="name")
        rows.append([name, record["kind"], where, record["stage"] or "", shorten(record["reason"] or "", 300)])
    words = "Left out for what the file is, not for a score: damaged, interlaced, fatal to a decoder. The run went on."
    note = f"{words} Showing {count(len(rows))} of {count(run.unusable_count)}."
    head = ["file", "kind", "part", "stage", "reason"]
    listed = table(head, rows, caption="Files that could not be used")
    return _section("unusable", tag("p", note, class_="note"), listed)
