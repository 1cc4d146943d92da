/* Classes by training count, most first, group by group; those in none last. */
const COUNTS = DATA.classes.counts;
const PLACE = DATA.classes.group.map((group) => (group ? GROUPS.indexOf(group) : GROUPS.length));
const ORDER = COUNTS.map((_, k) => k).sort((a, b) => PLACE[a] - PLACE[b] || COUNTS[b] - COUNTS[a] || a - b);
const className = (k) => clipped(String(DATA.classes.names[k]));

/* The two configurations that are looked into, those that have a detail: [role, id, detail]. */
function pairWith(name) {
  return ["before", "after"]
    .filter((role) => state[role] && DATA.details[state[role]][name])
    .map((role) => [role, state[role], DATA.details[state[role]][name]]);
}

/* Draw panels beside one another, on a phone one below the other: domain of panel i of n. */
function panel(i, n) {
  const gap = narrow() ? 0.16 : PAPER.on ? 0.14 : 0.09;
  const size = (1 - gap * (n - 1)) / n;
  const from = narrow() ? 1 - size - i * (size + gap) : i * (size + gap);
  const across = [Math.max(0, from), Math.min(1, from + size)];
  return narrow() ? { x: [0, 1], y: across } : { x: across, y: [0, 1] };
}

const panelHeight = (n, each = 340) => (narrow() ? 90 + n * (each * 0.85) : each + 70);
const nth = (i) => (i ? String(i + 1) : "");

/* Lines between the groups along the classes in order, and the groups' names. */
function groupMarks() {
  const shapes = [], annotations = [];
  let start = 0;
  for (const group of GROUPS) {
    const size = DATA.classes.group.filter((own) => own === group).length;
    if (!size) continue;
    if (start) shapes.push({ type: "line", x0: start + 0.5, x1: start + 0.5, yref: "paper", y0: 0, y1: 1, line: { color: colour("soft"), width: 1, dash: "dot" } });
    annotations.push({ text: narrow() ? groupName(group) : `${groupName(group)} · ${size}`, x: start + 0.5, xanchor: "left", y: 1, yref: "paper", yanchor: "bottom", showarrow: false, font: { size: narrow() ? 11 : 12, color: colour("soft") } });
    start += size;
  }
  if (start && start < ORDER.length) shapes.push({ type: "line", x0: start + 0.5, x1: start + 0.5, yref: "paper", y0: 0, y1: 1, line: { color: colour("soft"), width: 1, dash: "dot" } });
  return { shapes, annotations };
}

/* Mean of the values near each place, over about a tenth of the classes. */
function smooth(values) {
  const half = Math.max(1, Math.round(values.length / 20));
  return values.map((_, i) => {
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((x) => x !== null);
    return near.length ? near.reduce((a, b) => a + b, 0) / near.length : null;
  });
}

/* The two configurations with a detail as `byClass` and `reliabilityOf` draw them. */
function items(name) {
  return pairWith(name).map(([role, id, detail]) => ({
    role, id, detail, label: `${role}: ${plain(called(id))}`, hue: colour(role), dashed: role === "before", symbol: role === "before" ? "diamond" : "circle",
  }));
}

