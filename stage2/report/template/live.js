/* A head that moves: τ, the prior of the test set and a temperature, computed from stored logits. */
const LIVE_BINS = 15;
const LIVE = { labels: null, logits: [], rows: 0 };

function fillLive() {
  if (!DATA.live) {
    $("live").remove();
    return;
  }
  const { taus, heads } = DATA.live;
  $("live-head").replaceChildren(...DATA.heads.map((id, place) => new Option(called(id), place)));
  $("live-tau").max = taus.length - 1;
  $("live-prior").min = -DATA.shiftRatios.length;
  $("live-prior").max = DATA.shiftRatios.length;
  if (heads.some(({ temperatures }) => !temperatures)) $("live-temperature").closest("label").remove();
  for (const id of ["live-head", "live-tau", "live-prior", "live-known", "live-temperature"]) $(id)?.addEventListener("input", () => draw("live"));
  $("live-reset").addEventListener("click", () => {
    for (const id of ["live-tau", "live-prior"]) $(id).value = 0;
    for (const id of ["live-known", "live-temperature"]) if ($(id)) $(id).checked = false;
    draw("live");
  });
}

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

/* float16 as float32: sign, five bits of exponent, ten of fraction. */
function halves(buffer) {
  return Float32Array.from(new Uint16Array(buffer), (bits) => {
    const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  });
}

/* Decode labels, and the logits of a head when it is first looked at. */
function liveLogits(head) {
  LIVE.labels ??= new Uint32Array(bytesOf(DATA.live.labels));
  LIVE.rows = LIVE.labels.length;
  return (LIVE.logits[head] ??= halves(bytesOf(DATA.live.heads[head].logits)));
}

/* Log share of each class where the most tested one has `ratio` times the rows of the least; below 1 the largest classes are tested least. */
function logTarget(ratio) {
  const byCount = COUNTS.map((_, k) => k).sort((a, b) => COUNTS[b] - COUNTS[a] || a - b);
  const steps = COUNTS.map(() => 0);
  byCount.forEach((k, place) => { steps[k] = (-Math.log(ratio) * place) / Math.max(1, COUNTS.length - 1); });
  const total = Math.log(steps.reduce((sum, x) => sum + Math.exp(x), 0));
  return steps.map((x) => x - total);
}

/* Figures of softmax((z − τ log π) / T + shift), rows weighted by weight of their class: [K]. */
function measureLive(logits, { tau, temperature, shift, weight }) {
  const classes = COUNTS.length, { labels, rows } = LIVE, { logPrior } = DATA.live;
  const right = new Float64Array(classes), tested = new Float64Array(classes);
  const bins = [0, 1, 2].map(() => new Float64Array(LIVE_BINS));
  const a = logPrior.map((x, k) => shift[k] - (tau * x) / temperature);
  let [all, hits, nll] = [0, 0, 0];
  for (let i = 0; i < rows; i += 1) {
    const start = i * classes;
    let [best, most, sum] = [0, -Infinity, 0];
    for (let k = 0; k < classes; k += 1) {
      const z = logits[start + k] / temperature + a[k];
      if (z > most) [best, most] = [k, z];
    }
    for (let k = 0; k < classes; k += 1) sum += Math.exp(logits[start + k] / temperature + a[k] - most);
    const y = labels[i], w = weight[y];
    const confidence = 1 / sum, hit = best === y ? 1 : 0;
    const bin = Math.max(0, Math.ceil(confidence * LIVE_BINS) - 1);
    bins[0][bin] += w; bins[1][bin] += w * confidence; bins[2][bin] += w * hit;
    all += w; hits += w * hit; tested[y] += 1; right[y] += hit;
    nll += w * (most + Math.log(sum) - logits[start + y] / temperature - a[y]);
  }
  const mean = (members) => {
    const known = members.filter((k) => tested[k]);
    return known.length ? (100 * known.reduce((total, k) => total + right[k] / tested[k], 0)) / known.length : null;
  };
  const every = COUNTS.map((_, k) => k);
  return {
    accuracy: (100 * hits) / all, macro: mean(every), nll: nll / all,
    ...Object.fromEntries(GROUPS.map((group) => [group, mean(every.filter((k) => DATA.classes.group[k] === group))])),
    ece: (100 * bins[0].reduce((sum, _, b) => sum + Math.abs(bins[1][b] - bins[2][b]), 0)) / all,
    reliability: [[...bins[0]].map(Math.round), ...[1, 2].map((line) => [...bins[line]].map((x, b) => (bins[0][b] ? (100 * x) / bins[0][b] : null)))],
  };
}

