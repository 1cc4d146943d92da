/* All configurations of the sweep: spread, val against test, importance of settings, time. */
const SPREAD_AT_LEAST = 3;
const MOST_RECIPES = 24;

/* Recipes with several visible configurations that have a figure, in the order of their best. */
function several() {
  const rows = visible().filter((row) => value(row, DATA.ranking) !== null);
  const counts = countBy(rows, (row) => row.name);
  return [...counts].filter(([, n]) => n >= SPREAD_AT_LEAST).map(([name]) => [name, rows.filter((row) => row.name === name)]);
}

CHARTS.spread = () => {
  const all = several();
  const shown = all.slice(0, MOST_RECIPES);
  const figures = (rows) => rows.map((row) => value(row, DATA.ranking));
  const traces = shown.map(([name, rows]) => ({
    type: "box", orientation: "h", x: figures(rows), y: rows.map(() => plain(clipped(name, narrow() ? 16 : 32))), name: plain(name), showlegend: false,
    boxpoints: "all", jitter: 0.7, pointpos: 0, line: { color: colour("soft"), width: 1.2 }, fillcolor: "rgba(0,0,0,0)",
    marker: { color: translucent(colour("after"), 0.45), size: rows.length > 60 ? 4 : 6 },
    text: rows.map((row) => plain(`${row.id}<br>${row.changes || "as usual"}`)), hovertemplate: "%{text}<br>%{x:.1f} %<extra></extra>",
  }));
  const usual = shown.flatMap(([name, rows]) => rows.filter((row) => !row.changes).map((row) => [name, row]));
  if (usual.length) traces.push({ type: "scatter", mode: "markers", name: "as published", x: usual.map(([, row]) => value(row, DATA.ranking)), y: usual.map(([name]) => plain(clipped(name, narrow() ? 16 : 32))),
    marker: { symbol: "diamond", size: 11, color: colour("before"), line: { width: 1.5, color: colour("ground") } }, hovertemplate: "%{y}, as published: %{x:.1f} %<extra></extra>" });
  return {
    traces,
    layout: layoutOf(120 + 34 * shown.length, { boxmode: "overlay", xaxis: axis(`${DATA.figure}, %`),
      yaxis: axis("", { autorange: "reversed", gridcolor: "rgba(0,0,0,0)", tickfont: { size: 13, color: colour("ink") }, fixedrange: true, type: "category" }), margin: { l: 20, r: 16, t: 44, b: 52 } }),
    caption: shown.length ? `${DATA.figure} of every configuration, by recipe in the order of the best; the box is the middle half, its line the median` +
      (all.length > shown.length ? ` (${shown.length} of ${all.length} recipes)` : "") + ". A recipe whose box lies high is good without tuning; a long tail to the left asks for it."
      : `No recipe has ${SPREAD_AT_LEAST} configurations that meet the filter and the brushes.`,
    numbers: [["recipe", "configurations", "best", "median", "worst"], shown.map(([name, rows]) => {
      const sorted = figures(rows).sort((a, b) => b - a);
      return [name, rows.length, sorted[0], sorted[Math.floor(sorted.length / 2)], sorted[sorted.length - 1]];
    })],
  };
};

/* Ranks of values from 0, ties at their mean. */
function ranks(values) {
  const order = values.map((_, i) => i).sort((a, b) => values[a] - values[b]);
  const found = [];
  for (let start = 0; start < order.length;) {
    let end = start;
    while (end < order.length && values[order[end]] === values[order[start]]) end += 1;
    for (let i = start; i < end; i += 1) found[order[i]] = (start + end - 1) / 2;
    start = end;
  }
  return found;
}

/* Spearman's correlation. */
function correlation(xs, ys) {
  const [a, b] = [ranks(xs), ranks(ys)];
  const middle = (xs.length - 1) / 2;
  const sum = (u, v) => u.reduce((total, x, i) => total + (x - middle) * (v[i] - middle), 0);
  return sum(a, b) / Math.sqrt(sum(a, a) * sum(b, b));
}

CHARTS.valtest = () => {
  const shown = visible().filter((row) => value(row, "selection") !== null && value(row, "macro") !== null);
  const [x, y] = ["selection", "macro"].map((key) => (row) => value(row, key));
  const one = (rows, name, marker) => ({ type: "scatter", mode: "markers", name, x: rows.map(x), y: rows.map(y), marker,
    text: rows.map((row) => plain(`${row.id} ${row.changes}`)), hovertemplate: `%{text}<br>${DATA.selectOn} %{x:.1f} %<br>${DATA.split} %{y:.1f} %<extra></extra>` });
  const size = shown.length > 200 ? 5 : 8;
  const traces = [
    one(shown.filter((row) => !row.tied && row.rank), "others", { size, color: translucent(colour("soft"), 0.5) }),
    one(shown.filter((row) => row.tied && row.rank), "tied with the best", { size, color: translucent(colour("after"), 0.6) }),
    one(shown.filter((row) => !row.rank), "the best", { size: 15, symbol: "star", color: colour("before"), line: { width: 1, color: colour("ground") } }),
  ].filter((trace) => trace.x.length);
  const best = shown.reduce((a, b) => (a && y(a) >= y(b) ? a : b), null);
  const first = shown.find((row) => !row.rank);
  return {
    traces,
    layout: layoutOf(440, { xaxis: axis(`${DATA.figure}, %`), yaxis: axis(`${DATA.split} macro, %`), margin: { l: 60, r: 16, t: 44, b: 52 } }),
    caption: shown.length > 2 ? `The figure that ranks against the one that is reported; rank correlation ${number(correlation(shown.map(x), shown.map(y)), 2)}. ` +
      (first ? `${DATA.selectOn} chose ${number(y(first))} % on ${DATA.split}; the highest there, which nobody can choose, is ${number(y(best))} %: choosing cost ${number(y(best) - y(first))} points. ` : "") +
      "A cloud without a slope says that the split that ranks is too small for the differences that are left."
      : "Fewer than three configurations meet the filter and the brushes.",
    numbers: [["configuration", `${DATA.selectOn}, %`, `${DATA.split}, %`], shown.map((row) => [row.id, x(row), y(row)])],
  };
};