/* Values by class in order of size, of each item, and of a bound as a line; below them the training counts. */
function byClass(shown, title, digits, bound = []) {
  const few = ORDER.length <= 12;
  const xs = ORDER.map((_, i) => i + 1);
  const names = ORDER.map((k) => plain(`${className(k)}, ${thousands(COUNTS[k])} training samples`));
  const traces = [];
  for (const { role, label, detail, hue, dashed, symbol } of shown) {
    const y = ORDER.map((k) => detail[k]);
    traces.push({
      type: "scatter", mode: few ? "lines+markers" : "markers", x: xs, y, name: label, text: names, cliponaxis: false,
      line: { color: translucent(hue, 0.35), width: 1.5 },
      marker: { color: hue, size: few ? 11 : ORDER.length > 300 ? 4 : 6, opacity: few ? 1 : 0.55, symbol },
      hovertemplate: `%{text}<br>%{y:.${digits}f}<extra>${plain(role)}</extra>`,
    });
    if (!few) traces.push({ type: "scatter", mode: "lines", x: xs, y: smooth(y), showlegend: false, hoverinfo: "skip", line: { color: hue, width: 3, dash: dashed ? "dash" : "solid" } });
  }
  for (const { label, detail } of bound) {
    const y = ORDER.map((k) => detail[k]);
    traces.push({ type: "scatter", mode: "lines", x: xs, y: few ? y : smooth(y), name: label, text: names, line: { color: colour("ink"), width: 2 }, hovertemplate: `%{text}<br>%{y:.${digits}f}<extra>bound</extra>` });
  }
  traces.push({ type: "scatter", mode: "lines", fill: "tozeroy", x: xs, y: ORDER.map((k) => COUNTS[k]), yaxis: "y2", showlegend: false, line: { color: colour("soft"), width: 1, shape: "hvh" }, fillcolor: translucent(colour("soft"), 0.2), text: names, hovertemplate: "%{text}<extra></extra>" });
  const marks = groupMarks();
  const counted = COUNTS.filter((n) => n > 0);
  const all = [...shown, ...bound];
  return {
    traces: all.length ? traces : [],
    layout: layoutOf(narrow() ? 420 : 460, {
      ...marks,
      xaxis: axis("classes by training count, largest first", { range: [0.4, ORDER.length + 0.6], showgrid: false, anchor: "y2",
        ...(few ? { tickvals: xs, ticktext: ORDER.map((k) => plain(clipped(className(k), 12))) } : {}) }),
      yaxis: axis(title, { domain: [0.27, 1], rangemode: "tozero" }),
      yaxis2: axis("training<br>samples", { domain: [0, 0.17], type: "log", nticks: 3, range: [Math.log10(Math.min(...counted)) - 0.3, Math.log10(Math.max(...counted)) + 0.1], dtick: 1 }),
      legend: { orientation: "h", x: 0, y: 1.08, yanchor: "bottom", font: { size: 13, color: colour("ink") } },
      margin: { l: 60, r: 16, t: narrow() ? 100 : 76, b: 52 },
    }),
    numbers: [["class", "training samples", ...all.map(({ role }) => role)],
      ORDER.map((k) => [DATA.classes.names[k], COUNTS[k], ...all.map(({ detail }) => detail[k])])],
  };
}

CHARTS.classes = () => {
  const pair = items("per_class");
  const bound = DATA.bound.filter((id) => !pair.some((each) => each.id === id)).slice(0, 1)
    .map((id) => ({ role: "bound", label: `the bound: ${plain(called(id))}`, detail: DATA.details[id].per_class }));
  return {
    ...byClass(pair, `accuracy on ${DATA.split}, %`, 1, bound),
    caption: `Accuracy of each class on ${DATA.split}, largest class left, with the training counts below` +
      (ORDER.length > 12 ? "; lines are means over neighbouring classes. " : ". ") +
      (bound.length ? "The bound is a head on balanced data (as DisAlign, Fig. 1). " : "") +
      "A good classifier lifts the right end without letting the left end fall." + groupMeans(),
  };
};

CHARTS.ious = () => ({
  ...byClass(items("iou"), `IoU on ${DATA.split}, %`, 1),
  caption: `Intersection over union of each class, TP / (TP + FP + FN), over the pixels of ${DATA.split} and all seeds, largest class left. ` +
    "Unlike accuracy it falls when pixels of other classes are taken for the class: a gain in accuracy that is none here was paid for by false positives.",
});

function groupMeans() {
  const text = ["before", "after"].filter((role) => state[role]).map((role) => {
    const row = ROWS.get(state[role]);
    return `${role} ${GROUPS.filter((g) => value(row, g) !== null).map((g) => `${groupName(g)} ${number(value(row, g))}`).join(", ")}`;
  });
  return ` Means in %: ${text.join("; ")}.`;
}

CHARTS.norms = () => {
  const lacking = ["before", "after"].filter((role) => state[role] && !DATA.details[state[role]].weight_norm);
  return {
    ...byClass(items("weight_norm"), "‖w‖ of a class", 3),
    caption: "Norm of each class's weight vector, largest class left (as MiSLAS, Fig. 2). A slope down to the right means that the classifier favours large classes by its norms alone; τ-normalisation, learned scales and balanced sampling flatten it." +
      (lacking.length ? ` The head of ${lacking.map((role) => `“${role}”`).join(" and ")} has no weight vector per class.` : ""),
  };
};

