const LINES = 20;
const SHARED_BY = 3;

/* The columns that rank, which stand first, and the others. */
const ranks_ = ({ key }) => key === DATA.ranking || key.startsWith("selection");
const RANKING_COLUMNS = DATA.columns.filter(ranks_);
const OTHER_COLUMNS = DATA.columns.filter((column) => !ranks_(column));

function drawHead() {
  const line = element("tr");
  const add = (key, label, tooltip, text) => {
    const button = element("button", { type: "button", textContent: label.replace(" ", "\n"), title: tooltip });
    button.addEventListener("click", () => sortBy(key));
    const cell = element("th", { scope: "col", className: text === true ? "text" : text || "" }, button);
    cell.dataset.key = key;
    line.append(cell);
  };
  add("name", "recipe", "name and id of the configuration", true);
  add("rank", "rank", `place in the order of ${DATA.order}`);
  for (const column of RANKING_COLUMNS) add(column.key, column.label, column.tooltip);
  add("changes", "settings", "where it differs from its recipe's usual settings", "text settings");
  for (const column of OTHER_COLUMNS) add(column.key, column.label, column.tooltip);
  add("seeds", "seeds", "how many seeds were run");
  document.querySelector("#table thead").replaceChildren(line);
}

function sortBy(key) {
  const column = DATA.columns.find((each) => each.key === key);
  const first = Boolean(column) && !column.less;
  state.sort = { key, down: state.sort.key === key ? !state.sort.down : first };
  state.page = 0;
  drawTable();
}

function sorted(rows) {
  const { key, down } = state.sort;
  const read = (row) => (key in row ? row[key] : value(row, key));
  return [...rows].sort((a, b) => {
    const [x, y] = [read(a), read(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.rank - b.rank;
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return (down ? -order : order) || a.rank - b.rank;
  });
}

function drawTable() {
  const rows = sorted(visible());
  const pages = Math.max(1, Math.ceil(rows.length / LINES));
  state.page = Math.min(state.page, pages - 1);
  const best = {};
  for (const { key, less, decimals } of DATA.columns) best[key] = bestOf(rows.map((row) => value(row, key)), less, decimals);
  const shown = rows.slice(state.page * LINES, (state.page + 1) * LINES);
  document.querySelector("#table tbody").replaceChildren(...shown.map((row) => line(row, best)));
  for (const cell of document.querySelectorAll("#table thead th")) {
    const active = cell.dataset.key === state.sort.key;
    cell.ariaSort = active ? (state.sort.down ? "descending" : "ascending") : "none";
  }
  $("pager").hidden = pages === 1;
  $("place").textContent = `Page ${state.page + 1} of ${pages}`;
  $("previous").disabled = state.page === 0;
  $("next").disabled = state.page === pages - 1;
  showCount(rows.length);
}

/* The best of some values; none where more than a few look the same, as 100.0 % often does. */
function bestOf(values, less, decimals) {
  const known = values.filter((x) => x !== null);
  const best = less ? Math.min(...known) : Math.max(...known);
  return known.filter((x) => number(x, decimals) === number(best, decimals)).length > SHARED_BY ? null : best;
}

function line(row, best) {
  const box = element("input", { type: "checkbox", checked: state.picked.has(row.id) });
  box.ariaLabel = `Highlight ${row.id}`;
  box.addEventListener("change", () => pick(row.id, box.checked));
  const name = element("span", {}, row.name, element("br"));
  name.append(element("small", { textContent: row.id }), element("small", { className: "phone", textContent: row.changes }));
  const cells = [
    element("th", { scope: "row" }, element("label", {}, box, name)),
    element("td", { textContent: !DATA.selectOn || value(row, DATA.ranking) === null ? "–" : row.rank + 1 }),
    ...RANKING_COLUMNS.map((column) => measure(row, column, best[column.key])),
    element("td", { className: "text settings", textContent: row.changes || "as usual" }),
    ...OTHER_COLUMNS.map((column) => measure(row, column, best[column.key])),
    element("td", { textContent: row.seeds }),
  ];
  return element("tr", { className: state.picked.has(row.id) ? "picked" : "" }, ...cells);
}

function measure(row, { key, decimals: digits }, best) {
  const [mean, std] = row.values[key] || [null, null];
  const cell = element("td", { className: mean !== null && mean === best ? "best" : "" });
  cell.append(number(mean, digits));
  if (key === "selection" && row.tied) cell.append("*");
  if (std !== null && $("spread").value === "std") {
    cell.append(element("span", { className: "std", textContent: `±\u00a0${number(std, digits)}` }));
  }
  return cell;
}

function showCount(shown) {
  const all = thousands(DATA.rows.length);
  const reasons = [];
  if (state.tests.length) reasons.push("filter");
  if (state.brushes.size) reasons.push(state.brushes.size === 1 ? "1 brush" : `${state.brushes.size} brushes`);
  const by = reasons.length ? ` by ${reasons.join(" and ")}` : "";
  const picked = state.picked.size ? ` · ${state.picked.size} highlighted` : "";
  $("count").className = "";
  $("count").textContent = (reasons.length ? `${thousands(shown)} of ${all} configurations${by}`
    : `${all} configurations`) + picked;
}

function pick(id, on) {
  if (on) state.picked.add(id);
  else state.picked.delete(id);
  if (on && DATA.details[id] && id !== state.before) state.after = id;
  for (const box of document.querySelectorAll("#table tbody input")) {
    box.closest("tr").className = box.checked ? "picked" : "";
  }
  showCount(visible().length);
  drawPlots();
}

function filterBy(text) {
  try {
    state.tests = parseQuery(text);
  } catch (error) {
    $("count").className = "wrong";
    $("count").textContent = error.message;
    return;
  }
  state.page = 0;
  drawTable();
  drawPlots();
}
