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
  $("grid-protocol").textContent = `Protocol: ${protocol}.`;
  $("grid-caption").firstChild.textContent = `On ${split}: the best configuration of each recipe, chosen by each bank's own selection. Bold: best of a bank.`;
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
  const best = banks.map((_, place) => {
    const known = rows.map((row) => mean(row.cells[place])).filter((x) => x !== null);
    return less ? Math.min(...known) : Math.max(...known);
  });
  document.querySelector("#grid tbody").replaceChildren(...rows.map((row) => {
    const cells = row.cells.map((cell, place) => {
      const x = mean(cell);
      const td = element("td", { className: x !== null && x === best[place] ? "best" : "", title: cell ? cell.id : "" });
      td.append(number(x, decimals));
      if (x !== null && cell.tied) td.append("*");
      const std = cell && cell.values[key] ? cell.values[key][1] : null;
      if (std !== null) td.append(element("span", { className: "std", textContent: `±\u00a0${number(std, decimals)}` }));
      return td;
    });
    return element("tr", {}, element("th", { scope: "row", textContent: row.name }), ...cells);
  }));
}
