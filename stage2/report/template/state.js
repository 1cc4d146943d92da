const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/* Rows by id; what the reader has chosen: filter, brushes by axis, ticked rows, order, two ids. */
const ROWS = new Map(DATA.rows.map((row, rank) => [row.id, Object.assign(row, { rank })]));
const state = {
  tests: [],
  brushes: new Map(),
  picked: new Set(),
  sort: { key: "rank", down: false },
  page: 0,
  before: null,
  after: null,
};
const GROUPS = Object.keys(DATA.groups);
const ALONE = countBy(DATA.rows, (row) => row.name);

function countBy(items, key) {
  const found = new Map();
  for (const item of items) found.set(key(item), (found.get(key(item)) || 0) + 1);
  return found;
}

const value = (row, key) => (row.values[key] ? row.values[key][0] : null);
const setting = (row, name) => row.settings[DATA.settings.indexOf(name)] ?? null;
const number = (x, digits = 1) => (x === null || x === undefined ? "–" : x.toFixed(digits));
const thousands = (n) => n.toLocaleString("en");
const brief = (x) => (typeof x === "number" ? String(Number(x.toPrecision(4))) : x === null ? "–" : x);

/* How a configuration is called where there is little room. */
function called(id) {
  const row = ROWS.get(id);
  return ALONE.get(row.name) === 1 ? row.name : row.id;
}

/* A text for plotly, which reads some tags: shown as written. */
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function clipped(text, most = 28) {
  return text.length > most ? text.slice(0, most - 1) + "…" : text;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/* Filter: words and comparisons, all of which must hold. */
function parseQuery(text) {
  const parts = text.match(/[^\s"!<>=]+\s*(?:[!<>=]=|[<>=])\s*(?:"[^"]*"|\S+)|"[^"]*"|\S+/g) || [];
  const whole = parts.filter((part) => !/[!<>=]$/.test(part)); // the last one may still be typed
  return whole.map((part) => {
    const found = part.match(/^([^\s"!<>=]+)\s*([!<>=]=|[<>=])\s*(.+)$/s);
    if (found) return comparison(found[1], found[2], unquoted(found[3]));
    const word = unquoted(part).toLowerCase();
    return (row) => row.searched.includes(word);
  });
}

const unquoted = (text) => text.replace(/^"|"$/g, "");

function comparison(name, sign, written) {
  const wanted = name.toLowerCase();
  const column = DATA.columns.find((each) =>
    [each.key, each.label].some((own) => own.toLowerCase() === wanted));
  const place = DATA.settings.findIndex((own) => own.toLowerCase() === wanted);
  const read = column ? (row) => value(row, column.key)
    : place >= 0 ? (row) => row.settings[place]
    : ["name", "id", "status", "seeds"].includes(wanted) ? (row) => row[wanted]
    : null;
  if (!read) throw new Error(`There is no column and no varied setting “${name}”.`);
  return (row) => {
    const own = read(row);
    if (own === null) return false;
    const [x, y] = typeof own === "number" ? [own, Number(written)] : [own, written];
    return { "=": x === y, "==": x === y, "!=": x !== y, "<": x < y, "<=": x <= y, ">": x > y,
      ">=": x >= y }[sign];
  };
}

for (const row of DATA.rows) {
  const own = row.settings.map((x, i) => `${DATA.settings[i]}=${brief(x)}`);
  row.searched = [row.name, row.id, row.told, row.status, ...own].join(" ").toLowerCase();
}

const brushed = (row) => [...state.brushes.values()].every((holds) => holds(row));
const filtered = () => DATA.rows.filter((row) => state.tests.every((test) => test(row)));
const visible = () => filtered().filter(brushed);

/* Visible configurations whose details the page carries, best first; the ticked ones if any are. */
function detailed() {
  return visible().filter((row) => DATA.details[row.id]);
}

function isFaint(id) {
  return state.picked.size > 0 && !state.picked.has(id);
}

/* Best visible configuration of every recipe, best first. */
function bestOfEach() {
  const found = new Map();
  for (const row of visible()) if (!found.has(row.name)) found.set(row.name, row);
  return [...found.values()];
}
