const AXES = 4;

/* The axes of the parallel coordinates: recipe, the settings that vary most, results. */
function axes() {
  const list = [];
  const recipes = [...new Set(DATA.rows.map((row) => row.name))];
  if (recipes.length > 1) list.push(textAxis("recipe", (row) => row.name));
  for (const name of DATA.settings.slice(0, AXES)) {
    const read = (row) => setting(row, name);
    const texts = DATA.rows.some((row) => typeof read(row) === "string");
    list.push(texts ? textAxis(name, (row) => brief(read(row))) : numberAxis(name, read));
  }
  for (const key of ["few", "ece", "selection"]) {
    const column = DATA.columns.find((each) => each.key === key);
    if (column) list.push(numberAxis(column.label, (row) => value(row, key), true));
  }
  return list;
}

function textAxis(label, read) {
  const texts = [...new Set(DATA.rows.map(read))].sort();
  return { label, place: (row) => texts.indexOf(read(row)), range: [-0.5, texts.length - 0.5],
    ticks: texts.length > 24 ? [] : texts.map((text, i) => [i, plain(clipped(text, 18))]) };
}

/* Configurations without a value lie below the others. Few values of a setting are spaced evenly;
 * more of them by their size, logarithmic where they span more than a factor of 20. */
function numberAxis(label, read, result = false) {
  const known = [...new Set(DATA.rows.map(read).filter((x) => x !== null))].sort((a, b) => a - b);
  const [low, high] = [known[0], known[known.length - 1]];
  const few = !result && known.length <= 9;
  const scale = few ? (x) => known.indexOf(x) : result ? (x) => x : scaleOf(known).into;
  const span = scale(high) - scale(low) || 1;
  const lacking = DATA.rows.some((row) => read(row) === null);
  const none = scale(low) - 0.12 * span;
  const start = lacking ? none : scale(low);
  const marked = few || known.length < 4 ? known : result ? null
    : [0, 0.25, 0.5, 0.75, 1].map((t) => known[Math.round(t * (known.length - 1))]);
  const ticks = (marked || even(low, high)).map((x) => [scale(x), brief(x)]);
  if (lacking) ticks.unshift([none, "–"]);
  const place = (row) => (read(row) === null ? none : scale(read(row)));
  return { label, place, ticks, range: [start - 0.03 * span, scale(high) + 0.03 * span] };
}

/* A scale for numbers in order, and its inverse: logarithmic where they span more than a factor of 20; 0 then lies a factor of 2 below the others. */
function scaleOf(known) {
  const least = known.find((x) => x > 0);
  if (known[0] < 0 || !(known[known.length - 1] > 20 * least)) return { into: (x) => x, back: (x) => x };
  return { into: (x) => Math.log10(x > 0 ? x : least / 2), back: (x) => (x < Math.log10(least) - 0.15 ? 0 : 10 ** x) };
}

function even(low, high) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((each) => (high - low) / each <= 6) || 50;
  const ticks = [];
  for (let x = Math.ceil(low / step) * step; x <= high; x += step) ticks.push(Number(x.toFixed(2)));
  return ticks;
}

const PARALLEL = { axes: [] };
const DRAWN_AT_MOST = 300;
const DRAWN_FIRST = 60;

/* Rows whose lines are drawn: all, or else the best, the ticked and others evenly over the ranks. */
function drawnOf(rows) {
  const rest = (rows.length - DRAWN_FIRST) / (DRAWN_AT_MOST - DRAWN_FIRST);
  const others = (place) => place === DRAWN_FIRST + Math.round(Math.round((place - DRAWN_FIRST) / rest) * rest);
  return rows.length <= DRAWN_AT_MOST ? rows : rows.filter((row, place) => place < DRAWN_FIRST || state.picked.has(row.id) || others(place));
}

