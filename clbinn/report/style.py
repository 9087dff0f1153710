"""The page's style sheet: one column of text, tabular figures, hairlines; the same on screen and on paper."""

__all__ = ["CSS"]

CSS = """
:root { --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --hair: #eceff2; --tint: #f6f8fa; --blue: #0072b2;
  --good: #00674c; --bad: #a84300; color-scheme: light; }
* { box-sizing: border-box; }
html { background: #fff; -webkit-text-size-adjust: 100%; }
body { color: var(--ink);
  font: 15px/1.55 -apple-system, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif;
  margin: 0 auto; max-width: 1180px; padding: 3.2rem 2rem 4rem; }
h1 { font-size: 1.9rem; font-weight: 600; letter-spacing: -0.018em; line-height: 1.2; margin: 0 0 .35rem;
  text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 1.12rem; font-weight: 600; letter-spacing: -0.006em; margin: 2.8rem 0 .3rem; }
p { margin: .3rem 0 .7rem; max-width: 46rem; }
a { color: var(--blue); text-decoration-thickness: 1px; text-underline-offset: 2px; }
.facts { color: var(--soft); margin: 0; }
.note, figcaption, caption { color: var(--soft); font-size: .87rem; }
section.stream + section.stream { border-top: 1px solid var(--line); margin-top: 4rem; padding-top: 3rem; }
.scroll { overflow-x: auto; margin: .8rem 0 .6rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums lining-nums; min-width: 100%; }
th, td { padding: .42rem .55rem; text-align: right; vertical-align: baseline; white-space: nowrap; }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
td:last-child, th:last-child { padding-right: 0; }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom; }
thead th small { color: var(--soft); display: block; font-size: .92em; font-weight: 400; }
tbody td, tbody th { border-bottom: 1px solid var(--hair); }
tbody th { font-weight: 600; }
tbody th small { color: var(--soft); display: block; font-size: .92em; font-weight: 400; margin-left: 1.25em;
  max-width: 21rem; overflow-wrap: anywhere; white-space: normal; }
tbody tr:last-child > * { border-bottom-color: var(--line); }
tbody tr:hover > * { background: var(--tint); }
tr.reference > * { background: var(--tint); }
td .sd, td .ci { color: var(--soft); }
td.best .mean { font-weight: 700; }
td .ci { display: block; font-size: .93em; }
.left { text-align: left; }
td.wrap, th.wrap { min-width: 11rem; overflow-wrap: anywhere; text-align: left; white-space: normal; }
.dot { border-radius: 50%; display: inline-block; height: .62em; margin-right: .5em; width: .62em;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
figure { margin: .5rem 0 0; }
figure img { display: block; height: auto; max-width: 100%; }
figcaption { margin: .35rem 0 0; max-width: 46rem; }
figcaption a { color: inherit; }
details { border-bottom: 1px solid var(--hair); padding: .45rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
summary span { color: var(--soft); font-size: .87rem; margin-left: .6em; }
pre { background: var(--tint); font: .78rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: .6rem 0;
  max-height: 34rem; overflow: auto; padding: .9rem 1.1rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .soft { color: var(--soft); }
footer { border-top: 1px solid var(--line); color: var(--soft); font-size: .82rem; margin-top: 3.5rem;
  padding-top: .8rem; }
@media print {
  @page { margin: 14mm; size: A4 landscape; }
  body { font-size: 9.5pt; max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 1.6rem; }
  figure, tr { break-inside: avoid; }
  figure img { max-height: 165mm; }
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .3rem .35rem; }
  pre { max-height: none; white-space: pre-wrap; }
}
""".strip()
