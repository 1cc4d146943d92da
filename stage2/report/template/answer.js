/* The answer on top, and how far the best of each recipe is from it. */
function fillAnswer() {
  const { lines: [first, second], command } = DATA.verdict;
  $("verdict").replaceChildren(element("b", { textContent: first }), ` ${second}`);
  $("next").hidden = !command;
  $("next").replaceChildren("Next: ", element("code", { textContent: command }));
}

/* Tiles of the gains over the baselines that were swept. */
function gainTiles(tile) {
  return DATA.verdict.gains.map(({ over, difference, low, high }) =>
    tile(`Gain over ${over}`, signed(difference), low === null ? "points" : `points, 95 % ${signed(low)} to ${signed(high)}`));
}

const signed = (x, digits = 1) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(digits)}`;

CHARTS.intervals = () => {
  const { id, differences } = DATA.intervals;
  const shown = differences.map(([other, ...numbers]) => [ROWS.get(other), ...numbers])
    .filter(([row]) => visible().includes(row));
  const rows = shown.map(([row]) => row);
  const one = (tied, name) => {
    const of = shown.map((each, place) => [place, ...each]).filter(([, row]) => row.tied === tied);
    return { type: "scatter", mode: "markers", name, x: of.map(([, , difference]) => difference), y: of.map(([place]) => place),
      error_x: { type: "data", symmetric: false, array: of.map(([, , d, , high]) => high - d), arrayminus: of.map(([, , d, low]) => d - low), color: colour("soft"), thickness: 1.4, width: 4 },
      marker: { size: 10, symbol: tied ? "circle" : "circle-open", color: colour(tied ? "after" : "soft"), line: { width: 2, color: colour(tied ? "after" : "soft") } },
      customdata: of.map(([, row, , low, high]) => [plain(row.id), signed(low), signed(high)]),
      hovertemplate: "%{customdata[0]}<br>%{x:+.1f} points [%{customdata[1]}, %{customdata[2]}]<extra></extra>" };
  };
  const ties = DATA.rows.some((row) => row.tied);
  return {
    traces: shown.length ? [...(ties ? [one(true, `ties with the best on ${DATA.selectOn}`)] : []), one(false, ties ? "told apart from it" : "best of a recipe")] : [],
    layout: layoutOf(110 + 26 * shown.length, {
      shapes: [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: colour("ink"), width: 1.2, dash: "dash" } }],
      xaxis: axis(narrow() ? `points from ${plain(called(id))}` : `difference in macro accuracy on ${DATA.split} from ${plain(called(id))}, points`),
      yaxis: axis("", { autorange: "reversed", tickvals: rows.map((_, i) => i), ticktext: rows.map((row) => plain(clipped(nameAmong(rows, row), narrow() ? 16 : 32))),
        gridcolor: "rgba(0,0,0,0)", tickfont: { size: 13, color: colour("ink") }, fixedrange: true }),
      margin: { l: 20, r: 16, t: 44, b: 52 },
    }),
    caption: `The best of each recipe against ${called(id)}, which ranks first, with paired 95 % intervals over the rows of ${DATA.split}. ` +
      "An interval that reaches 0 does not tell the two apart there." + (ties ? ` Filled: cannot be told apart from the best on ${DATA.selectOn}, the rows that chose.` : ""),
    numbers: [["configuration", "difference, points", "low", "high"], shown.map(([row, ...numbers]) => [row.id, ...numbers])],
  };
};
