const LINES_AT_ONCE = 8;
const LINES_AT_LEAST = 4;

/* Configurations that share a chart: the ticked ones, then the best visible of each recipe. */
function together(name) {
  const having = detailed().filter((row) => DATA.details[row.id][name]);
  const first = having.filter((row) => state.picked.has(row.id));
  const best = bestOfEach().filter((row) => having.includes(row));
  const shown = [...new Set([...first, ...best])].slice(0, LINES_AT_ONCE);
  return [...new Set([...shown, ...having.slice(0, Math.max(0, LINES_AT_LEAST - shown.length))])];
}

/* The recipe's name where it says which of these configurations is meant, else the id. */
const nameAmong = (rows, row) => (countBy(rows, (each) => each.name).get(row.name) > 1 ? row.id : row.name);

CHARTS.curves = () => {
  const shown = together("curves");
  const panels = [["val_macro", "val macro, %"], ["loss", "training loss"]].filter(([name]) =>
    shown.some((row) => DATA.details[row.id].curves[name]));
  const traces = [], layout = {}, lines = [];
  panels.forEach(([name, title], i) => {
    const domain = panel(i, panels.length);
    layout[`xaxis${nth(i)}`] = axis("epoch", { domain: domain.x, anchor: `y${nth(i)}`, rangemode: "tozero" });
    layout[`yaxis${nth(i)}`] = axis(title, { domain: domain.y, anchor: `x${nth(i)}` });
    shown.forEach((row) => {
      const curve = DATA.details[row.id].curves[name];
      if (!curve) return;
      const { color, dash, width, symbol } = look(row.id);
      traces.push({ type: "scatter", mode: curve.epoch.length > 12 ? "lines" : "lines+markers", x: curve.epoch, y: curve.mean, xaxis: `x${nth(i)}`, yaxis: `y${nth(i)}`,
        name: plain(nameAmong(shown, row)), legendgroup: row.id, showlegend: !i, line: { color, dash, width }, marker: { symbol, size: 6, color },
        hovertemplate: `${plain(nameAmong(shown, row))}<br>epoch %{x}: %{y:.3~f}<extra></extra>` });
      lines.push([`${row.id}, ${title}`, curve.epoch.length, curve.mean[0], curve.mean[curve.mean.length - 1]]);
    });
  });
  return {
    traces,
    layout: layoutOf(panelHeight(panels.length, 320), { ...layout, legend: below(), margin: { l: 60, r: 16, t: 24, b: 52 } }),
    caption: shown.length ? `Means over seeds, at most ${LINES_AT_ONCE} configurations: highlighted ones, then the best of each recipe. A val curve that still rises asks for more epochs; one that falls while the loss falls is overfitting. Losses of different kinds do not share a scale.`
      : "No configuration with curves meets the filter and the brushes.",
    numbers: [["curve", "epochs", "first", "last"], lines],
  };
};