/* The reader's choices as `measureLive` takes them, and the words for them. */
function liveChoice(head) {
  const [place, step] = [Number($("live-prior").value), Number($("live-tau").value)];
  const ratio = place ? DATA.shiftRatios[Math.abs(place) - 1] ** Math.sign(place) : 1;
  const target = logTarget(ratio);
  const tempered = $("live-temperature")?.checked;
  const tau = DATA.live.taus[step], temperature = tempered ? DATA.live.heads[head].temperatures[step] : 1;
  const rows = new Float64Array(COUNTS.length);
  for (const y of LIVE.labels) rows[y] += 1;
  const weight = place ? target.map((x, k) => (rows[k] ? (Math.exp(x) * LIVE.rows) / rows[k] : 0)) : COUNTS.map(() => 1);
  const shift = place && $("live-known").checked ? target : COUNTS.map(() => 0);
  return { tau, temperature, shift, weight,
    words: { tau: `τ = ${tau}`, prior: place ? `${place < 0 ? "1:" : ""}${DATA.shiftRatios[Math.abs(place) - 1]}${place > 0 ? ":1" : ""}` : "as tested", temperature: tempered ? `T = ${brief(temperature)}` : "off" } };
}

CHARTS.live = () => {
  const head = Number($("live-head").value);
  const logits = liveLogits(head);
  const choice = liveChoice(head);
  const still = { tau: 0, temperature: 1, shift: COUNTS.map(() => 0), weight: COUNTS.map(() => 1) };
  const [before, after] = [measureLive(logits, still), measureLive(logits, choice)];
  for (const [name, text] of Object.entries(choice.words)) if ($(`live-${name}-text`)) $(`live-${name}-text`).textContent = text;
  $("live-prior").setAttribute("aria-valuetext", choice.words.prior);
  $("live-tau").setAttribute("aria-valuetext", choice.words.tau);
  const shown = [["accuracy", "accuracy, %", 1], ["macro", "macro, %", 1], ...GROUPS.map((group) => [group, `${groupName(group)}, %`, 1]), ["ece", "ECE, %", 1], ["nll", "NLL, nats", 3]]
    .filter(([key]) => after[key] !== null);
  $("live-figures").replaceChildren(...shown.map(([key, label, digits]) => element("div", {}, element("dt", { textContent: label }),
    element("dd", {}, number(after[key], digits), element("small", { textContent: `${signed(after[key] - before[key], digits)} from the head as it is` })))));
  const of = (role, { ece, reliability }) => ({ role, name: role === "before" ? "as it is" : "moved", ece, detail: reliability });
  const { split, total } = DATA.live;
  return {
    ...reliabilityOf([of("before", before), of("after", after)]),
    caption: `${called(DATA.heads[head])} on ${LIVE.rows < total ? `${thousands(LIVE.rows)} of ${thousands(total)}` : thousands(total)} rows of ${split}, computed here from its logits z: softmax((z − τ log π) / T + log π′). ` +
      "Another prior weights the rows by class, so that accuracy, ECE and NLL are those of such a test set; a head that knows it adds its logarithm. " +
      "Macro and groups weigh every class alike. T is fitted to val at each τ.",
    numbers: [["figure", "as it is", "moved"], shown.map(([key, label]) => [label, before[key], after[key]])],
  };
};
