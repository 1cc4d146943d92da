/* Several banks: the best of each recipe on each of them, and which one the rest of the page shows. */
function fillBanks() {
  if (!PAGE.banks) {
    $("banks").remove();
    return;
  }
  const { banks, metrics, metric, protocol, split } = PAGE.grid;
  $("shown-bank").replaceChildren(...banks.map((name, place) => new Option(name, place)));
  $("shown-bank").value = BANK;
  $("shown-bank").addEventListener("change", () => showBank(Number($("shown-bank").value)));
  $("grid-metric").replaceChildren(...metrics.map(({ key, label }) => new Option(label, key)));
  $("grid-metric").value = metric;
  $("grid-metric").addEventListener("change", drawBanks);
  $("grid-recipe").replaceChildren(...PAGE.grid.rows.map(({ name }) => new Option(name, name)));
  $("grid-recipe").addEventListener("change", () => ["bank-reliability", "bank-norms"].forEach(draw));
  $("grid-protocol").textContent = `Protocol: ${protocol}.`;
  $("grid-caption").firstChild.textContent = `On ${split}: the best configuration of each recipe, chosen by each bank's own selection. Bold: best of a bank, unless more than three share it. Small: ± over seeds, then minus and divided by the first bank.`;
  drawBanks();
}

/* Another bank is another page of the same file: reload it, at the same place. */
function showBank(place) {
  location.search = `?bank=${place}`;
}

function drawBanks() {
  const { banks, metrics, rows } = PAGE.grid;
  const { key, less, decimals, tooltip } = metrics.find((each) => each.key === $("grid-metric").value);
  const head = element("tr", {}, element("th", { scope: "col", className: "text", textContent: "recipe" }));
  for (const [place, name] of banks.entries()) {
    const button = element("button", { type: "button", textContent: name, title: `${tooltip}. Show ${name} below` });
    button.addEventListener("click", () => showBank(place));
    const cell = element("th", { scope: "col", className: place === BANK ? "shown" : "" }, button);
    if (place === BANK) cell.ariaCurrent = "true";
    head.append(cell);
  }
  document.querySelector("#grid thead").replaceChildren(head);
  const mean = (cell) => (cell && cell.values[key] ? cell.values[key][0] : null);
  const best = banks.map((_, place) => bestOf(rows.map((row) => mean(row.cells[place])), less, decimals));
  document.querySelector("#grid tbody").replaceChildren(...rows.map((row) => {
    const cells = row.cells.map((cell, place) => {
      const x = mean(cell);
      const td = element("td", { className: x !== null && x === best[place] ? "best" : "", title: cell ? cell.id : "" });
      td.append(number(x, decimals));
      if (x !== null && cell.tied) td.append("*");
      const std = cell && cell.values[key] ? cell.values[key][1] : null;
      if (std !== null) td.append(element("span", { className: "std", textContent: `±\u00a0${number(std, decimals)}` }));
      const first = mean(row.cells[0]);
      if (place && x !== null && first !== null) td.append(element("span", { className: "std", textContent: against(x, first, decimals) }));
      return td;
    });
    return element("tr", {}, element("th", { scope: "row", textContent: row.name }), ...cells);
  }));
}

/* A figure minus that of the first bank, and divided by it. */
function against(x, first, decimals) {
  const difference = x - first;
  const sign = difference < 0 ? "−" : "+";
  return `${sign}${number(Math.abs(difference), decimals)}${first ? `\u00a0×${number(x / first, 2)}` : ""}`;
}

/* The chosen recipe's best configuration on each bank that carries a detail of it. */
function onBanks(name) {
  const { banks, rows } = PAGE.grid;
  const row = rows.find((each) => each.name === $("grid-recipe").value);
  return banks.map((bank, place) => {
    const cell = row.cells[place];
    const detail = cell && PAGE.banks[place].details[cell.id]?.[name];
    return detail ? { role: bank, name: bank, label: plain(bank), detail, hue: PALETTE[theme()][place % 8], dashed: place % 2 === 1,
      symbol: SYMBOLS[place % SYMBOLS.length], ece: cell.values.ece ? cell.values.ece[0] : null } : null;
  }).filter(Boolean);
}

const MOST_BANKS = 4;

CHARTS["bank-reliability"] = () => {
  const shown = onBanks("reliability");
  const drawn = reliabilityOf(shown.slice(0, MOST_BANKS));
  return { ...drawn, caption: shown.length ? `${$("grid-recipe").value} on each bank${shown.length > MOST_BANKS ? `, the first ${MOST_BANKS} of ${shown.length}` : ""} (as MiSLAS, Fig. 1 and 4). ${drawn.caption}` : "The page carries no diagram of this recipe." };
};

CHARTS["bank-norms"] = () => {
  const same = PAGE.banks.every(({ classes }) => classes.counts.join() === PAGE.banks[0].classes.counts.join());
  const shown = same ? onBanks("weight_norm") : [];
  return { ...byClass(shown, "‖w‖ of a class", 3), caption: !same ? "The banks have other training counts, so their classes have no common order."
    : shown.length ? `Norm of each class's weight vector of ${$("grid-recipe").value} on each bank (as MiSLAS, Fig. 2, 13 and 14, with and without mixup), largest class left.`
    : "The head of this recipe has no weight vector per class, or the page does not carry its details." };
};