/* A legend under a chart, with room for its lines. */
function below() {
  return { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom", font: { size: 13 } };
}

CHARTS.shift = () => {
  const shown = together("shift");
  const ratios = DATA.shiftRatios;
  const names = [...[...ratios].reverse().map((r) => `1:${r}`), "1", ...ratios.map((r) => `${r}:1`)];
  const lineOf = (row) => {
    const [forward, backward] = DATA.details[row.id].shift;
    return [...[...backward].reverse(), value(row, "macro"), ...forward];
  };
  const traces = shown.map((row) => {
    const { color, dash, width, symbol } = look(row.id);
    return { type: "scatter", mode: "lines+markers", x: names.map((_, i) => i), y: lineOf(row), name: plain(nameAmong(shown, row)),
      line: { color, dash, width }, marker: { color, symbol, size: 8 }, text: names, hovertemplate: `${plain(nameAmong(shown, row))}<br>%{text}: %{y:.1f} %<extra></extra>` };
  });
  const knownOf = (row) => {
    const [, , forward, backward] = DATA.details[row.id].shift;
    return [...[...backward].reverse(), ...forward.slice(1)];
  };
  const moved = shown.filter((row) => DATA.details[row.id].shift.length === 4);
  for (const row of moved) {
    traces.push({ type: "scatter", mode: "lines", x: names.map((_, i) => i), y: knownOf(row), name: plain(nameAmong(shown, row)), showlegend: false,
      line: { color: look(row.id).color, dash: "dot", width: 1.5 }, text: names, hovertemplate: `${plain(nameAmong(shown, row))}, prior known<br>%{text}: %{y:.1f} %<extra></extra>` });
  }
  return {
    traces,
    layout: layoutOf(420, {
      xaxis: axis(narrow() ? "largest : smallest class at test time" : "share of the largest to the smallest class at test time", { tickvals: names.map((_, i) => i), ticktext: names, range: [-0.3, names.length - 0.7], tickangle: narrow() ? -60 : 0 }),
      yaxis: axis(`accuracy on ${DATA.split}, %`), legend: below(), margin: { l: 60, r: 16, t: 24, b: 52 },
    }),
    caption: shown.length ? "Accuracy if the test set had another prior, rows reweighted (as SADE): left the tail is tested most, right the head as in training, 1 is uniform (macro). Dotted lines know the prior: log π is added to their logits. A flat line does not care which prior it meets; lines that cross say that the better choice depends on it."
      : "No configuration meets the filter and the brushes.",
    numbers: [["configuration", ...names], [...shown.map((row) => [row.id, ...lineOf(row)]), ...moved.map((row) => [`${row.id}, prior known`, ...knownOf(row)])]],
  };
};

const ROUND = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

CHARTS.beta = () => {
  const having = detailed().filter((row) => DATA.details[row.id].beta);
  const row = having.find((each) => each.id === state.after) || having[0];
  if (!row) return { traces: [], layout: {}, caption: "No configuration that moved β meets the filter and the brushes.", numbers: [[], []] };
  const { epoch, groups, last } = DATA.details[row.id].beta;
  const traces = [];
  for (const [group, [mean, low, high]] of Object.entries(groups)) {
    const hue = colour(group);
    traces.push({ type: "scatter", mode: "lines", x: [...epoch, ...[...epoch].reverse()], y: [...high, ...[...low].reverse()], fill: "toself", fillcolor: translucent(hue, 0.14), line: { width: 0 }, hoverinfo: "skip", showlegend: false });
    traces.push({ type: "scatter", mode: "lines", x: epoch, y: mean, name: group, line: { color: hue, width: 2.5, dash: DASHES[2 - GROUPS.indexOf(group)] }, hovertemplate: `${group}, epoch %{x}: β %{y:.2f}<extra></extra>` });
  }
  const members = ORDER.filter((k) => last[k] !== null);
  traces.push({ type: "scatter", mode: "markers", x: members.map((k) => COUNTS[k]), y: members.map((k) => last[k]), xaxis: "x2", yaxis: "y2", showlegend: false,
    marker: { color: members.map((k) => colour(DATA.classes.group[k])), size: members.length > 200 ? 5 : 8, opacity: 0.7 }, text: members.map((k) => plain(className(k))), hovertemplate: "%{text}, %{x} samples: β %{y:.2f}<extra></extra>" });
  const [left, right] = [panel(0, 2), panel(1, 2)];
  return {
    traces,
    layout: layoutOf(panelHeight(2, 320), {
      xaxis: axis("epoch", { domain: left.x, anchor: "y" }), yaxis: axis("β", { domain: left.y, anchor: "x" }),
      xaxis2: axis("training samples of a class", { domain: right.x, anchor: "y2", type: "log", tickvals: ROUND, ticktext: ROUND.map(thousands) }),
      yaxis2: axis("β at the end", { domain: right.y, anchor: "x2" }), legend: below(), margin: { l: 56, r: 16, t: 24, b: 52 },
    }),
    caption: `${row.id}: β that the generator moved by each class's accuracy on val, means over seeds. First the mean of each group with the 10th to 90th percentile of its classes, then every class at the end. Bands that drift apart mean that small and large classes want different amounts of generated features.`,
    numbers: [["class", "training samples", "β at the end"], members.map((k) => [DATA.classes.names[k], COUNTS[k], last[k]])],
  };
};

const TITLES = { groups: "many, medium, few", parallel: "parallel coordinates", heat: "hyper-parameter heat maps" };

const DRAWN = ["groups", "parallel", "heat", "classes", "reliability", "confidence", "norms", "confused", "curves", "shift", "beta"];

function drawPlots(but = "") {
  offerPair();
  if (!window.Plotly) return;
  for (const name of DRAWN) if (name !== but) draw(name);
}

/* The two selects of configurations with details; what the brushes hide is not offered. */
function offerPair() {
  if (!$("pair")) return;
  const offered = detailed();
  const all = offered.length ? offered : DATA.rows.filter((row) => DATA.details[row.id]);
  const ids = all.map((row) => row.id);
  if (!ids.includes(state.after)) state.after = ids[0] ?? null;
  if (!ids.includes(state.before) || state.before === state.after) {
    const usual = DATA.before && DATA.before.id;
    state.before = ids.includes(usual) && usual !== state.after ? usual : ids.find((id) => id !== state.after) ?? null;
  }
  for (const role of ["before", "after"]) {
    const options = all.map((row) => new Option(`${row.id} · ${DATA.figure} ${number(value(row, DATA.ranking))}`, row.id));
    $(role).replaceChildren(...options);
    $(role).value = state[role];
  }
  $("why").textContent = DATA.before && state.before === DATA.before.id ? `Before: ${DATA.before.why}.` : "";
}

function removeWhatIsMissing() {
  const present = new Set(Object.values(DATA.details).flatMap((own) => Object.keys(own)));
  for (const figure of document.querySelectorAll("[data-needs]")) {
    if (!present.has(figure.dataset.needs)) figure.remove();
  }
  const missing = [...DATA.missing];
  const drop = (name, reason) => {
    document.querySelector(`[data-plot="${name}"]`).remove();
    missing.push(reason);
  };
  const ranked = DATA.rows.some((row) => value(row, DATA.ranking) !== null);
  if (!ranked) ["groups", "parallel", "heat"].forEach((name) => drop(name, `${TITLES[name]} (no configuration finished)`));
  else if (!offerHeat()) drop("heat", "hyper-parameter heat maps (no recipe varies two settings)");
  if (ranked && DATA.rows.length < 3) drop("parallel", "parallel coordinates (fewer than three configurations)");
  for (const section of document.querySelectorAll("main > section:not(#summary)")) {
    const figures = section.querySelectorAll("figure").length;
    if (["groups", "settings", "inside", "together"].includes(section.id) && !figures) section.remove();
  }
  $("missing").textContent = missing.length ? `Not shown: ${missing.join("; ")}.` : "";
}

function fillHead() {
  const best = DATA.rows[0];
  const { bank } = DATA;
  $("title").textContent = DATA.title;
  const rows = Object.entries(bank.rows).map(([split, n]) => `${thousands(n)} ${split}`).join(", ");
  $("bank").textContent = `Bank ${bank.name} · ${bank.fingerprint} · ${COUNTS.length} classes · ${bank.dim} features · rows: ${rows}`;
  const tile = (name, text, small) => element("div", {}, element("dt", { textContent: name }),
    element("dd", {}, text, element("small", { textContent: small })));
  const both = (key) => (value(best, key) === null ? "–" : `${number(value(best, key))} %`);
  $("tiles").replaceChildren(
    !DATA.selectOn ? tile("Best configuration", "–", "nothing is selected")
      : value(best, DATA.ranking) === null ? tile("Best configuration", "–", "none finished")
      : tile("Best configuration", best.name, best.changes || "usual settings"),
    ...(DATA.selectOn ? [
      tile(DATA.figure, both(DATA.ranking), "of the best"),
      tile(`${DATA.split} macro`, both("macro"), `${DATA.epoch} epoch`),
      tile("Few-shot classes", both("few"), DATA.groups.few),
    ] : []),
    tile("Configurations", thousands(DATA.rows.length), `${ALONE.size} ${ALONE.size === 1 ? "recipe" : "recipes"}`),
  );
  $("protocol").textContent = `Protocol: ${DATA.protocol}.`;
  const onTest = DATA.selectOn === "test" ? "Selected on test: what ranks here is measured on the rows that are reported, so the best numbers are optimistic. " : "";
  $("warning").textContent = onTest + DATA.advice;
  $("warning").hidden = !$("warning").textContent;
  const details = Object.keys(DATA.details).length;
  const part = details < DATA.rows.length;
  const carried = `This page carries the details of ${part ? `${details} of ${thousands(DATA.rows.length)}` : `all ${details}`} configurations${part ? ": the best of each recipe, then the next best" : ""}. Choose two of them, or tick a row of the leaderboard to put it under “After”.`;
  if ($("carried")) $("carried").textContent = carried;
  $("caption").firstChild.textContent = `Numbers on ${DATA.split}, ${DATA.epoch} epoch unless a column says otherwise; accuracy and ECE in %. Bold: best of a column. The order is that of ${DATA.order}.`;
  $("bibtex").textContent = DATA.cite;
  $("made").textContent = `Made by featbank ${DATA.version}. Plots by plotly.js (MIT), inside this file; nothing is loaded from the network.`;
}

function fillContents() {
  const links = [...document.querySelectorAll("main > section[id]:not(#summary)")].map((section) =>
    element("a", { href: `#${section.id}`, textContent: section.querySelector("h2").textContent }));
  $("contents").replaceChildren(...links);
  for (const figure of document.querySelectorAll("figure")) {
    const title = figure.querySelector("h3") || figure.closest("section").querySelector("h2");
    figure.dataset.title = title.textContent;
  }
}

function setTheme(name, kept = true) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light theme" : "Dark theme";
  if (kept) drawPlots();
}

