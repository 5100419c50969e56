"""The style sheet of `report.html`: one column on a phone, light and dark, no script and no network."""

LINE_COLOURS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1",
    "#76b7b2", "#d4a72c", "#ff9da7", "#9c755f", "#9aa0a6",
)  # fmt: skip

STYLE = """
:root { color-scheme: light dark; --page: #faf9f6; --card: #ffffff; --ink: #1d1c1a; --soft: #6d6a64;
  --rule: #e7e3db; --track: #eeebe4; --bar: #4e79a7; --good: #2c7a4b; --bad: #b4412f; }
@media (prefers-color-scheme: dark) { :root { --page: #161718; --card: #1f2123; --ink: #e9e7e2;
  --soft: #9d9a93;
  --rule: #303336; --track: #2b2e31; --bar: #6f9bc8; --good: #6cc08b; --bad: #ea8a77; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "Noto Sans", "PingFang SC",
  "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1080px; margin: 0 auto; padding: 56px 24px 96px; }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -0.02em; font-weight: 650; margin: 0; }
h2 { font-size: 22px; letter-spacing: -0.01em; font-weight: 650; margin: 72px 0 4px; }
h3 { font-size: 15px; font-weight: 600; margin: 0 0 12px; }
h3.section { font-size: 17px; margin: 40px 0 0; } h3 + .lead { font-size: 14.5px; margin: 0 0 16px; }
.lead { color: var(--soft); margin: 4px 0 24px; max-width: 68ch; text-wrap: pretty; }
h1 + .lead { margin: 10px 0 20px; font-size: 17px; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0; font-size: 14px; }
.facts div { display: flex; gap: 8px; } .facts dt { color: var(--soft); } .facts dd { margin: 0; }
.grid { display: grid; gap: 20px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 304px), 1fr)); }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); }
.figures { display: grid; gap: 1px; margin-top: 40px; background: var(--card);
  border: 1px solid var(--rule);
  border-radius: 14px; overflow: hidden; grid-template-columns: repeat(auto-fit, minmax(176px, 1fr)); }
.figures div { outline: 1px solid var(--rule); padding: 20px 20px 18px; }
.figures strong { display: block; font-size: 32px; line-height: 1.2; letter-spacing: -0.02em;
  font-weight: 600; }
.figures b { display: block; font-weight: 600; font-size: 15px; margin-top: 2px; }
.figures span { color: var(--soft); font-size: 13px; line-height: 1.4; display: block; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; padding: 20px;
  min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; }
th, td { text-align: left; padding: 9px 12px 9px 0; border-bottom: 1px solid var(--rule);
  vertical-align: middle; }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; white-space: nowrap; }
tbody th { font-weight: 500; min-width: 170px; } tbody th small { display: block; color: var(--soft);
  font-weight: 400; font-size: 12.5px; line-height: 1.35; }
.minor th, .minor td { color: var(--soft); font-size: 13.5px; }
td.number { text-align: right; white-space: nowrap; } thead th.number { text-align: right; }
.score { display: grid; grid-template-columns: 48px minmax(48px, 1fr); align-items: center; gap: 8px; }
.score i { display: block; height: 6px; border-radius: 3px; background: var(--track); overflow: hidden; }
.score i b { display: block; height: 100%; border-radius: 3px; background: var(--bar); }
.minor .score i b { opacity: 0.55; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); font-size: 14px;
  padding: 6px 0; }
.shots { display: flex; gap: 10px; margin: 0 0 14px; } .shots figure { margin: 0; flex: 1 1 0;
  min-width: 0; }
.shots figcaption { font-size: 12.5px; color: var(--soft); margin-top: 4px; }
.shot { position: relative; border-radius: 8px; overflow: hidden; background: var(--track); }
.shot img { display: block; width: 100%; height: auto; }
.shot svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.shot polygon { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.shot .halo { stroke: #000; stroke-opacity: 0.4; stroke-width: 4.6px; }
.shot .said { stroke-width: 3px; } .shot .true { stroke: #fff; stroke-width: 2px; stroke-dasharray: 5 4; }
.shot .true.halo { stroke: #000; stroke-width: 4px; }
.row { padding: 8px 0; border-top: 1px solid var(--rule); font-size: 14.5px; line-height: 1.42;
  overflow-wrap: anywhere; }
.shots + .row { border-top: 0; padding-top: 0; } .row:last-child { padding-bottom: 0; }
.row p { margin: 0; } .ask { color: var(--soft); font-size: 13.5px; }
.answer::after { margin-left: 0.45em; font-weight: 700; } .right .answer::after { content: "\\2713";
  color: var(--good); }
.wrong .answer::after { content: "\\2717"; color: var(--bad); }
.truth { color: var(--soft); font-size: 13.5px; } .truth::before { content: "→ "; }
.missed { color: var(--bad); text-decoration: line-through; text-decoration-thickness: 1.5px; }
.phrase { border-bottom: 2.5px solid; padding-bottom: 1px; }
.swatch { display: inline-block; width: 18px; height: 0; border-top: 3px solid; vertical-align: 0.28em;
  margin-right: 6px; }
.swatch.dashed { border-top-style: dashed; color: var(--soft); }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft);
  margin: 12px 0 0; padding: 0;
  list-style: none; } .key output { color: var(--ink); margin-left: 4px; }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { fill: var(--soft); font-size: 11px; } .chart .tick { stroke: var(--rule); stroke-width: 1; }
.chart polyline { fill: none; stroke-width: 1.5; stroke-linejoin: round; vector-effect: non-scaling-stroke;
  }
.chart .bin { fill: var(--bar); }
.said-text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: 14px; color: var(--soft); }
.learned { color: var(--ink); background: color-mix(in srgb, var(--good) 20%, transparent); border-radius: 3px;
  padding: 1px 0; } .picture { border: 1px solid var(--rule); border-radius: 4px; padding: 0 5px; font-size: 12px; }
.chart .total { stroke: var(--ink); stroke-width: 2.2; } .total { color: var(--ink); }
@media (max-width: 560px) { main { padding: 32px 16px 64px; } h1 { font-size: 27px; }
h2 { margin-top: 52px; }
  .card { padding: 16px; } .figures { grid-template-columns: 1fr 1fr; } .figures div { padding: 16px; }
  .figures div:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .figures strong { font-size: 26px; } tbody th { min-width: 132px; } .score { grid-template-columns: 1fr;
  gap: 4px; } }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
""" + "".join(
    f".chart .c{i} {{ stroke: {colour}; }} .c{i} {{ color: {colour}; }}\n" for i, colour in enumerate(LINE_COLOURS)
)