/* Reliability diagrams of items in a row. */
function reliabilityOf(pair) {
  const traces = [], annotations = [], shapes = [];
  const layout = {};
  pair.forEach(({ role, name, ece, detail: [rows, confidence, accuracy] }, i) => {
    const [x, y, n] = [`x${nth(i)}`, `y${nth(i)}`, rows.length];
    const centres = rows.map((_, b) => ((b + 0.5) * 100) / n);
    const domain = panel(i, pair.length);
    traces.push({ type: "bar", x: centres, y: accuracy, xaxis: x, yaxis: y, width: 94 / n, name: "accuracy", legendgroup: "accuracy", showlegend: !i,
      marker: { color: colour("after") }, customdata: rows.map((r, b) => [r, confidence[b]]),
      hovertemplate: "accuracy %{y:.1f} %<br>confidence %{customdata[1]:.1f} %<br>%{customdata[0]:,} rows<extra></extra>" });
    traces.push({ type: "bar", x: centres, y: confidence.map((c, b) => (c === null ? null : c - accuracy[b])), base: accuracy, xaxis: x, yaxis: y, width: 94 / n,
      name: "gap to confidence", legendgroup: "gap", showlegend: !i, hoverinfo: "skip",
      marker: { color: translucent(colour("before"), 0.22), line: { color: colour("before"), width: 1.2 }, pattern: { shape: "/", size: 5, solidity: 0.15, fgcolor: colour("before") } } });
    annotations.push(panelTitle(`${plain(clipped(name, pair.length > 2 ? 16 : 34))} · ECE ${number(ece)} %`, domain.x[0], domain.y[1]));
    shapes.push({ type: "line", xref: x, yref: y, x0: 0, y0: 0, x1: 100, y1: 100, line: { color: colour("ink"), width: 1.2, dash: "dash" } });
    layout[`xaxis${nth(i)}`] = axis("confidence, %", { domain: domain.x, anchor: y, range: [0, 100], showgrid: false, dtick: 20 });
    layout[`yaxis${nth(i)}`] = axis(i && !narrow() ? "" : "accuracy, %", { domain: domain.y, anchor: x, range: [0, 100], dtick: 20 });
  });
  const text = pair.map(({ role, ece }) => `${role} ${number(ece)} %`).join(", ");
  return {
    traces,
    layout: layoutOf(panelHeight(pair.length), { ...layout, annotations, shapes, barmode: "overlay", bargap: 0,
      legend: { orientation: "h", x: 0, y: 1, yref: "container", yanchor: "top" },
      margin: { l: 56, r: 16, t: narrow() ? 110 : 84, b: 52 } }),
    caption: `Accuracy of rows by their confidence on ${DATA.split}. Bars on the diagonal are calibrated, hatched gaps above a bar are overconfidence, gaps below its top underconfidence. Expected calibration error: ${text}.`,
    numbers: [["confidence, %", ...pair.flatMap(({ role }) => [`${role}: rows`, `${role}: confidence`, `${role}: accuracy`])],
      pair.length ? pair[0].detail[0].map((_, b, all) => [`${brief((100 * b) / all.length)}–${brief((100 * (b + 1)) / all.length)}`,
        ...pair.flatMap(({ detail }) => detail.map((line) => line[b]))]) : []],
  };
}

CHARTS.reliability = () => reliabilityOf(items("reliability").map((each) =>
  ({ ...each, name: `${each.role}: ${called(each.id)}`, ece: value(ROWS.get(each.id), "ece") })));

/* Share of rows at each confidence, smoothed over neighbouring bins. */
function density(bins) {
  const kernel = [0.06, 0.24, 0.4, 0.24, 0.06];
  const total = bins.reduce((a, b) => a + b, 0);
  return bins.map((_, i) => kernel.reduce((sum, w, j) => {
    const at = Math.min(bins.length - 1, Math.max(0, i + j - 2));
    return sum + (w * bins[at]) / (total || 1);
  }, 0));
}