function listen() {
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  let waiting = 0;
  $("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => filterBy($("query").value), 200);
  });
  $("filter").addEventListener("reset", () => {
    state.picked.clear();
    unbrush();
    filterBy("");
  });
  $("spread").addEventListener("change", drawTable);
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    $(id).addEventListener("click", () => { state.page += step; drawTable(); });
  }
  for (const role of ["before", "after"]) {
    $(role)?.addEventListener("change", () => { state[role] = $(role).value; drawPlots("parallel"); });
  }
  $("heat-recipe")?.addEventListener("change", () => { offerAxes(); draw("heat"); });
  for (const id of ["heat-x", "heat-y"]) $(id)?.addEventListener("change", () => draw("heat"));
  $("unbrush")?.addEventListener("click", () => { unbrush(); drawTable(); drawPlots(); });
  $("theme").addEventListener("click", () => setTheme(theme() === "dark" ? "light" : "dark"));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  $("copy").addEventListener("click", async () => {
    getSelection().selectAllChildren($("bibtex"));
    const copied = document.execCommand("copy");
    $("copy").textContent = copied ? "Copied" : "Selected: press Ctrl C";
  });
  let width = narrow();
  addEventListener("resize", () => { if (narrow() !== width) { width = narrow(); drawPlots(); } });
  let before = theme();
  addEventListener("beforeprint", () => { before = theme(); PAPER.on = true; setTheme("light"); });
  addEventListener("afterprint", () => { PAPER.on = false; setTheme(before); });
}

async function unpackPlotly() {
  const bytes = Uint8Array.from(atob($("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(element("script", { textContent: await new Response(stream).text() }));
}

async function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light", false);
  removeWhatIsMissing();
  fillBanks();
  fillHead();
  fillContents();
  state.before = DATA.before && DATA.before.id;
  drawHead();
  drawTable();
  listen();
  await unpackPlotly();
  offerPair();
  for (const name of DRAWN) {
    draw(name);
    await new Promise((done) => setTimeout(done));
  }
  const parallel = document.querySelector('[data-plot="parallel"] .plot');
  parallel?.on?.("plotly_restyle", () => readBrushes(parallel));
  document.documentElement.dataset.ready = "true";
}

start();
