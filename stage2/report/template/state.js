const PAGE = JSON.parse(document.getElementById("data").textContent);

/* A page of several banks shows one of them: its number is in the address, as ?bank=1. */
const BANK = PAGE.banks ? bankOf(new URLSearchParams(location.search).get("bank"), PAGE.banks.length) : 0;
const DATA = PAGE.banks ? PAGE.banks[BANK] : PAGE;

function bankOf(text, count) {
  const place = Math.trunc(Number(text)) || 0;
  return place >= 0 && place < count ? place : 0;
}

const $ = (id) => document.getElementById(id);

/* Rows by id; the reader's choices: filter, brushes by axis, ticked rows, order, two ids. */
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
const groupName = (group) => DATA.groupNames[group] ?? group;
const ALONE = countBy(DATA.rows, (row) => row.name);

function countBy(items, key) {
  const counts = new Map();
  for (const item of items) counts.set(key(item), (counts.get(key(item)) || 0) + 1);
  return counts;
}

const value = (row, key) => (row.values[key] ? row.values[key][0] : null);
const setting = (row, name) => row.settings[DATA.settings.indexOf(name)] ?? null;
const number = (x, digits = 1) => (x === null || x === undefined ? "–" : x.toFixed(digits));
const thousands = (n) => n.toLocaleString("en");
const brief = (x) => (typeof x === "number" ? String(Number(x.toPrecision(4))) : x === null ? "–" : x);

/* The short name of a configuration. */
function called(id) {
  const row = ROWS.get(id);
  return row && ALONE.get(row.name) === 1 ? row.name : id;
}

/* A text as plotly shows it unchanged; it interprets tags. */
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
    const match = part.match(/^([^\s"!<>=]+)\s*([!<>=]=|[<>=])\s*(.+)$/s);
    if (match) return comparison(match[1], match[2], unquoted(match[3]));
    const word = unquoted(part).toLowerCase();
    return (row) => row.searched.includes(word);
  });
}

const unquoted = (text) => text.replace(/^"|"$/g, "");

function comparison(name, sign, written) {
  const wanted = name.toLowerCase();
  const column = DATA.columns.find((each) =>
    [each.key, each.label].some((text) => text.toLowerCase() === wanted));
  const place = DATA.settings.findIndex((text) => text.toLowerCase() === wanted);
  const read = column ? (row) => value(row, column.key)
    : place >= 0 ? (row) => row.settings[place]
    : ["name", "id", "status", "seeds"].includes(wanted) ? (row) => row[wanted]
    : null;
  if (!read) throw new Error(`There is no column and no varied setting “${name}”.`);
  return (row) => {
    const known = read(row);
    if (known === null) return false;
    const [x, y] = typeof known === "number" ? [known, Number(written)] : [known, written];
    return { "=": x === y, "==": x === y, "!=": x !== y, "<": x < y, "<=": x <= y, ">": x > y,
      ">=": x >= y }[sign];
  };
}

for (const row of DATA.rows) {
  const settings = row.settings.map((x, i) => `${DATA.settings[i]}=${brief(x)}`);
  row.searched = [row.name, row.id, row.changes, row.status, ...settings].join(" ").toLowerCase();
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
  const first = new Map();
  for (const row of visible()) if (!first.has(row.name)) first.set(row.name, row);
  return [...first.values()];
}
