"""How the page looks, and what it does under the pointer."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --paper: #ffffff; --line: #d7dce5; --soft: #566072;
        --good: #0a7a55; --bad: #b3391d; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf1; --paper: #12161d; --line: #333b49; --soft: #9aa5b8; --good: #4fd0a2; --bad: #ff8d70;
          --card: #1a202a; }
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
.charts figure { margin: 0; min-width: 0; }
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
.matrix th { cursor: pointer; white-space: normal; vertical-align: bottom; }
.good { color: var(--good); } .bad { color: var(--bad); } .none { font-style: italic; }
.key { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .85rem; }
.key i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .35em; }
.map { position: relative; } .map svg { cursor: crosshair; touch-action: pan-y; }
.tip { position: absolute; pointer-events: none; background: var(--paper); border: 1px solid var(--line); z-index: 1;
       border-radius: 4px; padding: 4px; font-size: .8rem; text-align: center; width: 82px; }
.tip span { display: block; width: 72px; height: 72px; image-rendering: pixelated; }
summary { cursor: pointer; font-weight: 600; margin-top: 1rem; }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; padding: .8rem; font-size: .85rem; }
"""
# Shows the image of the point nearest to the pointer. Points are [x, y, name], in shares of the drawing.
SCRIPT = """
for (const map of document.querySelectorAll(".map")) {
  const points = JSON.parse(map.dataset.points), columns = +map.dataset.columns, side = 72;
  const drawing = map.querySelector("svg"), tip = map.querySelector(".tip");
  const [picture, name] = tip.children;
  function show(event) {
    const box = drawing.getBoundingClientRect(), outer = map.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = 24 * 24;
    points.forEach((p, i) => {
      const d = (p[0] * box.width - x) ** 2 + (p[1] * box.height - y) ** 2;
      if (d < least) { least = d; best = i; }
    });
    tip.hidden = best < 0;
    if (best < 0) return;
    picture.style.backgroundSize = `${columns * side}px auto`;
    picture.style.backgroundPosition = `${-(best % columns) * side}px ${-Math.floor(best / columns) * side}px`;
    name.textContent = points[best][2];
    const left = Math.min(event.clientX - outer.left + 12, outer.width - 86);
    tip.style.left = `${Math.max(left, 0)}px`;
    tip.style.top = `${Math.max(event.clientY - outer.top - 110, 0)}px`;
  }
  drawing.addEventListener("pointermove", show);
  drawing.addEventListener("pointerdown", show);
  drawing.addEventListener("pointerleave", () => { tip.hidden = true; });
}
// Sorts the rows of a comparison by a column, the largest first; a second click turns the order round.
for (const table of document.querySelectorAll(".matrix")) {
  table.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head) return;
    const column = +head.dataset.column, rows = [...table.rows].slice(1);
    const turn = head.dataset.turn === "1" ? -1 : 1;
    head.dataset.turn = turn;
    const value = (row) => column ? +row.cells[column].dataset.value : row.cells[0].textContent;
    rows.sort((a, b) => turn * (column ? value(b) - value(a) : value(a).localeCompare(value(b))));
    rows.forEach((row) => row.parentNode.append(row));
  });
}
"""
