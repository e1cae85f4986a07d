// Draws the figures of a static page in the reader's theme; colours are swapped by role.
(function () {
  "use strict";
  const content = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;

  function isDark() {
    return chosen === null ? wantsDark.matches : chosen;
  }
  function recolor(value, table) {
    if (typeof value === "string") return table[value] || value;
    if (Array.isArray(value)) return value.map((item) => recolor(item, table));
    if (value !== null && typeof value === "object") {
      const copy = {};
      for (const key of Object.keys(value)) copy[key] = recolor(value[key], table);
      return copy;
    }
    return value;
  }
  function narrow(layout, width) {
    if (width > 560) return layout;
    const copy = Object.assign({}, layout);
    copy.legend = Object.assign({}, layout.legend, { font: { size: 11 } });
    for (const axis of ["xaxis", "yaxis"]) {
      const title = layout[axis] && layout[axis].title;
      if (title) copy[axis] = Object.assign({}, layout[axis],
        { title: Object.assign({}, title, { font: Object.assign({}, title.font, { size: 11 }) }) });
    }
    copy.margin = Object.assign({}, layout.margin, { r: 8, l: 4 });
    return copy;
  }
  function shownFigure(box) {
    const picker = document.querySelector('select[data-for="' + box.id + '"]');
    return content.figures[picker ? picker.value + "/" + box.dataset.figure : box.dataset.figure];
  }
  function draw(box) {
    const figure = shownFigure(box);
    if (!figure) return;
    let data = figure.data, layout = figure.layout;
    if (isDark()) {
      data = recolor(data, content.swap);
      layout = recolor(layout, content.swap);
    }
    const config = { displaylogo: false, responsive: true, displayModeBar: box.clientWidth > 560 ? "hover" : false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { scale: 2, filename: box.id } };
    window.Plotly.react(box, data, narrow(layout, box.clientWidth), config);
  }
  function drawAll() {
    root.dataset.theme = isDark() ? "dark" : "light";
    document.querySelectorAll(".figure").forEach(draw);
  }
  wantsDark.addEventListener("change", drawAll);
  const button = document.getElementById("theme");
  if (button) button.addEventListener("click", function () { chosen = !isDark(); drawAll(); });
  document.querySelectorAll("select[data-for]").forEach(function (picker) {
    picker.addEventListener("change", function () {
      document.querySelectorAll('select[data-for]').forEach(function (other) { other.value = picker.value; });
      drawAll();
    });
  });
  drawAll();
})();