function median(bins) {
  const total = bins.reduce((a, b) => a + b, 0);
  let sum = 0;
  for (let i = 0; i < bins.length; i += 1) {
    if (bins[i] && sum + bins[i] >= total / 2) return (100 * (i + (total / 2 - sum) / bins[i])) / bins.length;
    sum += bins[i];
  }
  return null;
}

CHARTS.confidence = () => {
  const pair = pairWith("confidence");
  const traces = [], annotations = [], layout = {}, lines = [], named = new Set();
  pair.forEach(([role, id, groups], i) => {
    const domain = panel(i, pair.length);
    const [x, y] = [`x${nth(i)}`, `y${nth(i)}`];
    const present = GROUPS.map((group, g) => [group, groups[g]]).filter(([, own]) => own.flat().some(Boolean));
    present.forEach(([group, own], place) => {
      own.forEach((bins, right) => {
        const rows = bins.reduce((a, b) => a + b, 0);
        if (!rows) return;
        const widths = density(bins);
        const widest = Math.max(...widths);
        const side = right ? 1 : -1;
        const seen = widths.map((d, b) => [d / widest, b]);
        const wide = seen.filter(([d]) => d > 0.002);
        const filled = seen.slice(wide[0][1], wide[wide.length - 1][1] + 1);
        const w = filled.map(([d]) => place + side * (0.02 + 0.4 * d));
        const at = filled.map(([, b]) => (100 * (b + 0.5)) / bins.length);
        const name = right ? "right" : "wrong";
        const hue = colour(right ? "after" : "before");
        traces.push({ type: "scatter", mode: "lines", fill: "toself", xaxis: x, yaxis: y, x: [place + side * 0.02, ...w, place + side * 0.02], y: [at[0], ...at, at[at.length - 1]],
          line: { color: hue, width: 1.2 }, fillcolor: translucent(hue, 0.4), name, legendgroup: name, showlegend: !named.has(name), hoverinfo: "skip" });
        named.add(name);
        const middle = median(bins);
        traces.push({ type: "scatter", mode: "markers", xaxis: x, yaxis: y, x: [place + side * 0.02], y: [middle], showlegend: false,
          marker: { color: colour("ink"), size: 9, symbol: right ? "triangle-right" : "triangle-left" },
          hovertemplate: `${groupName(group)}, ${name}: ${thousands(rows)} rows<br>median confidence %{y:.0f} %<extra></extra>` });
        lines.push([`${role}: ${groupName(group)}, ${name}`, rows, middle]);
      });
    });
    annotations.push(panelTitle(`${role}: ${plain(clipped(called(id), 30))}`, domain.x[0], domain.y[1]));
    layout[`xaxis${nth(i)}`] = axis("", { domain: domain.x, anchor: y, range: [-0.55, present.length - 0.45], tickvals: present.map((_, p) => p), ticktext: present.map(([group]) => groupName(group)), showgrid: false, tickfont: { size: 13, color: colour("ink") } });
    layout[`yaxis${nth(i)}`] = axis(i && !narrow() ? "" : "confidence, %", { domain: domain.y, anchor: x, range: [0, 100], dtick: 20 });
  });
  return {
    traces,
    layout: layoutOf(panelHeight(pair.length), { ...layout, annotations, margin: { l: 56, r: 16, t: 84, b: 40 },
      legend: { orientation: "h", x: 0, y: 1, yref: "container", yanchor: "top" } }),
    caption: `How sure the classifier is on ${DATA.split} where it is wrong (left halves) and right (right halves), rows of all seeds; triangles are medians, each half is as wide as its densest place (as MiSLAS, Fig. 3). Good: right halves high, wrong halves low, in every group.`,
    numbers: [["half", "rows", "median confidence, %"], lines],
  };
};

const CONFUSED = 12;

