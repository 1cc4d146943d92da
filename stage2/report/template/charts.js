/* Charts are functions by name that give { traces, layout, caption, numbers: [header, rows] }. */
const CHARTS = {};
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon"];
const PALETTE = {
  light: ["#0072b2", "#d55e00", "#009e73", "#b0578d", "#b07800", "#3a9bd0", "#50585e", "#7a5c00"],
  dark: ["#56b4e9", "#f2904a", "#2bc49a", "#dd9bc3", "#e9b94a", "#9ad4f7", "#b4bdc3", "#d1b26a"],
};

/* While the page is printed, plots are as wide as a sheet. */
const PAPER = { on: false, width: 680 };

const theme = () => document.documentElement.dataset.theme;
const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const narrow = () => document.documentElement.clientWidth < 640;

function translucent(hex, alpha) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}

/* The look of one of the configurations that share charts, the same in all of them. */
function look(id) {
  const place = Object.keys(DATA.details).indexOf(id);
  const faint = isFaint(id);
  return {
    color: faint ? colour("line") : PALETTE[theme()][place % 8],
    dash: DASHES[Math.floor(place / 8 + place) % DASHES.length],
    symbol: SYMBOLS[place % SYMBOLS.length],
    width: state.picked.has(id) ? 3.5 : faint ? 1.2 : 2,
  };
}

function axis(title, more = {}) {
  return {
    title: { text: title, font: { size: 13, color: colour("soft") }, standoff: 10 },
    gridcolor: colour("grid"), linecolor: colour("line"), zeroline: false, automargin: true,
    tickfont: { size: 12, color: colour("soft") }, ticks: "", exponentformat: "power", fixedrange: narrow(), ...more,
  };
}

function layoutOf(height, more = {}) {
  return {
    height, autosize: true,
    paper_bgcolor: colour("ground"), plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, -apple-system, Segoe UI, Roboto, Arial, sans-serif", size: 13, color: colour("ink") },
    margin: { l: 56, r: 16, t: 44, b: 52 },
    showlegend: true,
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", xanchor: "left", yref: "paper", font: { size: 13 } },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink"), size: 13 } },
    hovermode: "closest",
    ...more,
  };
}

/* A title above one panel of a chart. */
function panelTitle(text, x, y = 1) {
  return { text, x, y, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", yshift: 8,
    showarrow: false, font: { size: 13, color: colour("ink") } };
}

/* Whiskers of one standard deviation over seeds of shares in %, which end at 0 and 100. */
function whiskers(rows, key, color) {
  const reach = rows.map((row) => row.values[key] || [0, 0]).map(([mean, std]) => [std ?? 0, mean ?? 0]);
  return { type: "data", symmetric: false, array: reach.map(([std, mean]) => Math.min(std, 100 - mean)), arrayminus: reach.map(([std, mean]) => Math.min(std, mean)), color, thickness: 1.2, width: 3 };
}

