// Client-side callbacks. Arguments and results match their registration in callbacks.py.
(() => {
  const skip = () => window.dash_clientside.no_update;
  const MAX_CORNERS = 150;
  // Names of PARTS in address.py, in the same order.
  const PARTS = ["k", "tab", "colour", "view", "metric", "from", "points", "select", "code"];

  const short = value => Number(value.toPrecision(5));

  const corners = selected => {
    if (selected.lassoPoints) {
      const {x, y} = selected.lassoPoints, step = Math.max(1, x.length / MAX_CORNERS);
      const kept = [...Array(Math.floor(x.length / step)).keys()].map(i => Math.floor(i * step));
      return kept.map(i => [x[i], y[i]]);
    }
    if (!selected.range) return [];
    const [left, right] = selected.range.x, [low, high] = selected.range.y;
    return [[left, low], [right, low], [right, high], [left, high]];
  };

  const explorer = {
    choose: presses => presses.some(count => count)
      ? window.dash_clientside.callback_context.triggered_id.value : skip(),

    press: (value, ids) => ids.map(id => String(id.value === value)),

    open: (tab, ids) => ids.map(id => id.part === tab ? "part" : "part away"),

    // A second point joins the first; a third starts over.
    pick: (click, picked) => {
      const point = click?.points?.[0];
      if (!point || point.curveNumber !== 0) return [skip(), skip()];
      const node = point.pointNumber;
      return [picked.length === 1 && picked[0] !== node ? [picked[0], node] : [node], null];
    },

    clear: presses => presses ? [[], "", []] : [skip(), skip(), skip()],

    outline: (selected, view, before) => {
      const found = selected ? corners(selected) : [];
      if (found.length > 2) return `outline ${view} ${found.flat().map(short).join(" ")}`;
      return !selected && before.startsWith("outline ") ? "" : skip();
    },

    showCode: (presses, code) => presses.some(count => count) ? [`code ${code}`, "latents"] : [skip(), skip()],

    place: (presses, codes) => presses ? [codes, "latents"] : [skip(), skip()],

    // A callback whose output is its own input is not called again, hence set_props.
    drawOn: next => { if (next) window.dash_clientside.set_props("drawing", {data: next}); },

    hover: hovered => {
      const point = hovered?.points?.[0];
      return point && point.curveNumber === 0 ? [true, point.bbox, point.pointNumber] : [false, skip(), skip()];
    },

    write: (...values) => {
      const address = new URLSearchParams();
      PARTS.forEach((name, i) => {
        const value = Array.isArray(values[i]) ? values[i].join(",") : values[i];
        if (value !== null && value !== undefined && value !== "") address.set(name, value);
      });
      window.history.replaceState(window.history.state, "", `?${address}`);
      return skip();
    },
  };
  window.dash_clientside = Object.assign({}, window.dash_clientside, {explorer});
})();
