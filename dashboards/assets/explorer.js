// What the explorer does in the browser alone.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  explorer: {
    theme: function (clicks) {
      const root = document.documentElement;
      if (clicks) {
        root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
        try { localStorage.setItem("automl-prune-theme", root.dataset.theme); } catch (error) { /* private window */ }
      }
      return root.dataset.theme || "light";
    },
    study_of_url: function (search, options, value) {
      const names = (options || []).map((option) => (typeof option === "string" ? option : option.value));
      const asked = new URLSearchParams(search || "").get("study");
      if (asked && names.includes(asked)) return asked;
      return value || names[0] || window.dash_clientside.no_update;
    },
    // Everything else waits for the front: it is what people came for.
    settle: function (figure, finished, settled) {
      const same = JSON.stringify(finished) === JSON.stringify(settled);
      return !finished || same ? window.dash_clientside.no_update : finished;
    },
    // A click is answered without asking the server which point it was.
    choose: function (click, number, presses, finished) {
      const cause = (window.dash_clientside.callback_context.triggered || [])[0];
      let found = null;
      if (cause && finished) {
        if (cause.prop_id === "front.clickData") {
          const point = click && click.points && click.points[0];
          found = point && Array.isArray(point.customdata) ? point.customdata[0] : null;
        } else if (cause.prop_id === "go-to.value") {
          found = number;
        } else if (cause.value) {
          found = JSON.parse(cause.prop_id.slice(0, cause.prop_id.lastIndexOf("."))).number;
        }
      }
      if (!Number.isInteger(found)) return window.dash_clientside.no_update;
      return { study: finished.slice(0, 2), numbers: [found] };
    },
    save_png: function (clicks) { return save(clicks, "png"); },
    save_svg: function (clicks) { return save(clicks, "svg"); },
  },
});
function save(clicks, format) {
  const box = document.querySelector("#front .js-plotly-plot");
  if (clicks && box && window.Plotly) {
    window.Plotly.downloadImage(box, { format: format, filename: "front", width: 1200, height: 700, scale: format === "png" ? 2 : 1 });
  }
  return "Save the figure as " + format.toUpperCase();
}
