const TITLES = { intervals: "differences from the best", groups: GROUPS.map(groupName).join(", "), scatter: "accuracy against calibration", spread: "spread of the configurations",
  valtest: "the split that ranks against the one that is reported", time: "time", importance: "importance of settings", parallel: "parallel coordinates",
  single: "one setting at a time", heat: "hyper-parameter heat maps" };

const DRAWN = ["bank-reliability", "bank-norms", "intervals", "groups", "scatter", "spread", "valtest", "time", "importance", "parallel", "single", "heat", "classes", "ious", "reliability", "confidence", "versus", "loss", "norms",
  "confused", "live", "curves", "logits", "shift", "beta"];

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
    const options = all.map((row) => new Option(described(all, row), row.id));
    $(role).replaceChildren(...options);
    $(role).value = state[role];
  }
  $("why").textContent = DATA.before && state.before === DATA.before.id ? `Before: ${DATA.before.why}.` : "";
}

/* A configuration in a menu: recipe, settings, figure, and its id where another looks the same. */
function described(rows, row) {
  const same = rows.some((other) => other !== row && other.name === row.name && other.changes === row.changes);
  return `${row.name} · ${row.changes || "usual settings"} · ${DATA.figure} ${number(value(row, DATA.ranking))}${same ? ` · ${row.id}` : ""}`;
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
  if (!ranked) Object.keys(TITLES).forEach((name) => drop(name, `${TITLES[name]} (no configuration finished)`));
  else {
    if (!DATA.intervals) drop("intervals", `${TITLES.intervals} (one recipe, or rows that cannot be compared)`);
    if (!several().length) drop("spread", `${TITLES.spread} (no recipe has ${SPREAD_AT_LEAST})`);
    if (!DATA.selectOn || DATA.selectOn === DATA.split || DATA.rows.length < 3 || DATA.rows.every((row) => value(row, "selection") === null)) drop("valtest", `${TITLES.valtest} (the same, or nothing ranks)`);
    if (!offerImportance()) drop("importance", `${TITLES.importance} (no recipe has enough configurations)`);
    if (!offerHeat()) drop("heat", "hyper-parameter heat maps (no recipe varies two settings)");
    if (!offerSingle()) drop("single", "one setting at a time (no recipe varies one)");
  }
  if (ranked && DATA.rows.length < 3) drop("parallel", "parallel coordinates (fewer than three configurations)");
  for (const section of document.querySelectorAll("main > section:not(#summary)")) {
    const figures = section.querySelectorAll("figure").length;
    if (["differences", "groups", "calibrated", "sweep", "settings", "inside", "together"].includes(section.id) && !figures) section.remove();
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
      tile(groupName("few") === "few" ? "Few-shot classes" : `Classes of ${groupName("few")}`, both("few"), DATA.groups.few),
      ...gainTiles(tile),
    ] : []),
    tile("Configurations", thousands(DATA.rows.length), `${ALONE.size} ${ALONE.size === 1 ? "recipe" : "recipes"}`),
  );
  const [query, example] = [$("query"), $("query-help").querySelector("code")];
  query.placeholder = query.placeholder.replace("few", groupName("few"));
  example.textContent = example.textContent.replace("few", groupName("few"));
  if ($("groups")) $("groups").querySelector("h2").textContent = TITLES.groups.replace(/^./, (first) => first.toUpperCase());
  $("protocol").textContent = `Protocol: ${DATA.protocol}.`;
  const onTest = DATA.selectOn === "test" ? "Selected on test: what ranks here is measured on the rows that are reported, so the best numbers are optimistic. " : "";
  $("warning").textContent = onTest + DATA.advice;
  $("warning").hidden = !$("warning").textContent;
  const details = Object.keys(DATA.details).length;
  const part = details < DATA.rows.length;
  const carried = `This page carries the details of ${part ? `${details} of ${thousands(DATA.rows.length)}` : `all ${details}`} configurations${part ? ": the best of each recipe, then the next best" : ""}. Choose two of them, or tick a row of the leaderboard to put it under “After”.`;
  if ($("carried")) $("carried").textContent = carried;
  $("caption").firstChild.textContent = `Numbers on ${DATA.split}, ${DATA.epoch} epoch unless a column says otherwise; accuracy and ECE in %. Bold: best of a column, unless more than three share it. The order is that of ${DATA.order}.`;
  $("bibtex").textContent = DATA.cite;
  $("made").textContent = `Made by featbank ${DATA.version}. Plots by plotly.js (MIT), inside this file; nothing is loaded from the network.`;
}

function fillContents() {
  const links = [...document.querySelectorAll("main > section[id]:not(#summary)")].map((section) =>
    element("a", { href: `#${section.id}`, textContent: section.querySelector("h2").textContent }));
  $("contents").replaceChildren(...links);
  for (const figure of document.querySelectorAll("figure")) {
    const title = figure.querySelector("h3, h4") || figure.closest("section").querySelector("h2");
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
  $("importance-recipe")?.addEventListener("change", () => draw("importance"));
  $("heat-recipe")?.addEventListener("change", () => { offerAxes(); draw("heat"); });
  $("single-recipe")?.addEventListener("change", () => { offerSetting(); draw("single"); });
  $("single-setting")?.addEventListener("change", () => draw("single"));
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
  fillMaps();
  fillLive();
  fillAnswer();
  fillEnvironment();
  fillHead();
  fillContents();
  state.before = DATA.before && DATA.before.id;
  drawHead();
  drawTable();
  listen();
  performance.mark("usable");
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