CHARTS.importance = () => {
  const name = $("importance-recipe").value;
  const { configurations, settings } = DATA.importance[name];
  const total = settings.reduce((sum, [, share]) => sum + share, 0);
  return {
    traces: [{ type: "bar", orientation: "h", x: settings.map(([, share]) => share), y: settings.map(([setting_]) => plain(setting_)), marker: { color: colour("after") },
      text: settings.map(([, share]) => ` ${number(share)} %`), textposition: "outside", cliponaxis: false, showlegend: false, hoverinfo: "skip" }],
    layout: layoutOf(90 + 36 * settings.length, { xaxis: axis(narrow() ? "variance explained, %" : `share of the variance of ${DATA.figure} that a setting explains alone, %`, { range: [0, Math.min(112, Math.max(20, 1.25 * Math.max(...settings.map(([, share]) => share))))] }),
      yaxis: axis("", { autorange: "reversed", gridcolor: "rgba(0,0,0,0)", tickfont: { size: 13, color: colour("ink") }, fixedrange: true }), margin: { l: 20, r: 16, t: 16, b: 52 }, bargap: 0.4 }),
    caption: `${name}, ${thousands(configurations)} configurations: ε² of a one-way analysis of variance, without what chance explains. Settings with a long bar are worth tuning; with bars near 0 the sweep cannot tell their values apart. ` +
      (total < 60 ? `Together ${number(Math.min(100, total))} %: the rest is what settings do together, and noise.` : ""),
    numbers: [["setting", "variance explained, %"], settings],
  };
};

CHARTS.time = () => {
  const all = visible().filter((row) => value(row, "macro") !== null);
  const shown = bestOfEach().filter((row) => all.includes(row)).slice(0, 32);
  const each = (row) => Math.max(1e-3, row.seconds / row.seeds);
  const total = visible().reduce((sum, row) => sum + row.seconds, 0);
  const faster = (row) => shown.some((other) => each(other) < each(row) && value(other, "macro") >= value(row, "macro"));
  const traces = [{ type: "scatter", mode: narrow() ? "markers" : "markers+text", x: shown.map(each), y: shown.map((row) => value(row, "macro")), showlegend: false,
    text: shown.map((row) => (faster(row) ? "" : plain(clipped(row.name, 18)))), textposition: "top center", textfont: { size: 11, color: colour("soft") }, cliponaxis: false,
    marker: { size: 10, color: shown.map((row) => (isFaint(row.id) ? colour("line") : colour("after"))) },
    customdata: shown.map((row) => plain(row.id)), hovertemplate: "%{customdata}<br>%{x:.3~g} s a run<br>macro %{y:.1f} %<extra></extra>" }];
  return {
    traces: shown.length ? traces : [],
    layout: layoutOf(420, { xaxis: axis("seconds of a run", { type: "log", ...ROUNDED }), yaxis: axis(`macro accuracy on ${DATA.split}, %`), margin: { l: 60, r: 24, t: 28, b: 52 } }),
    caption: shown.length ? `Seconds that a run of the best of each recipe took: its share of the group that was trained with it, without measuring and storing.${narrow() ? "" : " Named are those that no faster one equals."} All ${thousands(visible().length)} configurations together: ${duration(total)}.`
      : "No configuration meets the filter and the brushes.",
    numbers: [["configuration", "seconds of a run", "macro, %"], shown.map((row) => [row.id, each(row), value(row, "macro")])],
  };
};

const duration = (seconds) => (seconds < 120 ? `${number(seconds)} s` : seconds < 7200 ? `${number(seconds / 60)} min` : `${number(seconds / 3600)} h`);

/* The menu of importances; false where no recipe has any. */
function offerImportance() {
  const names = Object.keys(DATA.importance);
  $("importance-recipe").replaceChildren(...names.map((name) => new Option(`${name} · ${DATA.importance[name].configurations} configurations`, name)));
  return names.length > 0;
}

function fillEnvironment() {
  $("environment-list").replaceChildren(...DATA.environment.map(({ device, versions, runs }) =>
    element("li", { textContent: `${thousands(runs)} ${runs === 1 ? "run" : "runs"} on ${device}: ${Object.entries(versions).map((pair) => pair.join(" ")).join(", ")}` })));
}
