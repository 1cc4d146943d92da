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

CHARTS.beta = () => {
  const having = detailed().filter((row) => DATA.details[row.id].beta);
  const row = having.find((each) => each.id === state.after) || having[0];
  if (!row) return { traces: [], layout: {}, caption: "No configuration that moved β meets the filter and the brushes.", numbers: [[], []] };
  const { epoch, groups, last } = DATA.details[row.id].beta;
  const traces = [];
  for (const [group, [mean, low, high]] of Object.entries(groups)) {
    const hue = colour(group);
    traces.push({ type: "scatter", mode: "lines", x: [...epoch, ...[...epoch].reverse()], y: [...high, ...[...low].reverse()], fill: "toself", fillcolor: translucent(hue, 0.14), line: { width: 0 }, hoverinfo: "skip", showlegend: false });
    traces.push({ type: "scatter", mode: "lines", x: epoch, y: mean, name: groupName(group), line: { color: hue, width: 2.5, dash: DASHES[2 - GROUPS.indexOf(group)] }, hovertemplate: `${groupName(group)}, epoch %{x}: β %{y:.2f}<extra></extra>` });
  }
  const members = ORDER.filter((k) => last[k] !== null);
  traces.push({ type: "scatter", mode: "markers", x: members.map((k) => COUNTS[k]), y: members.map((k) => last[k]), xaxis: "x2", yaxis: "y2", showlegend: false,
    marker: { color: members.map((k) => colour(DATA.classes.group[k])), size: members.length > 200 ? 5 : 8, opacity: 0.7 }, text: members.map((k) => plain(className(k))), hovertemplate: "%{text}, %{x} samples: β %{y:.2f}<extra></extra>" });
  const [left, right] = [panel(0, 2), panel(1, 2)];
  return {
    traces,
    layout: layoutOf(panelHeight(2, 320), {
      xaxis: axis("epoch", { domain: left.x, anchor: "y" }), yaxis: axis("β", { domain: left.y, anchor: "x" }),
      xaxis2: axis("training samples of a class", { domain: right.x, anchor: "y2", type: "log", ...ROUNDED }),
      yaxis2: axis("β at the end", { domain: right.y, anchor: "x2" }), legend: below(), margin: { l: 56, r: 16, t: 24, b: 52 },
    }),
    caption: `${row.id}: β that the generator moved by each class's accuracy on val, means over seeds. First the mean of each group with the 10th to 90th percentile of its classes, then every class at the end. Bands that drift apart mean that small and large classes want different amounts of generated features.`,
    numbers: [["class", "training samples", "β at the end"], members.map((k) => [DATA.classes.names[k], COUNTS[k], last[k]])],
  };
};

/* Logit magnitude and regularised deviation by segment of classes; of Fig. 3 of LOS. */
CHARTS.logits = () => {
  const shown = together("logits");
  const titles = ["L / ‖L‖₁, %", "std(z) / L"];
  const traces = [], layout = {}, lines = [];
  const sizes = shown.length ? DATA.details[shown[0].id].logits[2] : [];
  let start = 0;
  const middles = sizes.map((size) => (start += size) - (size - 1) / 2);
  const marks = groupMarks();
  titles.forEach((title, i) => {
    const domain = panel(i, 2);
    layout[`xaxis${nth(i)}`] = axis("classes by training count, largest first", { domain: domain.x, anchor: `y${nth(i)}`, range: [0.4, ORDER.length + 0.6], showgrid: false });
    layout[`yaxis${nth(i)}`] = axis(title, { domain: domain.y, anchor: `x${nth(i)}` });
    for (const row of shown) {
      const { color, dash, width, symbol } = look(row.id);
      const y = DATA.details[row.id].logits[i];
      traces.push({ type: "scatter", mode: "lines+markers", x: middles, y, xaxis: `x${nth(i)}`, yaxis: `y${nth(i)}`, name: plain(nameAmong(shown, row)), legendgroup: row.id, showlegend: !i,
        line: { color, dash, width }, marker: { symbol, size: 7, color }, hovertemplate: `${plain(nameAmong(shown, row))}<br>%{y:.3f}<extra></extra>` });
      y.forEach((number_, place) => lines.push([`${row.id}, ${title}`, place + 1, sizes[place], number_]));
    }
  });
  const shapes = titles.flatMap((_, i) => marks.shapes.map((line) => ({ ...line, xref: `x${nth(i)}`, yref: `y${nth(i)} domain` })));
  shapes.push({ type: "line", xref: "x domain", yref: "y", x0: 0, x1: 1, y0: 100 / ORDER.length, y1: 100 / ORDER.length, line: { color: colour("soft"), width: 1, dash: "dot" } });
  const annotations = titles.flatMap((_, i) => marks.annotations.map((text) => ({ ...text, text: text.text.split(" ")[0], xref: `x${nth(i)}`, yref: `y${nth(i)} domain` })));
  return {
    traces,
    layout: layoutOf(panelHeight(2, 320), { ...layout, shapes, annotations, legend: below(), margin: { l: 60, r: 16, t: 32, b: 52 } }),
    caption: shown.length ? "First the logit magnitude of a class, L = E[z_k|y=k] − E[z_k|y≠k], as a share of its 1-norm (dotted: all equal), then its regularised deviation std(z_k|y=k) / L (as LOS, Fig. 3), means over " +
      (sizes[0] > 1 ? `segments of ${sizes[0]} neighbouring classes` : "seeds") + ". A magnitude that falls to the right favours large classes; a deviation that rises says that small classes have less certain logits."
      : "No configuration meets the filter and the brushes.",
    numbers: [["line", "segment", "classes", "value"], lines],
  };
};