CHARTS.parallel = () => {
  PARALLEL.axes = PARALLEL.axes.length ? PARALLEL.axes : axes();
  const all = filtered().filter((row) => value(row, DATA.ranking) !== null);
  const rows = drawnOf(all);
  const scores = rows.map((row) => value(row, DATA.ranking));
  const sorted = [...scores].sort((a, b) => a - b);
  const picked = rows.map((row) => (state.picked.has(row.id) ? 1 : 0));
  const highlighted = picked.some(Boolean);
  const line = highlighted
    ? { color: picked, cmin: 0, cmax: 1, colorscale: [[0, colour("line")], [1, colour("before")]] }
    : { color: scores, cmin: sorted[Math.floor(sorted.length / 20)], cmax: sorted[sorted.length - 1],
        colorscale: [[0, colour("line")], [0.7, colour("soft")], [1, colour("after")]] };
  const old = $("settings").querySelector('[data-plot="parallel"] .plot');
  const dimensions = PARALLEL.axes.map((each, i) => ({
    label: plain(each.label), values: rows.map(each.place), range: each.range,
    tickvals: each.ticks.map((tick) => tick[0]), ticktext: each.ticks.map((tick) => tick[1]),
    ...(old.data && old.data[0].dimensions[i].constraintrange && state.brushes.size
      ? { constraintrange: old.data[0].dimensions[i].constraintrange } : {}),
  }));
  const best = rows[0];
  const edge = 24 + 7.4 * Math.max(4, ...PARALLEL.axes[0].ticks.map((tick) => String(tick[1]).length));
  return {
    traces: rows.length ? [{
      type: "parcoords", dimensions, line, labelside: "top",
      labelfont: { size: 13, color: colour("ink") }, tickfont: { size: 12, color: colour("ink") },
      rangefont: { size: 1, color: "rgba(0,0,0,0)" },
      unselected: { line: { color: colour("line"), opacity: 0.25 } },
    }] : [],
    layout: layoutOf(420, { margin: { l: edge, r: 56, t: 56, b: 28 }, showlegend: false }),
    caption: "Each line is a configuration, " + (rows.length < all.length ? `${rows.length} of ${thousands(all.length)} are drawn, the best ${DRAWN_FIRST} and others evenly over the ranks, ` : "") + (highlighted ? "highlighted rows of the leaderboard stand out. "
      : `bluer the better its ${DATA.figure}. `) +
      "Drag along an axis to brush: only lines through every brush stay in the leaderboard and in the other plots; a click on the axis takes a brush away. " +
      "From the keyboard the filter of the leaderboard does the same. Look for axes where all good lines pass through one place." +
      (DATA.settings.length > AXES ? ` The ${AXES} of ${DATA.settings.length} varied settings with the most values have an axis.` : "") +
      (best ? ` Best: ${best.id}${best.changes ? `, ${best.changes}` : ""}.` : ""),
    numbers: [["configuration", ...PARALLEL.axes.map((each) => each.label)],
      all.filter(brushed).map((row) => [row.id, ...PARALLEL.axes.map((each) => {
        const tick = each.ticks.find(([at]) => at === each.place(row));
        return tick ? tick[1] : each.place(row);
      })])],
  };
};

/* Read the brushes that plotly keeps, as conditions on rows. */
function readBrushes(place) {
  state.brushes.clear();
  place.data[0].dimensions.forEach((dimension, i) => {
    const kept = dimension.constraintrange;
    if (!kept || !kept.length) return;
    const ranges = Array.isArray(kept[0]) ? kept : [kept];
    const at = PARALLEL.axes[i].place;
    state.brushes.set(i, (row) => ranges.some(([low, high]) => at(row) >= low && at(row) <= high));
  });
  $("unbrush").hidden = !state.brushes.size;
  state.page = 0;
  drawTable();
  drawPlots("parallel");
}

function unbrush() {
  const place = document.querySelector('[data-plot="parallel"] .plot');
  state.brushes.clear();
  $("unbrush").hidden = true;
  if (place && place.data) for (const dimension of place.data[0].dimensions) delete dimension.constraintrange;
}

/* Settings that vary among rows, most values first. */
function varied(rows) {
  const sizes = DATA.settings.map((name) =>
    [name, new Set(rows.map((row) => setting(row, name)).filter((x) => x !== null)).size]);
  return sizes.filter(([, n]) => n > 1).sort((a, b) => b[1] - a[1]).map(([name]) => name);
}

const ofRecipe = (rows) => rows.filter((row) => row.name === $("heat-recipe").value);

/* The selects of the heat map; false where no recipe varies two settings. */
function offerHeat() {
  const names = [...ALONE.keys()].filter((name) =>
    varied(DATA.rows.filter((row) => row.name === name)).length > 1);
  names.sort((a, b) => ALONE.get(b) - ALONE.get(a));
  if (!names.length) return false;
  $("heat-recipe").replaceChildren(...names.map((name) => new Option(name, name)));
  offerAxes();
  return true;
}

