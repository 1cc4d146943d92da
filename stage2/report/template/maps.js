/* Whole maps as pictures: truth, and of the chosen head prediction and difference. */
function fillMaps() {
  if (!DATA.maps) {
    $("maps").remove();
    return;
  }
  $("maps-head").replaceChildren(...DATA.heads.map((id, place) => new Option(called(id), place)));
  $("maps-head").closest(".controls").hidden = DATA.heads.length < 2;
  $("maps-head").addEventListener("change", drawMaps);
  drawMaps();
}

function drawMaps() {
  const { split, total, maps } = DATA.maps;
  const head = Number($("maps-head").value);
  const picture = (data, alt) => element("img", { src: `data:image/png;base64,${data}`, alt });
  $("pictures").replaceChildren(...maps.flatMap(({ image, truth, predicted, difference, right }) => {
    const shown = [["truth", truth], ["prediction", predicted[head]], ["difference", difference[head]]];
    return shown.map(([name, data], i) => element("div", {}, picture(data, `${name} of image ${image}`),
      element("small", { textContent: i === 0 ? `image ${image}` : i === 1 ? called(DATA.heads[head]) : `${number(right[head])} % of pixels right` })));
  }));
  $("maps-caption").textContent = `${maps.length} of ${thousands(total)} maps of ${split}, evenly over the split: truth, prediction and difference. ` +
    "Colours are of classes and repeat. In the difference, wrong pixels are black; white, and pale in the prediction, are pixels without a label.";
}
