"""How the page looks, and what it does under the pointer."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --paper: #ffffff; --line: #d7dce5; --soft: #566072;
        --good: #0a7a55; --bad: #b3391d; --card: #f6f7f9; --focus: #1a66d0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf1; --paper: #12161d; --line: #333b49; --soft: #9aa5b8; --good: #4fd0a2; --bad: #ff8d70;
          --card: #1a202a; --focus: #7fb4ff; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 64rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, figcaption { color: var(--soft); margin: .4rem 0; } figure { margin: .8rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; } a { color: inherit; }
@media (max-width: 40rem) { nav { flex-wrap: nowrap; overflow-x: auto; white-space: nowrap; } }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: .8rem; }
.charts figure { margin: 0; min-width: 0; } .charts + .charts { margin-top: .8rem; }
.pairs { columns: 26rem 2; column-gap: .8rem; }
.pairs figure { break-inside: avoid; margin: 0 0 .8rem; }
.chart, .map { background: var(--card); border-radius: 6px; padding: 6px; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
.scroll { overflow-x: auto; max-width: 100%; } table { border-collapse: collapse; font-size: .92rem; }
.scroll td, .scroll th { overflow-wrap: normal; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.two :is(th, td):nth-child(2) { text-align: left; }
.pictures th, .pictures td { text-align: center; padding: .25rem; border: 0; font-size: .8rem; vertical-align: top; }
.pictures th:first-child, .pictures td:first-child { text-align: center; }
.pictures img { display: block; margin: 0 auto; } img { image-rendering: pixelated; }
.scroll th:first-child, .scroll td:first-child { position: sticky; left: 0; background: var(--paper); }
.scroll .pictures th:first-child, .scroll .pictures td:first-child { position: static; }
.scroll { background: linear-gradient(90deg, transparent, var(--paper) 70%) 100% 0 / 3rem 100% no-repeat local,
                      linear-gradient(270deg, var(--line), transparent) 100% 0 / 1rem 100% no-repeat scroll; }
abbr { text-decoration: underline dotted var(--soft); cursor: help; }
.hero { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(14rem, 100%), 1fr)); gap: .8rem; }
.hero div { background: var(--card); border-radius: 6px; padding: .8rem 1rem; } .hero * { display: block; }
.hero b { font-size: 2rem; line-height: 1.2; } .hero i { font-style: normal; font-size: .9rem; }
.verdict { font-size: 1.1rem; color: var(--ink); } .baseline { color: var(--soft); }
.light::before { content: ""; display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em;
                 background: currentColor; }
.matrix th { white-space: normal; vertical-align: bottom; padding: 0 .1rem; }
.matrix button { font: inherit; color: inherit; background: none; border: 0; padding: .3rem .7rem; cursor: pointer;
                 text-align: inherit; }
.matrix th:first-child button { padding-left: 0; }
.matrix button::after { content: " ↕"; color: var(--soft); font-weight: 400; }
.matrix [aria-sort=descending] button::after { content: " ↓"; }
.matrix [aria-sort=ascending] button::after { content: " ↑"; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; border-radius: 2px; }
.good { color: var(--good); } .bad { color: var(--bad); } .none { font-style: italic; }
.key { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .85rem; }
.key i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .35em; }
.beside { display: grid; grid-template-columns: 33rem 1fr; gap: 1.2rem; } .beside > div { min-width: 0; }
@media (max-width: 62rem) { .beside { grid-template-columns: 100%; } }
@media (max-width: 40rem) {
  .wide svg { min-width: 38rem; }
  .wide .drawing { overflow-x: auto; background:
      linear-gradient(90deg, transparent, var(--card) 70%) 100% 0 / 3rem 100% no-repeat local,
      linear-gradient(270deg, var(--line), transparent) 100% 0 / 1rem 100% no-repeat scroll; } }
.drawing { position: relative; } .map svg { cursor: crosshair; } [data-points] svg { touch-action: pan-y; }
.tip { position: absolute; pointer-events: none; background: var(--paper); border: 1px solid var(--line); z-index: 1;
       border-radius: 4px; padding: 4px 6px; font-size: .8rem; text-align: center; max-width: 15rem; }
.tip b { font-weight: 500; } .map .tip { max-width: 10rem; }
.map .tip span { display: block; width: 72px; height: 72px; margin: 0 auto; image-rendering: pixelated; }
.dot { position: absolute; width: 10px; height: 10px; margin: -5px; border: 2px solid var(--ink); border-radius: 50%;
       pointer-events: none; }
.pictures small { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; color: var(--soft); }
.pictures .plain { color: var(--ink); } .pictures .good { color: var(--good); } .pictures .bad { color: var(--bad); }
details > summary { cursor: pointer; font-weight: 600; margin-top: 1rem; } summary h2 { display: inline; margin: 0; }
section > details { border-top: 1px solid var(--line); }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; padding: .8rem; font-size: .85rem; }
@media print { details::details-content { content-visibility: visible; } nav { display: none; } }
"""
# Tells the point nearest to the pointer: points are [x, y, words], in shares of the drawing; a map also shows images.
# Sorts a comparison. Opens what a link leads to.
SCRIPT = """
for (const figure of document.querySelectorAll("[data-points]")) {
  const columns = +figure.dataset.columns, side = 72, drawing = figure.querySelector("svg");
  const tip = figure.querySelector(".tip"), [picture, words] = tip.children, dot = document.createElement("i");
  dot.className = "dot";
  dot.hidden = true;
  tip.before(dot);
  let points;
  function show(event) {
    points ??= JSON.parse(figure.dataset.points);
    const box = drawing.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = 30 * 30;
    points.forEach((p, i) => {
      const d = (p[0] * box.width - x) ** 2 + (p[1] * box.height - y) ** 2;
      if (d < least) { least = d; best = i; }
    });
    tip.hidden = dot.hidden = best < 0;
    if (best < 0) return;
    if (columns) {
      picture.style.backgroundSize = `${columns * side}px auto`;
      picture.style.backgroundPosition = `${-(best % columns) * side}px ${-Math.floor(best / columns) * side}px`;
    }
    words.textContent = points[best][2];
    const left = points[best][0] * box.width, top = points[best][1] * box.height;
    dot.style.left = `${left}px`;
    dot.style.top = `${top}px`;
    tip.style.left = `${Math.max(0, Math.min(left + 12, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${top > tip.offsetHeight + 12 ? top - tip.offsetHeight - 12 : top + 12}px`;
  }
  drawing.addEventListener("pointermove", show);
  drawing.addEventListener("pointerdown", show);
  drawing.addEventListener("pointerleave", () => { tip.hidden = dot.hidden = true; });
}
for (const table of document.querySelectorAll(".matrix")) {
  table.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head) return;
    const column = +head.dataset.column, rows = [...table.rows].slice(1);
    const down = column ? head.ariaSort !== "descending" : head.ariaSort === "ascending";
    for (const other of table.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => column ? +row.cells[column].dataset.value : row.cells[0].textContent;
    const compare = (a, b) => column ? value(a) - value(b) : value(a).localeCompare(value(b));
    // Empty cells come last either way.
    const empty = (row) => column > 0 && Number.isNaN(value(row));
    rows.sort((a, b) => empty(a) - empty(b) || (down ? compare(b, a) : compare(a, b)));
    rows.forEach((row) => row.parentNode.append(row));
  });
}
function unfold() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target) target.querySelector("details")?.setAttribute("open", "");
}
addEventListener("hashchange", unfold);
unfold();
"""