function offerAxes() {
  const names = varied(ofRecipe(DATA.rows));
  for (const [id, chosen] of [["heat-x", 0], ["heat-y", 1]]) {
    $(id).replaceChildren(...names.map((name) => new Option(name, name)));
    $(id).selectedIndex = chosen;
  }
}

const MOST_CELLS = 12;

/* Cells along an axis of the heat map: the values, or where there are many numbers, ranges of them as wide as each other. */
function cellsOf(values) {
  const order = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
  const known = [...new Set(values.filter((x) => x !== null))].sort(order);
  if (known.length <= MOST_CELLS || known.some((x) => typeof x !== "number")) return { names: known.map(brief), place: (x) => known.indexOf(x) };
  const { into, back } = scaleOf(known);
  const [low, high] = [into(known[0]), into(known[known.length - 1])];
  const edge = (i) => String(Number(back(low + (i * (high - low)) / MOST_CELLS).toPrecision(2)));
  return {
    names: Array.from({ length: MOST_CELLS }, (_, i) => `${edge(i)}–${edge(i + 1)}`), ranges: true,
    place: (x) => (x === null ? -1 : Math.min(MOST_CELLS - 1, Math.floor((MOST_CELLS * (into(x) - low)) / (high - low)))),
  };
}

/* Points of the figure that ranks which its split cannot tell apart: from the best to the last that ties with it. */
const tiedPoints = () => {
  const tied = DATA.rows.filter((row) => row.tied).map((row) => value(row, DATA.ranking));
  return tied.length ? Math.max(...tied) - Math.min(...tied) : 0;
};