CHARTS.confused = () => {
  const id = state.after && DATA.details[state.after].confusions ? state.after : null;
  const cells = id ? DATA.details[id].confusions : [];
  const classes = [];
  for (const [k, other] of cells) {
    const fresh = [k, other].filter((each) => !classes.includes(each));
    if (classes.length + fresh.length <= (narrow() ? 8 : CONFUSED)) classes.push(...fresh);
  }
  classes.sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b));
  const z = classes.map(() => classes.map(() => null));
  for (const [k, other, rows] of cells) {
    if (classes.includes(k) && classes.includes(other)) z[classes.indexOf(k)][classes.indexOf(other)] = rows;
  }
  const names = classes.map((k) => plain(clipped(`${className(k)}`, narrow() ? 12 : 20)));
  const ticks = { tickvals: classes.map((_, i) => i), ticktext: names, showgrid: false };
  const first = cells[0];
  return {
    traces: classes.length ? [{ type: "heatmap", z, x: classes.map((_, i) => i), y: classes.map((_, i) => i), texttemplate: "%{z}", textfont: { size: 13, color: colour("ink") }, xgap: 2, ygap: 2, hoverongaps: false, showscale: false,
      colorscale: [[0, colour("low")], [1, colour("high")]], customdata: classes.map((k) => classes.map((other) => plain(`${className(k)} taken for ${className(other)}`))),
      hovertemplate: "%{customdata}<br>%{z} rows<extra></extra>" }] : [],
    layout: layoutOf(Math.max(300, 140 + 34 * classes.length), {
      margin: { l: 56, r: 16, t: 16, b: 60 },
      shapes: classes.map((_, i) => ({ type: "rect", x0: i - 0.48, x1: i + 0.48, y0: i - 0.48, y1: i + 0.48, line: { width: 0 }, fillcolor: colour("raised") })),
      xaxis: axis("predicted class", { ...ticks, tickangle: -40 }),
      yaxis: axis("true class", { ...ticks, autorange: "reversed" }),
    }),
    caption: id
      ? `After, ${id}: rows of all seeds that are wrong, among the classes of its most frequent confusions, largest class first. Cells above the diagonal are large classes taken for smaller ones, below it small classes lose rows to larger ones. ` +
        `Most frequent: ${className(first[0])} taken for ${className(first[1])}, ${thousands(first[2])} rows. Blank cells are rarer.`
      : "The configuration under “After” has no wrong rows, or its results were written by an older version.",
    numbers: [["true class", "predicted class", "rows"], cells.map(([k, other, rows]) => [DATA.classes.names[k], DATA.classes.names[other], rows])],
  };
};

/* Half a violin of a histogram of confidences: x and y of its outline, on one side of a place. */
function half(bins, place, side) {
  const widths = density(bins);
  const widest = Math.max(...widths);
  const seen = widths.map((d, b) => [d / widest, b]);
  const wide = seen.filter(([d]) => d > 0.002);
  const filled = seen.slice(wide[0][1], wide[wide.length - 1][1] + 1);
  const at = filled.map(([, b]) => (100 * (b + 0.5)) / bins.length);
  const edge = place + side * 0.02;
  return { x: [edge, ...filled.map(([d]) => place + side * (0.02 + 0.4 * d)), edge], y: [at[0], ...at, at[at.length - 1]] };
}