function draw(name) {
  const figure = document.querySelector(`[data-plot="${name}"]`);
  if (!figure) return;
  const { traces, layout, caption, numbers } = CHARTS[name]();
  const place = figure.querySelector(".plot");
  place.hidden = !traces.length;
  figure.querySelector("figcaption").textContent = caption;
  if (traces.length) {
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${figure.dataset.title}. ${caption} The numbers follow as a table.`);
    if (PAPER.on) Object.assign(layout, { width: PAPER.width, autosize: false });
    Plotly.react(place, traces, layout, {
      responsive: true, displayModeBar: false,
    });
  }
  tabulate(figure, numbers);
}

/* What a chart shows as a table, made when it is opened. */
function tabulate(figure, [header, rows] = [[], []]) {
  let details = figure.querySelector("details");
  if (!details) {
    details = element("details", {}, element("summary", { textContent: "Numbers" }));
    details.addEventListener("toggle", () => details.open && details.fill());
    figure.append(details);
  }
  details.hidden = !rows.length;
  details.fill = () => {
    const head = element("tr", {}, ...header.map((text, i) =>
      element("th", { scope: "col", className: i ? "" : "text", textContent: text, style: "padding:8px 10px" })));
    const body = rows.slice(0, 500).map((cells) => element("tr", {}, ...cells.map((cell, i) =>
      element(i ? "td" : "th", { textContent: brief(cell ?? null), ...(i ? {} : { scope: "row" }) }))));
    const text = `${figure.dataset.title}${rows.length > 500 ? `: first 500 of ${rows.length} lines` : ""}`;
    const table = element("table", {}, element("caption", {}, element("span", { textContent: text })),
      element("thead", {}, head), element("tbody", {}, ...body));
    const box = element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: text }, table);
    details.querySelector(".scroll")?.remove();
    details.append(box);
  };
  if (details.open) details.fill();
}

const MOST_LINES = 15;

/* Accuracy of each group as a dot, a line for each recipe. */
CHARTS.groups = () => {
  const all = bestOfEach();
  const picked = visible().filter((row) => state.picked.has(row.id)).slice(0, MOST_LINES);
  const shown = [...new Set([...picked, ...all.slice(0, MOST_LINES)])].sort((a, b) => a.rank - b.rank);
  const names = shown.map((row) => plain(clipped(nameAmong(shown, row), narrow() ? 16 : 32)));
  const groups = GROUPS.filter((group) => shown.some((row) => value(row, group) !== null));
  const traces = groups.map((group, g) => ({
    type: "scatter", mode: "markers", name: `${groupName(group)} (${plain(DATA.groups[group])})`,
    y: shown.map((_, i) => i), x: shown.map((row) => value(row, group)), error_x: whiskers(shown, group, colour("ink")), cliponaxis: false,
    marker: { color: colour(group), size: 11, symbol: SYMBOLS[g], opacity: shown.map((row) => (isFaint(row.id) ? 0.25 : 1)) },
    customdata: shown.map((row) => plain(row.id)),
    hovertemplate: `%{customdata}<br>${groupName(group)} %{x:.1f} %<extra></extra>`,
  }));
  const ends = shown.map((row) => groups.map((group) => value(row, group)).filter((x) => x !== null));
  const shapes = ends.map((xs, i) => ({ type: "line", layer: "below", y0: i, y1: i, x0: Math.min(...xs), x1: Math.max(...xs), line: { color: colour("line"), width: 3 } }))
    .filter(({ x0 }) => Number.isFinite(x0));
  const best = shown[0];
  return {
    traces: shown.length ? traces : [],
    layout: layoutOf(110 + 28 * shown.length, {
      shapes, xaxis: axis(`accuracy on ${DATA.split}, %`),
      yaxis: axis("", { autorange: "reversed", tickvals: shown.map((_, i) => i), ticktext: names,
        gridcolor: "rgba(0,0,0,0)", tickfont: { size: 13, color: colour("ink") }, fixedrange: true }),
      margin: { l: 20, r: 16, t: 44, b: 52 },
    }),
    caption: !shown.length ? "No configuration meets the filter and the brushes."
      : `${DATA.selectOn ? "The best configuration of each recipe" : "Each recipe, as published where it was tried"}${picked.length ? ", and the highlighted ones" : ""}, in the order of ${DATA.order}` +
      (all.length > MOST_LINES ? ` (${MOST_LINES} of ${all.length} recipes)` : "") +
      `. Look for ${groupName("few")} far to the right that is not paid for with ${groupName("many")} further to the left; whiskers are one standard deviation over seeds. ` +
      `${best.name}: ${groups.map((group) => `${groupName(group)} ${number(value(best, group))} %`).join(", ")}.`,
    numbers: [["recipe", ...groups.map(groupName)], shown.map((row) => [row.id, ...groups.map((group) => value(row, group))])],
  };
};

const MOST_POINTS = 16;

/* Rows that no other beats in both ECE and macro accuracy, by rising ECE. */
function paretoFront(rows) {
  const front = [];
  for (const row of [...rows].sort((a, b) => value(a, "ece") - value(b, "ece") || value(b, "macro") - value(a, "macro"))) {
    if (!front.length || value(row, "macro") > value(front[front.length - 1], "macro")) front.push(row);
  }
  return front;
}

/* Macro accuracy against ECE: every configuration, the best of each recipe and the ticked rows by name, the Pareto front. */
CHARTS.scatter = () => {
  const all = visible().filter((row) => value(row, "ece") !== null && value(row, "macro") !== null);
  const picked = all.filter((row) => state.picked.has(row.id));
  const shown = [...new Set([...picked, ...bestOfEach().filter((row) => all.includes(row))])].slice(0, MOST_POINTS).sort((a, b) => a.rank - b.rank);
  const front = paretoFront(all);
  const [low, high] = [Math.min, Math.max].map((of) => of(...[...shown, ...front].map((row) => value(row, "macro"))));
  const below_ = all.filter((row) => value(row, "macro") < low - 0.08 * (high - low)).length;
  const hover = `%{text}<br>ECE %{x:.1f} %<br>macro %{y:.1f} %<extra></extra>`;
  const points = (rows) => ({ type: "scatter", x: rows.map((row) => value(row, "ece")), y: rows.map((row) => value(row, "macro")), text: rows.map((row) => plain(`${row.id} ${row.changes}`)), hovertemplate: hover });
  const traces = [
    { ...points(all.filter((row) => !shown.includes(row))), mode: "markers", name: "other configurations", marker: { size: all.length > 200 ? 4 : 6, color: translucent(colour("soft"), 0.35) } },
    { ...points(front), mode: "lines", name: "Pareto front", line: { color: colour("ink"), width: 1.5, dash: "dot", shape: "hv" }, hoverinfo: "skip" },
    ...shown.map((row, i) => ({
      ...points([row]), mode: "markers", name: plain(clipped(nameAmong(shown, row))), error_x: whiskers([row], "ece", colour("soft")), error_y: whiskers([row], "macro", colour("soft")),
      marker: { color: isFaint(row.id) ? colour("line") : PALETTE[theme()][i % 8], symbol: SYMBOLS[(i + Math.floor(i / 8)) % SYMBOLS.length], size: state.picked.has(row.id) ? 14 : 10 },
    })),
  ].filter((trace) => trace.x.length);
  const corner = { text: "↖ better", x: 0, y: 1, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 13, color: colour("soft") } };
  return {
    traces,
    layout: layoutOf(460, { annotations: [corner], xaxis: axis(`ECE on ${DATA.split}, %`), yaxis: axis(`macro accuracy on ${DATA.split}, %`, high > low ? { range: [low - 0.08 * (high - low), high + 0.08 * (high - low)] } : {}),
      legend: below(), margin: { l: 60, r: 16, t: 28, b: 52 } }),
    caption: shown.length ? "Accuracy against expected calibration error (as SLA, Fig. 4) of every configuration, by name the best of each recipe" + (picked.length ? " and the highlighted rows" : "") +
      `; bars are one standard deviation over seeds. No configuration is better in both than the ${front.length} of the Pareto front: ${front.slice(0, 6).map((row) => called(row.id)).join(", ")}${front.length > 6 ? ", …" : ""}. A temperature fitted on val moves points left and leaves accuracy as it is.` + (below_ ? ` ${thousands(below_)} below are not drawn.` : "")
      : "No configuration meets the filter and the brushes.",
    numbers: [["configuration", "ECE, %", "macro, %", "Pareto front"], all.map((row) => [row.id, value(row, "ece"), value(row, "macro"), front.includes(row) ? "yes" : "no"])],
  };
};
