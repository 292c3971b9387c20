"""The look of the report page: one style sheet, light and dark, no font that a machine must fetch."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbf9; --card: #ffffff; --ink: #1d2126; --soft: #5a626c; --line: #dcdfe3; --well: #eceef0;
  --kept: #1f6fb2; --cut: #d0611f; --other: #9aa3ad; --link: #0b5c9e; --why: #a8450c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1c2024; --ink: #e6e8ea; --soft: #a3abb4; --line: #333a41; --well: #262b30;
    --kept: #5aa9e6; --cut: #f0883e; --other: #67707a; --link: #7cbcf0; --why: #f2a065;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
}
body > * { max-width: 1120px; margin-inline: auto; padding-inline: 24px; }
header { padding-top: 40px; }
h1 { font-size: 30px; line-height: 1.15; letter-spacing: -0.015em; margin: 0 0 6px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 44px 0 12px; }
h3 { font-size: 15px; margin: 28px 0 10px; }
h2 small, h3 small { font-weight: 400; font-size: 13px; letter-spacing: 0; color: var(--soft); margin-left: 6px; }
p { margin: 0 0 12px; max-width: 46em; }
.lead { font-size: 17px; }
.note, figcaption, dt { color: var(--soft); font-size: 13px; }
a { color: var(--link); text-underline-offset: 2px; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
code { font: 0.93em ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; }
nav { position: sticky; top: 0; z-index: 1; background: var(--paper); max-width: none; padding: 0;
  border-bottom: 1px solid var(--line); margin-top: 24px; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 20px; list-style: none; max-width: 1120px; margin: 0 auto;
  padding: 10px 24px; font-size: 14px; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { scroll-margin-top: 56px; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 22px 0 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.tiles dd { margin: 0; font-size: 22px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: 13px; color: var(--soft); }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; vertical-align: top; padding: 7px 16px 7px 0; border-bottom: 1px solid var(--line); }
th { font-weight: 500; }
thead th { color: var(--soft); font-size: 13px; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; white-space: nowrap; }
tbody th small { display: block; font-weight: 400; font-size: 13px; color: var(--soft); }
td.bars, th.bars { width: 34%; min-width: 130px; }
tbody th { min-width: 130px; }
.name { overflow-wrap: anywhere; }
.bar { display: flex; height: 9px; border-radius: 2px; background: var(--well); margin: 4px 0; overflow: hidden; }
details { margin-top: 20px; }
summary { cursor: pointer; font-weight: 600; margin-bottom: 8px; }
summary small { font-weight: 400; font-size: 13px; color: var(--soft); margin-left: 6px; }

.key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft); margin-bottom: 14px; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; }
.key .limit { width: 0; height: 13px; border-left: 2px dashed var(--ink); border-radius: 0; vertical-align: -2px; }
i.kept { background: var(--kept); } i.cut { background: var(--cut); } i.other { background: var(--other); }
.scores { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 16px; }
.scores figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; }
.scores figure > b { font-weight: 600; }
.histogram { display: block; width: 100%; height: auto; margin: 6px 0; }
.histogram text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
.histogram text.limit { fill: var(--ink); font-weight: 600; }
.histogram line { stroke: var(--line); }
.histogram line.base { stroke: var(--soft); }
.histogram line.rule { stroke-dasharray: 2 4; }
.histogram line.limit { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 3; }
rect.kept { fill: var(--kept); } rect.cut { fill: var(--cut); } rect.other { fill: var(--other); }

.sheet { list-style: none; margin: 0; padding: 0; display: grid; gap: 16px 14px;
  grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); }
.sheet li { min-width: 0; }
.sheet img, .missing { display: block; width: 100%; aspect-ratio: 3 / 2; object-fit: contain; border-radius: 4px;
  background: var(--well); }
.missing { display: grid; place-items: center; color: var(--soft); font-size: 13px; }
.caption { font-size: 12px; line-height: 1.4; margin-top: 5px; overflow-wrap: anywhere; color: var(--soft); }
.caption > * { display: block; }
.caption b { font-weight: 500; color: var(--ink); }
.caption .why { color: var(--why); }
footer { color: var(--soft); font-size: 13px; padding-block: 40px 48px; }
@media (max-width: 640px) {
  body > *, nav ul { padding-inline: 16px; }
  .sheet { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print {
  nav { display: none; }
  .sheet li, .scores figure, tr { break-inside: avoid; }
  i, rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