CHARTS.heat = () => {
  const [nameX, nameY] = [$("heat-x").value, $("heat-y").value];
  const rows = ofRecipe(visible()).filter((row) => value(row, DATA.ranking) !== null);
  const [xs, ys] = [nameX, nameY].map((name) => cellsOf(rows.map((row) => setting(row, name))));
  const best = ys.names.map(() => xs.names.map(() => null));
  const sizes = ys.names.map(() => xs.names.map(() => 0));
  for (const row of rows) {
    const [i, j] = [ys.place(setting(row, nameY)), xs.place(setting(row, nameX))];
    if (i < 0 || j < 0) continue;
    sizes[i][j] += 1;
    if (!best[i][j] || value(row, DATA.ranking) > value(best[i][j], DATA.ranking)) best[i][j] = row;
  }
  const cells = best.map((line) => line.map((row) => row && value(row, DATA.ranking)));
  const known = cells.flat().filter((x) => x !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const span = Math.max(high - low, 2 * tiedPoints(), 1);
  const text = best.map((line) => line.map((row) => (row ? number(value(row, DATA.ranking)) + (row.tied ? "*" : "") : "")));
  const along = (name, { names }) => axis(plain(name), { tickvals: names.map((_, i) => i), ticktext: names.map((x) => plain(x)), showgrid: false });
  return {
    traces: known.length ? [{
      type: "heatmap", z: cells, x: xs.names.map((_, i) => i), y: ys.names.map((_, i) => i), text, zmin: high - span, zmax: high,
      texttemplate: xs.names.length <= (narrow() ? 6 : 14) ? "%{text}" : "", customdata: sizes, xgap: 3, ygap: 3, hoverongaps: false,
      colorscale: [[0, colour("low")], [1, colour("high")]], textfont: { size: 13, color: colour("ink") },
      hovertemplate: `%{z:.1f} %, best of %{customdata}<extra></extra>`,
      colorbar: { thickness: 10, outlinewidth: 0, tickfont: { size: 12, color: colour("soft") }, len: 0.9,
        title: { text: "%", side: "top", font: { size: 12, color: colour("soft") } } },
    }] : [],
    layout: layoutOf(Math.max(240, 110 + 44 * ys.names.length), { margin: { l: 56, r: 8, t: 16, b: 52 }, xaxis: along(nameX, xs), yaxis: along(nameY, ys) }),
    caption: known.length
      ? `${$("heat-recipe").value}: ${DATA.figure} in % of the best configuration in each cell, over all its other settings${xs.ranges || ys.ranges ? " and the values of its range" : ""}. ` +
        `From ${number(low)} to ${number(high)} %; colours span ${number(span)} points${span > high - low ? `, as ${DATA.selectOn} cannot tell closer ones apart` : ""}. Starred cells tie with the best of all. A best cell at the edge means that the grid should go on there.`
      : "No configuration of this recipe meets the filter and the brushes.",
    numbers: [[`${nameY} ↓ ${nameX} →`, ...xs.names], ys.names.map((y, i) => [y, ...cells[i]])],
  };
};

/* The selects of the figure over one setting; false where no recipe varies one. */
function offerSingle() {
  const names = [...ALONE.keys()].filter((name) => varied(DATA.rows.filter((row) => row.name === name)).length);
  names.sort((a, b) => ALONE.get(b) - ALONE.get(a));
  if (!names.length) return false;
  $("single-recipe").replaceChildren(...names.map((name) => new Option(name, name)));
  offerSetting();
  return true;
}

function offerSetting() {
  const names = varied(DATA.rows.filter((row) => row.name === $("single-recipe").value));
  $("single-setting").replaceChildren(...names.map((name) => new Option(name, name)));
}

/* Macro, many, medium and few over one setting; of the configurations of a value the first ranked. */
CHARTS.single = () => {
  const [recipe, name] = [$("single-recipe").value, $("single-setting").value];
  const rows = visible().filter((row) => row.name === recipe && setting(row, name) !== null && value(row, "macro") !== null)
    .sort((a, b) => a.rank - b.rank);
  const first = new Map();
  for (const row of rows) if (!first.has(setting(row, name))) first.set(setting(row, name), row);
  const numeric = [...first.keys()].every((x) => typeof x === "number");
  const values = [...first.keys()].sort((a, b) => (numeric ? a - b : String(a).localeCompare(String(b))));
  const log = numeric && values[0] > 0 && values[values.length - 1] > 20 * values[0];
  const at = numeric ? (x) => x : (x) => values.indexOf(x);
  const keys = ["macro", ...GROUPS.filter((group) => rows.some((row) => value(row, group) !== null))];
  const traces = keys.map((key, i) => ({
    type: "scatter", mode: "lines+markers", name: groupName(key), x: values.map(at), y: values.map((x) => value(first.get(x), key)),
    error_y: whiskers(values.map((x) => first.get(x)), key),
    line: { color: key === "macro" ? colour("ink") : colour(key), dash: DASHES[i], width: key === "macro" ? 3 : 2 }, marker: { size: 7, symbol: SYMBOLS[i] },
    customdata: values.map((x) => plain(first.get(x).id)), hovertemplate: `%{customdata}<br>${plain(name)} %{x}: ${groupName(key)} %{y:.1f} %<extra></extra>`,
  }));
  const chosen = rows[0];
  const selects = chosen && DATA.selectOn;
  const mark = selects ? [{ type: "line", xref: "x", yref: "paper", x0: at(setting(chosen, name)), x1: at(setting(chosen, name)), y0: 0, y1: 1, line: { color: colour("after"), width: 1.5, dash: "dot" } }] : [];
  const few = values.length <= 12;
  return {
    traces: values.length > 1 ? traces : [],
    layout: layoutOf(400, { shapes: mark, margin: { l: 60, r: 16, t: 44, b: 52 },
      xaxis: axis(plain(name), { type: log ? "log" : "linear", ...(few || !numeric ? { tickvals: values.map(at), ticktext: values.map((x) => plain(brief(x))) } : {}) }),
      yaxis: axis(`accuracy on ${DATA.split}, %`) }),
    caption: values.length > 1
      ? `${recipe} over ${name} (as DisAlign, Fig. 5): accuracy on ${DATA.split}, of each value the ${selects ? "best by what ranks" : "first"} over all other settings; bars are one standard deviation over seeds.` +
        (selects ? ` The dotted line is the value that ${DATA.selectOn} selects, ${brief(setting(chosen, name))}.` : "")
      : "Fewer than two values of this setting meet the filter and the brushes.",
    numbers: [[name, ...keys.map((key) => `${groupName(key)}, %`), "configuration"],
      values.map((x) => [brief(x), ...keys.map((key) => value(first.get(x), key)), first.get(x).id])],
  };
};
