// The readout of every line chart: a vertical rule at the nearest point, and each curve's value there.
(() => {
  const unscale = ([low, high, log], p) => (log ? low * Math.pow(high / low, p) : low + (high - low) * p);
  const scale = ([low, high, log], v) =>
    log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low);
  const write = (v, percent) => {
    if (percent) return (100 * v).toFixed(1) + " %";
    const size = Math.abs(v);
    if (size && (size < 1e-3 || size >= 1e9)) return v.toExponential(3);
    return v.toLocaleString("en", { maximumSignificantDigits: Number.isInteger(v) ? 12 : 5 });
  };

  function nearest(series, x) {
    let low = 0, high = series.x.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (series.x[middle] < x) low = middle + 1; else high = middle;
    }
    let before = low - 1, after = low;
    while (before >= 0 && series.y[before] === null) before--;
    while (after < series.x.length && series.y[after] === null) after++;
    if (before < 0) return after < series.x.length ? after : null;
    if (after >= series.x.length) return before;
    return x - series.x[before] <= series.x[after] - x ? before : after;
  }

  // Of a scatter plot the one dot that is closest to the pointer.
  function closest(chart, box, across, down) {
    let best = null, least = Infinity;
    for (const series of chart.s) {
      series.x.forEach((x, i) => {
        if (series.y[i] === null) return;
        const distance = Math.hypot(
          scale(chart.x, x) * box.width - across, (1 - scale(chart.y, series.y[i])) * box.height - down);
        if (distance < least) [best, least] = [{ series, i }, distance];
      });
    }
    return best ? [best] : [];
  }

  function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const chart = JSON.parse(figure.dataset.chart);
    const plot = figure.querySelector(".plot");
    const layer = element("div", "readout");
    plot.append(layer);

    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const pointer = (event.clientX - box.left) / box.width;
      const x = unscale(chart.x, Math.min(Math.max(pointer, 0), 1));
      const chosen = chart.near
        ? closest(chart, box, event.clientX - box.left, event.clientY - box.top)
        : chart.s.map((series) => ({ series, i: nearest(series, x) }));
      const found = chosen
        .filter(({ i }) => i !== null)
        .map(({ series, i }) => ({ series, x: series.x[i], y: series.y[i], left: scale(chart.x, series.x[i]) }));
      if (!found.length) return;
      const at = found.reduce((a, b) => (Math.abs(b.left - pointer) < Math.abs(a.left - pointer) ? b : a));
      const tip = element("div", "tip");
      tip.append(element("b", "", `${chart.xl} ${chart.xn.length ? chart.xn[at.x] : write(at.x, false)}`));
      layer.replaceChildren();
      const rule = element("i", "rule");
      rule.style.left = `${100 * at.left}%`;
      layer.append(rule);
      for (const point of found) {
        // A curve with no point near this place is left out rather than shown with a value from elsewhere.
        if (Math.abs(point.left - at.left) * box.width > 12) continue;
        const dot = element("i", `dot c${point.series.c}`);
        dot.style.left = `${100 * point.left}%`;
        dot.style.top = `${100 * (1 - scale(chart.y, point.y))}%`;
        const line = element("span", `c${point.series.c}`);
        line.append(element("i", ""), `${point.series.n} `, element("b", "", write(point.y, chart.pc)));
        if (point.x !== at.x) line.append(` at ${write(point.x, false)}`);
        layer.append(dot);
        tip.append(line);
      }
      tip.style[at.left > 0.5 ? "right" : "left"] = `calc(${100 * (at.left > 0.5 ? 1 - at.left : at.left)}% + 12px)`;
      layer.append(tip);
    });
    plot.addEventListener("pointerleave", () => layer.replaceChildren());
  }
})();