/* Confidence of both configurations in one violin for each group. */
CHARTS.versus = () => {
  const pair = items("confidence");
  const traces = [], lines = [];
  const present = GROUPS.filter((_, g) => pair.length === 2 && pair.every(({ detail }) => detail[g].flat().some(Boolean)));
  pair.forEach(({ role, label, detail, hue }, i) => {
    const side = i ? 1 : -1;
    present.forEach((group, place) => {
      const [wrong, right] = detail[GROUPS.indexOf(group)];
      const bins = wrong.map((rows, b) => rows + right[b]);
      const total = bins.reduce((a, b) => a + b, 0);
      const mean = bins.reduce((sum, rows, b) => sum + (rows * 100 * (b + 0.5)) / bins.length, 0) / total;
      const accuracy = (100 * right.reduce((a, b) => a + b, 0)) / total;
      traces.push({ type: "scatter", mode: "lines", fill: "toself", ...half(bins, place, side), line: { color: hue, width: 1.2 }, fillcolor: translucent(hue, 0.4), name: label, legendgroup: role, showlegend: !place, hoverinfo: "skip" });
      const mark = (y, name, marker) => traces.push({ type: "scatter", mode: "markers", x: [place + side * 0.14], y: [y], name, legendgroup: name, showlegend: !i && !place,
        marker: { color: colour("ink"), ...marker }, hovertemplate: `${groupName(group)}, ${role}: ${name} %{y:.1f} %<extra></extra>` });
      mark(mean, "mean confidence", { symbol: "line-ew-open", size: 22, line: { width: 3 } });
      mark(accuracy, "accuracy", { symbol: "diamond", size: 10 });
      lines.push([`${role}: ${groupName(group)}`, total, mean, accuracy]);
    });
  });
  return {
    traces: present.length ? traces : [],
    layout: layoutOf(420, { margin: { l: 56, r: 16, t: 84, b: 40 }, legend: { orientation: "h", x: 0, y: 1, yref: "container", yanchor: "top" },
      xaxis: axis("", { range: [-0.55, present.length - 0.45], tickvals: present.map((_, p) => p), ticktext: present.map(groupName), showgrid: false, tickfont: { size: 13, color: colour("ink") } }),
      yaxis: axis("confidence, %", { range: [0, 100], dtick: 20 }) }),
    caption: present.length ? `Confidence on ${DATA.split} of all rows of a group, one half for each configuration (as MiSLAS, Fig. 3), each as wide as its densest place. A line above its diamond is overconfidence.`
      : "One of the two configurations has no confidences, or none of the same group.",
    numbers: [["half", "rows", "mean confidence, %", "accuracy, %"], lines],
  };
};

/* Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten. */
const ROUND = [-4, -3, -2, -1, 0, 1, 2, 3, 4].flatMap((power) => [1, 2, 5].map((x) => Number(`${x}e${power}`)));
const ROUNDED = { tickvals: ROUND, ticktext: ROUND.map((x) => (x >= 1000 ? thousands(x) : String(x))) };

/* The parameters of both losses: by training count, and over the epochs where they change. */
CHARTS.loss = () => {
  const pair = items("loss");
  const labels = [...new Map(pair.flatMap(({ detail }) => detail.map((each) => [each.label, each]))).values()];
  const traces = [], layout = {}, lines = [];
  labels.forEach(({ label, epochs, log }, i) => {
    const domain = panel(i, labels.length);
    layout[`xaxis${nth(i)}`] = axis(epochs ? "epoch" : "training samples of a class", { domain: domain.x, anchor: `y${nth(i)}`, ...(epochs ? {} : { type: "log", ...ROUNDED }) });
    layout[`yaxis${nth(i)}`] = axis(label, { domain: domain.y, anchor: `x${nth(i)}`, ...(log ? { type: "log", ...ROUNDED } : {}) });
    for (const { role, label: name, detail, hue, dashed } of pair) {
      const own = detail.find((each) => each.label === label);
      if (!own) continue;
      traces.push({ type: "scatter", mode: own.x.length > 25 ? "lines" : "lines+markers", x: own.x, y: own.y, xaxis: `x${nth(i)}`, yaxis: `y${nth(i)}`, name, legendgroup: role,
        showlegend: labels.findIndex((each) => detail.some((one) => one.label === each.label)) === i, line: { color: hue, dash: dashed ? "dash" : "solid", width: 2 },
        hovertemplate: `${role}<br>%{x}: %{y:.4~g}<extra></extra>` });
      own.x.forEach((x, place) => lines.push([`${role}: ${label}`, x, own.y[place]]));
    }
  });
  return {
    traces,
    layout: layoutOf(panelHeight(Math.max(1, labels.length), 320), { ...layout, legend: below(), margin: { l: 60, r: 16, t: 24, b: 52 } }),
    caption: labels.length ? "What the losses make of the training counts (as MiSLAS, Fig. 6, DisAlign, Fig. 3, and GLAG, Fig. 3): smoothing, weight, logit adjustment or margin of a class in the last epoch, and over the epochs where they change. A configuration without a line treats all classes alike."
      : "Neither loss treats classes or epochs differently.",
    numbers: [["parameter", "training samples or epoch", "value"], lines],
  };
};
